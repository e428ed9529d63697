"""CUDA kernels of the families, by Numba. Imported only when a device is asked for."""
