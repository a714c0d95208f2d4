"""The offline half: labelled photos in, a served model out (PyTorch; the service never imports it)."""

import os

# A thread of GNU OpenMP that waits for the others spins for milliseconds by default. Where a core also decodes photos
# or runs a teacher, that takes the core from the very work it waits for. Read once, when PyTorch is loaded: so here.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
