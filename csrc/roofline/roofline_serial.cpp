#include "simd/lanes_serial.h"
// The lanes come first: everything below is built from them.
#include "roofline/roofline-inl.h"

GRADFOLD_ROOFLINE_KERNELS(serial)
