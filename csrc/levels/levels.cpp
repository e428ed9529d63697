#include "levels/levels.h"

#include <atomic>
#include <cstdlib>
#include <stdexcept>

namespace gradfold {
namespace {

constexpr int kNotForced = -1;
std::atomic<int> forced{kNotForced};

constexpr Level kAll[] = {Level::serial, Level::x86_v3, Level::x86_v4, Level::neon};

std::vector<Level> detect() {
  std::vector<Level> found{Level::serial};
#if defined(__x86_64__)
  __builtin_cpu_init();
#ifdef GRADFOLD_HAVE_X86_V3
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2"))
    found.push_back(Level::x86_v3);
#endif
#ifdef GRADFOLD_HAVE_X86_V4
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("bmi2"))
    found.push_back(Level::x86_v4);
#endif
#elif defined(GRADFOLD_HAVE_NEON)
  found.push_back(Level::neon);  // Advanced SIMD is part of the aarch64 baseline
#endif
  return found;
}

Level parse(const std::string& name, const char* source) {
  std::string names;
  for (Level level : supported_levels()) {
    if (name == level_name(level)) return level;
    names += (names.empty() ? "" : ", ") + std::string(level_name(level));
  }
  for (Level level : kAll)
    if (name == level_name(level))
      throw std::invalid_argument(std::string(source) + " is '" + name +
                                  "', a level that this CPU or this build does not support; supported here: " + names);
  throw std::invalid_argument(std::string(source) + " is '" + name + "', not a level; supported here: " + names);
}

}  // namespace

const char* level_name(Level level) {
  switch (level) {
    case Level::x86_v3: return "x86_v3";
    case Level::x86_v4: return "x86_v4";
    case Level::neon: return "neon";
    default: return "serial";
  }
}

const std::vector<Level>& supported_levels() {
  static const std::vector<Level> levels = detect();
  return levels;
}

Level current_level() {
  const int now = forced.load(std::memory_order_relaxed);
  if (now != kNotForced) return static_cast<Level>(now);
  static const Level by_default = [] {  // read once; a bad name throws here again at every call
    const char* name = std::getenv("GRADFOLD_LEVEL");
    return name != nullptr && *name != '\0' ? parse(name, "GRADFOLD_LEVEL") : supported_levels().back();
  }();
  return by_default;
}

void force_level(const std::string& name) {
  forced.store(name.empty() ? kNotForced : static_cast<int>(parse(name, "level")), std::memory_order_relaxed);
}

}  // namespace gradfold
