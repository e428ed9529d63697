"""The performance-regression gate: two builds measured against each other, ``python -m gradfold.perfgate``."""
