// How models are laid out in panels of whole vectors, and the aligned memory panels live in.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

namespace gradfold {

// Memory aligned to a cache line, zeroed; freed with the object.
template <class T>
class AlignedArray {
 public:
  AlignedArray() = default;
  explicit AlignedArray(std::int64_t n) : size_(n) {
    const std::size_t bytes = (static_cast<std::size_t>(n) * sizeof(T) + 63) / 64 * 64;
    data_.reset(static_cast<T*>(std::aligned_alloc(64, bytes == 0 ? 64 : bytes)));
    if (!data_) throw std::bad_alloc();
    for (std::int64_t i = 0; i < n; ++i) data_.get()[i] = T();
  }
  T* get() const { return data_.get(); }
  T& operator[](std::int64_t i) const { return data_.get()[i]; }
  std::int64_t size() const { return size_; }
  explicit operator bool() const { return static_cast<bool>(data_); }

 private:
  struct Free {
    void operator()(void* p) const { std::free(p); }
  };
  std::unique_ptr<T[], Free> data_;
  std::int64_t size_ = 0;
};

// Widths, in vectors and each at most `most`, of the panels that hold n_models: as few panels as possible and as even as possible (7
// vectors are 3 + 2 + 2), since a narrow panel has fewer FMAs for each load. Where half vectors exist, the rest of the
// models fits into one and the other panels are full, it gets a panel of its own, kHalfVector wide.
std::vector<int> panel_widths(std::int64_t n_models, int lanes, bool has_half, int most);

// Vectors of a panel of several outputs: five blocks, so that few lanes of the last one stay empty.
constexpr int kOutputVectors = 15;

// Models of such a panel: as many as fit, at least one, evenly over the panels.
std::int64_t output_panel_models(std::int64_t n_models, std::int64_t n_outputs, int lanes);

}  // namespace gradfold
