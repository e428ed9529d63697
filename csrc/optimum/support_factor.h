// The Cholesky factor of the equations of a support, of one model.
#pragma once
#include <algorithm>
#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "gradient/panels.h"
#include "optimum/models.h"

namespace gradfold {

constexpr std::int64_t kMostColumns = 5000;  // whose products with each other are held: 200 MB

inline std::int64_t whole_groups(std::int64_t n) { return (n + kGroup - 1) / kGroup * kGroup; }

// It follows its support: what joins is added at its end, and from the first column that has left it is made anew. The columns are in the
// order in which they joined.
// Of more columns than rows, with l2, it is that of rows instead: with Z'Z = matrix, (Z'Z + l2) x = b where x = (b - Z'u) / l2 and
// (ZZ' + l2) u = Z b (as in W. W. Hager, "Updating the inverse of a matrix", 1989). What joins is then added to ZZ', and what leaves is
// taken from it.
class SupportFactor {
 public:
  // values(a) is column a of Z, [n_rows], a multiple of kGroup; where there is none, n_rows is 0.
  explicit SupportFactor(const OptimumKernels& kernels, std::int64_t n_rows = 0, std::function<const double*(std::int64_t)> values = {})
      : kernels_(kernels), n_rows_(n_rows), values_(std::move(values)) {}

  // What `follow` would keep of another one for this l2.
  void start_from(const SupportFactor& other, double l2) {
    own_.clear();
    of_rows_ = other.of_rows_;
    if (of_rows_) {
      own_ = other.own_;
      largest_ = other.largest_;
      changes_ = other.changes_;
      become_of_rows();
      copy_triangle(other.products_.get(), rows_stride(), n_rows_, products_.get(), rows_stride());
      l2_ = -1;
      return;
    }
    if (other.l2_ != l2 || other.trace_ != 0) return;
    own_ = other.own_;
    l2_ = l2;
    trace_ = 0;
    const std::int64_t n = static_cast<std::int64_t>(own_.size());
    grow(n, 0);
    copy_triangle(other.factor_.get(), other.stride_, n, factor_.get(), stride_);
  }
  std::int64_t stride() const { return std::max(stride_, whole_groups(static_cast<std::int64_t>(own_.size()))); }
  double trace() const { return trace_; }

  // The factor of matrix + l2 on those of n columns that are in the support, or, where those have no one solution, as copies or more
  // columns than rows do not, of what a trace of l2 makes of it. Returns the columns.
  template <class Has>
  const std::vector<std::int64_t>& follow(const double* matrix, std::int64_t stride, std::int64_t n, double l2, Has&& has) {
    std::int64_t size = 0;
    double largest = 0;
    for (std::int64_t a = 0; a < n; ++a) {
      if (!has(a)) continue;
      ++size;
      largest = std::max(largest, matrix[a * stride + a]);
    }
    if (suits_rows(size, l2, largest)) {
      follow_of_rows(matrix, stride, n, l2, largest, has);
      return own_;
    }
    known_.assign(n, 0);
    std::size_t kept = 0;
    if (l2 == l2_ && trace_ == 0 && !of_rows_)
      while (kept < own_.size() && own_[kept] < n && has(own_[kept])) known_[own_[kept++]] = 1;
    own_.resize(kept);
    for (std::int64_t a = 0; a < n; ++a)
      if (!known_[a] && has(a)) own_.push_back(a);
    l2_ = l2;
    trace_ = 0;
    of_rows_ = false;
    products_ = {};
    if (make(matrix, stride, static_cast<std::int64_t>(kept)) == 0) return own_;
    trace_ = kTrace * largest;
    make(matrix, stride, 0);
    return own_;
  }
  // b [stride()] becomes the solution.
  void solve(double* b) const {
    const std::int64_t n = static_cast<std::int64_t>(own_.size());
    if (!of_rows_) {
      kernels_.model_solve(factor_.get(), n, stride_, b);
      return;
    }
    AlignedArray<double> u(n_rows_), product(n);
    for (std::int64_t i = 0; i < n; ++i) product[i] = -b[i];
    kernels_.subtract_products(product.get(), columns_.data(), n, n_rows_, u.get());
    kernels_.model_solve(factor_.get(), n_rows_, stride_, u.get());
    const double* const only = u.get();
    kernels_.products(&only, 1, columns_.data(), n, n_rows_, product.get(), n);
    for (std::int64_t i = 0; i < n; ++i) b[i] = (b[i] - product[i]) / l2_;
  }

