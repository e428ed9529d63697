#include "simd/lanes_x86_v4.h"
// The lanes come first: everything below is built from them.
#include "roofline/roofline-inl.h"

GRADFOLD_ROOFLINE_KERNELS(x86_v4)
