#include "simd/lanes_x86_v4.h"
// The lanes come first: everything below is built from them.
#include "update/update-inl.h"

GRADFOLD_UPDATE_KERNELS(x86_v4)
