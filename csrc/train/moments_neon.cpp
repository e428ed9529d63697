#include "simd/lanes_neon.h"
// The lanes come first: everything below is built from them.
#include "train/moments-inl.h"

GRADFOLD_MOMENT_KERNELS(neon)
