"""A gate against slower code that noise cannot fool: it counts first, and times only what it must.

``python -m gradfold.perfgate`` is its command line, docs/perfgate.md its manual. Nothing here needs NumPy or the compiled
extension, so that any project can use it: counting wants Valgrind and binutils, an asv suite wants ``asv_runner``.
"""
