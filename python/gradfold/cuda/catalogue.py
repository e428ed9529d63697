"""Every kernel of the package by name, for whoever compiles them all: tests without a GPU, the self-check, a report.

A name says where a kernel is made and of which variant: ``train.epoch/float32/wide``, ``gradient.forward/float64/narrow/unaligned``,
``maths.exp/float32``, ``index.fill32``.
"""

from __future__ import annotations

from gradfold.cuda import arrays, bad_values, gradient, index, loss, maths, roles, roofline, train
from gradfold.cuda._driver import Kernel
from gradfold.cuda.tiles import SHAPES

_ZEROED = ("int32", "float64")  # what `gradient.zero` is called with


def every_kernel() -> dict[str, Kernel]:
    """All of them; nothing is compiled before somebody asks a kernel to."""
    found: dict[str, Kernel] = {}
    for dtype, shapes in SHAPES.items():
        for name, aligned in shapes.items():
            for shape, suffix in ((aligned.of_rows(True), ""), (aligned.of_rows(False), "/unaligned")):
                for module in (gradient, train):
                    family = module.__name__.rpartition(".")[2]
                    for kernel, made in vars(module.kernels(shape)).items():
                        found[f"{family}.{kernel}/{dtype}/{name}{suffix}"] = made
    for dtype in SHAPES:
        found[f"roles.roles/{dtype}"] = roles.kernel(dtype)
        found[f"roofline.fma_chains/{dtype}"] = roofline.fma_kernel(dtype)
    for dtype in _ZEROED:
        found[f"gradient.zero/{dtype}"] = gradient.zero(dtype)
    found |= {"roofline.read": roofline.READ, "roofline.copy": roofline.COPY}
    found |= {f"index.{kernel.name.lstrip('_')}": kernel for kernel in index.KERNELS}
    for family_, kernels in (
        ("maths", maths.KERNELS), ("loss", loss.KERNELS), ("arrays", arrays.kernels().items()),
        ("bad_values", bad_values.kernels().items()),
    ):  # fmt: skip
        for each in kernels:
            name, kernel = each if isinstance(each, tuple) else (each.name, each)
            function, _, dtype = name.rpartition("_")
            found[f"{family_}.{function}/{dtype}"] = kernel
    return found
