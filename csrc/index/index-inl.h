// All loops of one level. Include only from index_<level>.cpp.
#pragma once
#include "index/folds-inl.h"
#include "index/permutation-inl.h"

namespace gradfold {
namespace {

constexpr IndexKernels kKernels{fill, map, pack};

}  // namespace
}  // namespace gradfold
