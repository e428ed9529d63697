"""Tests of device code in Numba's simulator, which must be chosen before Numba is imported.

``simulator.run`` of the parent directory starts a process for each file; in any other nothing here is collected.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if os.environ.get("NUMBA_ENABLE_CUDASIM") != "1":
    collect_ignore_glob = ["*"]
else:
    from numba.cuda.simulator import kernel

    import blocks

    kernel.BlockManager = blocks.Block
