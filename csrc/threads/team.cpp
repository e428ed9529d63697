#include "threads/team.h"

#include <pthread.h>
#include <signal.h>
#if defined(__linux__)
#include <sched.h>
#endif

#include <chrono>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "simd/fpenv.h"

namespace gradfold {
namespace {

// One parked thread. It owns itself: the thread object is detached, and a worker is only ever reached through the lease.
struct Worker {
  std::mutex mutex;
  std::condition_variable wake;
  std::function<void()> job;

  void start() {
    std::thread([this] { loop(); }).detach();
  }
  void give(std::function<void()> work) {
    {
      std::lock_guard<std::mutex> lock(mutex);
      job = std::move(work);
    }
    wake.notify_one();
  }

 private:
  void loop() {
    for (;;) {
      std::function<void()> work;
      {
        std::unique_lock<std::mutex> lock(mutex);
        wake.wait(lock, [this] { return static_cast<bool>(job); });
        work = std::move(job);
        job = nullptr;
      }
      FloatingPointGuard guard;
      work();
    }
  }
};

struct Cache {
  std::mutex mutex;
  std::vector<Worker*> idle;
  std::size_t made = 0;  // idle has room for all of them, so that giving back cannot fail
};

// Never destroyed: parked workers may outlive static destructors. Replaced, not reused, in the child of a fork, where
// the workers do not exist and the mutex may have been held by a thread that is gone.
std::atomic<Cache*> cache{nullptr};

Cache& current_cache() {
  static std::once_flag once;
  std::call_once(once, [] {
    cache.store(new Cache);
    pthread_atfork(nullptr, nullptr, [] { cache.store(new Cache); });
  });
  return *cache.load();
}

// Signals belong to the program's own threads: a worker must never be the one that receives SIGINT.
class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t all;
    sigfillset(&all);
    for (int own : {SIGSEGV, SIGBUS, SIGFPE, SIGILL}) sigdelset(&all, own);  // faults are the thread's own
    pthread_sigmask(SIG_SETMASK, &all, &saved_);
  }
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &saved_, nullptr); }

 private:
  sigset_t saved_;
};

// For the proof of the performance gate alone: one body works at a time. It is let go while a body waits for the others.
#ifdef GRADFOLD_PLANT_LOCK
std::mutex planted;
#endif

class Lease {
 public:
  explicit Lease(int n) : home_(current_cache()) {
    {
      std::lock_guard<std::mutex> lock(home_.mutex);
      while (static_cast<int>(workers_.size()) < n && !home_.idle.empty()) {
        workers_.push_back(home_.idle.back());
        home_.idle.pop_back();
      }
    }
    SignalsBlocked blocked;
    try {
      while (static_cast<int>(workers_.size()) < n) {
        {
          std::lock_guard<std::mutex> lock(home_.mutex);
          home_.idle.reserve(++home_.made);
        }
        auto worker = std::make_unique<Worker>();
        workers_.reserve(workers_.size() + 1);
        worker->start();
        workers_.push_back(worker.release());
      }
    } catch (...) {
      give_back();
      throw;
    }
  }
  ~Lease() { give_back(); }
  Worker& operator[](int i) { return *workers_[i]; }

 private:
  void give_back() {
    std::lock_guard<std::mutex> lock(home_.mutex);
    home_.idle.insert(home_.idle.end(), workers_.begin(), workers_.end());
  }
  Cache& home_;
  std::vector<Worker*> workers_;
};

}  // namespace

int available_cores() {
#if defined(__linux__)
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0) {
    const int n = CPU_COUNT(&set);
    if (n > 0) return n;
  }
#endif
  const unsigned n = std::thread::hardware_concurrency();
  return n > 0 ? static_cast<int>(n) : 1;
}

void run_team(int n_threads, const std::function<void(int)>& body, const std::function<void()>& poll) {
  const bool caller_works = !poll;
  if (n_threads <= 1 && caller_works) {
    FloatingPointGuard guard;
    body(0);
    return;
  }
  const int first = caller_works ? 1 : 0;  // body(first) .. body(n_threads-1) run on leased workers
  struct Shared {
    std::mutex mutex;
    std::condition_variable finished;
    int running;
    std::exception_ptr error;
  } shared;
  shared.running = n_threads - first;
  auto guarded = [&shared, &body](int i) {
    try {
#ifdef GRADFOLD_PLANT_LOCK
      std::lock_guard<std::mutex> planted_lock(planted);
#endif
      body(i);
    } catch (...) {
      std::lock_guard<std::mutex> lock(shared.mutex);
      if (!shared.error) shared.error = std::current_exception();
    }
  };
  {
    std::vector<std::function<void()>> jobs;  // all made before the first is given: nothing may fail while workers run
    for (int i = first; i < n_threads; ++i)
      jobs.emplace_back([&shared, &guarded, i] {
        guarded(i);
        // Notify under the lock: `shared` lives on the stack of a caller that returns as soon as it sees zero.
        std::lock_guard<std::mutex> lock(shared.mutex);
        if (--shared.running == 0) shared.finished.notify_one();
      });
    Lease lease(n_threads - first);
    for (int i = 0; i < n_threads - first; ++i) lease[i].give(std::move(jobs[i]));
    if (caller_works) {
      FloatingPointGuard guard;
      guarded(0);
    }
    std::unique_lock<std::mutex> lock(shared.mutex);
    while (shared.running > 0) {
      if (caller_works) {
        shared.finished.wait(lock);
      } else if (shared.finished.wait_for(lock, std::chrono::milliseconds(50)) == std::cv_status::timeout) {
        lock.unlock();
        poll();  // must not throw
        lock.lock();
      }
    }
  }
  if (shared.error) std::rethrow_exception(shared.error);
}

namespace {
// A short spin covers the usual case of threads that arrive together. There may be more threads than cores, ours or others', so the thread
// then gives way to whoever waits for its core, which may be the one that it waits for, and in the end it sleeps.
template <class Value>
void wait_while_equal(const std::atomic<Value>& value, Value old) {
  for (int look = 0; look < 500; ++look) {
    if (value.load(std::memory_order_acquire) != old) return;
    if (look >= 400) std::this_thread::yield();
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }
  value.wait(old, std::memory_order_acquire);
}
}  // namespace

void Barrier::wait() {
  const std::uint32_t phase = phase_.load(std::memory_order_acquire);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == n_) {
    arrived_.store(0, std::memory_order_relaxed);
    phase_.store(phase + 1);
    phase_.notify_all();
    return;
  }
#ifdef GRADFOLD_PLANT_LOCK
  planted.unlock();
#endif
  while (phase_.load(std::memory_order_acquire) == phase) wait_while_equal(phase_, phase);
#ifdef GRADFOLD_PLANT_LOCK
  planted.lock();
#endif
}

void OrderedItems::reached(std::int64_t i) {
  for (;;) {
    const std::int64_t now = committed_.load(std::memory_order_acquire);
    if (now >= i) return;
    wait_while_equal(committed_, now);
  }
}

void OrderedItems::done(std::int64_t i) {
  committed_.store(i + 1, std::memory_order_release);
  committed_.notify_all();
}

}  // namespace gradfold
