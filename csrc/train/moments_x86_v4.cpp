#include "simd/lanes_x86_v4.h"
// The lanes come first: everything below is built from them.
#include "train/moments-inl.h"

GRADFOLD_MOMENT_KERNELS(x86_v4)
