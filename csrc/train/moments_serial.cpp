#include "simd/lanes_serial.h"
// The lanes come first: everything below is built from them.
#include "train/moments-inl.h"

GRADFOLD_MOMENT_KERNELS(serial)
