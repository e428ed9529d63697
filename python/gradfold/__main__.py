"""`python -m gradfold`: the command line."""

import sys

from gradfold.cli import main

sys.exit(main())
