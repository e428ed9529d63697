#include "simd/lanes_x86_v4.h"
// The lanes come first: everything below is built from them.
#include "gradient/gradient-inl.h"

GRADFOLD_GRADIENT_KERNELS(x86_v4)
