// The half lanes of a level. Include after the level's lanes; internal linkage throughout.
#pragma once
#include <type_traits>

namespace gradfold {
namespace {

// The half lanes of L where there are any, else L itself, which is then never called for a panel of half a vector.
template <class L>
using HalfOf = std::conditional_t<std::is_void_v<typename L::Half>, L, typename L::Half>;

}  // namespace
}  // namespace gradfold
