#include "simd/lanes_serial.h"
// The lanes come first: everything below is built from them.
#include "update/update-inl.h"

GRADFOLD_UPDATE_KERNELS(serial)
