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

// Returns TABLE(level) for the level asked for; TABLE is a macro naming the per-level object. One place lists the levels
// that were compiled in, so that a family's dispatcher is one line.
#ifdef GRADFOLD_HAVE_X86_V3
#define GRADFOLD_CASE_X86_V3(TABLE) case ::gradfold::Level::x86_v3: return TABLE(x86_v3);
#else
#define GRADFOLD_CASE_X86_V3(TABLE)
#endif
#ifdef GRADFOLD_HAVE_X86_V4
#define GRADFOLD_CASE_X86_V4(TABLE) case ::gradfold::Level::x86_v4: return TABLE(x86_v4);
#else
#define GRADFOLD_CASE_X86_V4(TABLE)
#endif
#ifdef GRADFOLD_HAVE_NEON
#define GRADFOLD_CASE_NEON(TABLE) case ::gradfold::Level::neon: return TABLE(neon);
#else
#define GRADFOLD_CASE_NEON(TABLE)
#endif
#define GRADFOLD_SELECT_LEVEL(LEVEL, TABLE) \
  switch (LEVEL) {                          \
    GRADFOLD_CASE_X86_V3(TABLE)             \
    GRADFOLD_CASE_X86_V4(TABLE)             \
    GRADFOLD_CASE_NEON(TABLE)               \
    default: return TABLE(serial);          \
  }
