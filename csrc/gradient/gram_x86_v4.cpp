#include "simd/lanes_x86_v4.h"
// The lanes come first: everything below is built from them.
#include "gradient/gram-inl.h"

GRADFOLD_GRAM_KERNELS(x86_v4)
