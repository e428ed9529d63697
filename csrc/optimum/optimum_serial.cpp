#include "simd/lanes_serial.h"
// The lanes come first: everything below is built from them.
#include "optimum/optimum-inl.h"

GRADFOLD_OPTIMUM_KERNELS(serial)
