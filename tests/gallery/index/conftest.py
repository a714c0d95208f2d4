"""Segments, and what they are made of."""

import numpy as np
import pytest

from service.gallery.index import building
from service.gallery.index.codes import Layout
from service.gallery.index.indexes import LocalIndexes
from service.gallery.index.local import Sizes
from service.gallery.index.protocol import Owner

OWNER = Owner(catalog="c", gallery_pk=1, model_digest="d", dim=16)
TINY = Sizes(flat=8, growing=6, fan=2, most=40, waiting=64)
"""Everything is sealed soon, and merged all the time."""


@pytest.fixture
def sealed(tmp_path, unit):
    """Writes a segment of n vectors under rows 100, 101, ... and opens it."""

    def made(n, owner=OWNER, places=None):
        source = building.growing(owner, 100 + np.arange(n), unit(n, dim=owner.dim), None)
        path = tmp_path / f"{owner.gallery_pk}.7.segment"
        return building.build(path, owner, source, places, lambda: None)[0]

    return made


@pytest.fixture
def layout():
    return Layout.of(16)


@pytest.fixture
def tiny(tmp_path):
    """Opens indexes in which everything is sealed soon; closed at the end."""
    opened = []

    def again(**other):
        opened.append(LocalIndexes(tmp_path, **{"sizes": TINY} | other))
        return opened[-1]

    yield again
    for indexes in opened:
        indexes.close()


@pytest.fixture
def kept(tiny, unit):
    """An index of thirty people, all of them sealed, kept at revision 1 and closed."""
    indexes = tiny()
    index = indexes.of(OWNER, 0)
    index.add(np.arange(30), unit(30))
    indexes.settle()
    index.keep(1)
    index.close()
    return index
