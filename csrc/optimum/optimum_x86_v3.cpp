#include "simd/lanes_x86_v3.h"
// The lanes come first: everything below is built from them.
#include "optimum/optimum-inl.h"

GRADFOLD_OPTIMUM_KERNELS(x86_v3)
