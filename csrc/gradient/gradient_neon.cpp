#include "simd/lanes_neon.h"
// The lanes come first: everything below is built from them.
#include "gradient/gradient-inl.h"

GRADFOLD_GRADIENT_KERNELS(neon)
