// The CPU instruction levels: found once, chosen once per call, forced by GRADFOLD_LEVEL.
#pragma once
#include <string>
#include <vector>

namespace gradfold {

enum class Level : int { serial = 0, x86_v3 = 1, x86_v4 = 2, neon = 3 };

const char* level_name(Level level);

// Levels that were compiled in and that this CPU and operating system support, slowest first.
const std::vector<Level>& supported_levels();

// The level kernels use now: the forced one, else GRADFOLD_LEVEL, else the fastest supported.
// Throws std::invalid_argument when GRADFOLD_LEVEL names a level that is unknown or unsupported.
Level current_level();

// Forces a level for this process ("" returns to the default). Throws std::invalid_argument as above.
void force_level(const std::string& name);

}  // namespace gradfold

// The one place that lists the levels compiled in, so that a family's dispatcher is one line.
//
// GRADFOLD_SELECT_LEVEL(level, gradient_f32_) returns gradient_f32_serial, gradient_f32_x86_v3, ...
#ifdef GRADFOLD_HAVE_X86_V3
#define GRADFOLD_CASE_X86_V3(PREFIX) case ::gradfold::Level::x86_v3: return PREFIX##x86_v3;
#else
#define GRADFOLD_CASE_X86_V3(PREFIX)
#endif
#ifdef GRADFOLD_HAVE_X86_V4
#define GRADFOLD_CASE_X86_V4(PREFIX) case ::gradfold::Level::x86_v4: return PREFIX##x86_v4;
#else
#define GRADFOLD_CASE_X86_V4(PREFIX)
#endif
#ifdef GRADFOLD_HAVE_NEON
#define GRADFOLD_CASE_NEON(PREFIX) case ::gradfold::Level::neon: return PREFIX##neon;
#else
#define GRADFOLD_CASE_NEON(PREFIX)
#endif
#define GRADFOLD_SELECT_LEVEL(LEVEL, PREFIX) \
  switch (LEVEL) {                           \
    GRADFOLD_CASE_X86_V3(PREFIX)             \
    GRADFOLD_CASE_X86_V4(PREFIX)             \
    GRADFOLD_CASE_NEON(PREFIX)               \
    default: return PREFIX##serial;          \
  }

// Defines FUNCTION<float>(Level) and FUNCTION<double>(Level), which return the TABLE<T> of that level, named
// FAMILY_f32_<level> and FAMILY_f64_<level>. Used inside namespace gradfold.
#define GRADFOLD_DISPATCH(TABLE, FUNCTION, FAMILY)                                                   \
  extern const TABLE<float> FAMILY##_f32_serial, FAMILY##_f32_x86_v3, FAMILY##_f32_x86_v4, FAMILY##_f32_neon;  \
  extern const TABLE<double> FAMILY##_f64_serial, FAMILY##_f64_x86_v3, FAMILY##_f64_x86_v4, FAMILY##_f64_neon; \
  template <>                                                                                        \
  const TABLE<float>& FUNCTION(Level level) {                                                        \
    GRADFOLD_SELECT_LEVEL(level, FAMILY##_f32_)                                                      \
  }                                                                                                  \
  template <>                                                                                        \
  const TABLE<double>& FUNCTION(Level level) {                                                       \
    GRADFOLD_SELECT_LEVEL(level, FAMILY##_f64_)                                                      \
  }
