"""Changes an index without end, and kills itself.

Arguments: its folder, an event of the interpreter, the end of the file name that the event is about, and which of such
events is the last one.
"""

import itertools
import os
import signal
import sys
from pathlib import Path

import numpy as np

from service.gallery.index.indexes import LocalIndexes
from tests.gallery.index.conftest import OWNER, TINY

STAY, KEPT_EVERY = 40, 7


def vector(row):
    drawn = np.random.default_rng(row).standard_normal(OWNER.dim).astype(np.float32)
    return (drawn / np.linalg.norm(drawn))[None]


def churn(folder):
    """Step i adds row i and removes row i - 40; what was kept is told."""
    index = LocalIndexes(folder, sizes=TINY).of(OWNER, 0)
    for step in range(1, 100_000):
        index.add(np.array([step]), vector(step))
        index.remove(np.array([step - STAY]))
        if step % KEPT_EVERY == 0:
            index.keep(step)
            print(step, flush=True)


def die_at(event, ending, last):
    seen = itertools.count(1)

    def watch(name, arguments):
        if name == event and any(str(each).endswith(ending) for each in arguments) and next(seen) == last:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


if __name__ == "__main__":
    die_at(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    churn(Path(sys.argv[1]))
