// Threads for the kernels: a cache of std::thread workers, leased by the job. No OpenMP: libgomp does not survive a fork.
#pragma once
#include <atomic>
#include <cstdint>
#include <functional>

namespace gradfold {

// Cores that this process may run on (its affinity mask), at least 1.
int available_cores();

// Calls body(0) ... body(n_threads - 1), each on a worker of its own, and returns when all have returned. Every worker runs with
// the floating-point environment of FloatingPointGuard and with signals blocked. While it waits, the calling thread calls
// `poll` about every 50 ms (pass {} for none; then body(0) runs on the calling thread). The first exception of a body is
// rethrown here. Any number of threads may call this at once: each call has workers of its own, so that a barrier
// inside `body` cannot deadlock, whatever n_threads is. After a fork the child starts with an empty cache.
void run_team(int n_threads, const std::function<void(int)>& body, const std::function<void()>& poll = {});

// A reusable barrier for the n threads of one team.
class Barrier {
 public:
  explicit Barrier(int n) : n_(n) {}
  void wait();

 private:
  const int n_;
  std::atomic<int> arrived_{0};
  std::atomic<std::uint32_t> phase_{0};
};

// Work items 0, 1, 2, ... taken by any thread, whose results are committed in item order. take() hands out the next item;
// a thread that has computed item i calls turn(i), which returns when all items below i are committed, and then done(i). Between
// take() and done() nothing may throw or return: the other threads would wait for that item for ever. So allocate before.
class OrderedItems {
 public:
  void reset() {
    next_.store(0, std::memory_order_relaxed);
    committed_.store(0, std::memory_order_relaxed);
  }
  std::int64_t take() { return next_.fetch_add(1, std::memory_order_relaxed); }
  void turn(std::int64_t i) { reached(i); }
  // Returns when all items below i are committed.
  void reached(std::int64_t i);
  void done(std::int64_t i);

 private:
  std::atomic<std::int64_t> next_{0};
  std::atomic<std::int64_t> committed_{0};
};

}  // namespace gradfold
