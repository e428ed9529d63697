#include "simd/lanes_neon.h"
// The lanes come first: everything below is built from them.
#include "update/update-inl.h"

GRADFOLD_UPDATE_KERNELS(neon)
