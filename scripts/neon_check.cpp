// Prints, for one level, whether its lanes agree with plain C++ and the bits of every maths function over a fixed set
// of inputs, so that two levels (or two architectures) can be compared by comparing their outputs as text.
// Used by scripts/neon_check.sh.
#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "simd/simd.h"

namespace {

using gradfold::Level;
using gradfold::MathFunction;

struct Named {
  const char* name;
  MathFunction function;
};
// The narrowed functions leave the payload of a NaN open, so they are compared through their equals in the tests.
constexpr Named kFunctions[] = {
    {"exp", MathFunction::exp}, {"log", MathFunction::log}, {"log1p", MathFunction::log1p}, {"cos", MathFunction::cos}};

// A multiplicative generator: any fixed bit patterns will do here.
std::uint64_t next(std::uint64_t& state) {
  state = state * 6364136223846793005ull + 1442695040888963407ull;
  return state ^ state >> 29;
}

template <class T, class Bits>
std::vector<T> inputs() {
  std::vector<T> x;
  std::uint64_t state = 2024;
  for (int i = 0; i < 20000; ++i) {
    const Bits bits = static_cast<Bits>(next(state) >> (64 - 8 * sizeof(T)));
    T value;
    std::memcpy(&value, &bits, sizeof value);
    x.push_back(value);
    x.push_back(static_cast<T>((static_cast<double>(next(state) >> 11) * 0x1p-53 - 0.5) * 220));
    x.push_back(static_cast<T>(static_cast<double>(next(state) >> 11) * 0x1p-53 * 2 - 1));
  }
  for (double special : {0.0, -0.0, 1.0, -1.0, 65536.0, -65536.0, 1e300, -1e300}) x.push_back(static_cast<T>(special));
  return x;
}

template <class T, class Bits>
void print(Level level, const char* type) {
  const std::vector<T> x = inputs<T, Bits>();
  std::vector<T> y(x.size());
  for (const Named& named : kFunctions) {
    gradfold::math_apply(level, named.function, x.data(), y.data(), static_cast<std::int64_t>(x.size()));
    for (std::size_t i = 0; i < x.size(); ++i) {
      Bits from, to;
      std::memcpy(&from, &x[i], sizeof from);
      std::memcpy(&to, &y[i], sizeof to);
      std::printf("%s %s %" PRIx64 " %" PRIx64 "\n", type, named.name, static_cast<std::uint64_t>(from),
                  static_cast<std::uint64_t>(to));
    }
  }
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 2) {
    std::fprintf(stderr, "usage: %s LEVEL\n", arguments[0]);
    return 2;
  }
  for (Level level : gradfold::supported_levels()) {
    if (std::string(arguments[1]) != gradfold::level_name(level)) continue;
    if (const char* wrong = gradfold::wrong_lane_member(level); wrong != nullptr) {
      std::fprintf(stderr, "%s: the lane member '%s' disagrees with plain C++\n", arguments[1], wrong);
      return 1;
    }
    print<float, std::uint32_t>(level, "float32");
    print<double, std::uint64_t>(level, "float64");
    return 0;
  }
  std::fprintf(stderr, "%s: not a level of this build and machine\n", arguments[1]);
  return 2;
}
