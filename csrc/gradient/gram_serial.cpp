#include "simd/lanes_serial.h"
// The lanes come first: everything below is built from them.
#include "gradient/gram-inl.h"

GRADFOLD_GRAM_KERNELS(serial)