 private:
  // Where it costs less, which depends on whether their products are there, and l2 is not lost beside the products that it is added to.
  bool suits_rows(std::int64_t size, double l2, double largest) const {
    const double rows = static_cast<double>(n_rows_) * (of_rows_ ? kRowsAtHand : kRowsAnew);
    return n_rows_ > 0 && static_cast<double>(size) > rows && l2 > kLeastL2 * largest;
  }
  template <class Has>
  void follow_of_rows(const double* matrix, std::int64_t stride, std::int64_t n, double l2, double largest, Has&& has) {
    known_.assign(n, 0);
    columns_.clear();
    factors_.clear();
    if (of_rows_)
      for (const std::int64_t a : own_) {
        known_[a] = 1;
        if (!has(a)) change(a, -1);
      }
    own_.clear();
    for (std::int64_t a = 0; a < n; ++a) {
      if (!has(a)) continue;
      own_.push_back(a);
      if (!known_[a]) change(a, 1);
    }
    const std::int64_t size = static_cast<std::int64_t>(own_.size());
    const bool same = of_rows_ && columns_.empty() && l2 == l2_;
    changes_ += static_cast<std::int64_t>(columns_.size());
    largest_ = std::max(largest, largest_);
    if (!of_rows_ || 2 * static_cast<std::int64_t>(columns_.size()) > size || changes_ > kChanges * size || !(l2 > kLeastL2 * largest_)) {
      columns_.clear();
      factors_.clear();
      for (const std::int64_t a : own_) change(a, 1);
      products_ = {};  // become_of_rows() makes them, from +0
      changes_ = 0;
      largest_ = largest;
    }
    of_rows_ = true;
    l2_ = l2;
    trace_ = 0;
    become_of_rows();
    kernels_.add_row_products(factors_.data(), columns_.data(), static_cast<std::int64_t>(columns_.size()), n_rows_, rows_stride(),
                              products_.get());
    columns_.clear();
    for (const std::int64_t a : own_) columns_.push_back(values_(a));
    if (same) return;
    copy_triangle(products_.get(), rows_stride(), n_rows_, factor_.get(), stride_);
    for (std::int64_t i = 0; i < n_rows_; ++i) factor_[i * stride_ + i] += l2;
    diagonal_.resize(n_rows_);
    kernels_.model_factor(factor_.get(), 0, n_rows_, stride_, drop_limit(n_rows_), diagonal_.data());
  }
  void change(std::int64_t a, double factor) {
    columns_.push_back(values_(a));
    factors_.push_back(factor);
  }
  // The upper triangles of n rows.
  static void copy_triangle(const double* from, std::int64_t from_stride, std::int64_t n, double* to, std::int64_t to_stride) {
    for (std::int64_t i = 0; i < n; ++i) std::copy_n(from + i * from_stride + i, n - i, to + i * to_stride + i);
  }
  std::int64_t rows_stride() const { return n_rows_ + kGroup; }
  void become_of_rows() {
    if (!products_) products_ = AlignedArray<double>(n_rows_ * rows_stride());
    if (factor_ && stride_ == rows_stride()) return;
    factor_ = AlignedArray<double>(n_rows_ * rows_stride());  // smaller than that of columns
    stride_ = rows_stride();
  }
  void grow(std::int64_t size, std::int64_t kept) {
    if (size + kGroup <= stride_) return;
    const std::int64_t wider = whole_groups(std::max(size, std::min(size + size / 4, kMostColumns))) + kGroup;
    AlignedArray<double> factor(wider * wider);
    for (std::int64_t i = 0; i < kept; ++i) std::copy_n(factor_.get() + i * stride_, kept, factor.get() + i * wider);
    factor_ = std::move(factor);
    stride_ = wider;
  }
  // The first `kept` rows and columns stand.
  std::int64_t make(const double* matrix, std::int64_t stride, std::int64_t kept) {
    const std::int64_t n = static_cast<std::int64_t>(own_.size());
    grow(n, kept);
    for (std::int64_t i = 0; i < n; ++i) {
      const double* from = matrix + own_[i] * stride;
      double* to = factor_.get() + i * stride_;
      for (std::int64_t j = std::max(i, kept); j < n; ++j) to[j] = from[own_[j]];
      if (i >= kept) to[i] += l2_ + trace_;
    }
    diagonal_.resize(n);
    return kernels_.model_factor(factor_.get(), kept, n, stride_, drop_limit(n), diagonal_.data());
  }

  static constexpr double kTrace = 1e-10;   // of the largest diagonal element, where the equations of a support have no one solution
  static constexpr double kLeastL2 = 1e-4;  // of the largest diagonal element, below which the equations are not turned into those of rows
  static constexpr double kRowsAtHand = 1.1, kRowsAnew = 1.4;  // columns for a row
  static constexpr std::int64_t kChanges = 8;                  // times the support: so much rounding gathers in the products of rows

  const OptimumKernels& kernels_;
  std::vector<std::int64_t> own_;
  std::vector<char> known_;
  std::vector<double> diagonal_;
  AlignedArray<double> factor_;
  std::int64_t stride_ = 0;
  double l2_ = -1, trace_ = 0;
  // Of rows: their products, without l2, and what they are the products of.
  const std::int64_t n_rows_;
  const std::function<const double*(std::int64_t)> values_;
  bool of_rows_ = false;
  AlignedArray<double> products_;
  std::vector<const double*> columns_;
  std::vector<double> factors_;
  double largest_ = 0;        // diagonal element of what they have been made of
  std::int64_t changes_ = 0;  // columns added and taken since they were made anew
};

}  // namespace gradfold
