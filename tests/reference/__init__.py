"""Plain float64 references for every kernel family: slow, obvious, and sharing no code with the package.

They follow ``docs/design.md`` line by line and use ordinary NumPy sums, so they agree with a kernel to rounding and
never in bits. Bits are compared with bits of the same kernel only (``tests/test_promises.py``).
"""
