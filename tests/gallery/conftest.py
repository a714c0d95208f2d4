"""A catalog in a temporary folder, a gallery in it, and templates to put there."""

import hashlib

import numpy as np
import pytest

from service.gallery import galleries
from service.gallery.catalog import Catalog
from service.gallery.records import NewTemplate
from service.identify.fusion import fuse

DIM = 16


@pytest.fixture
def open_catalog(tmp_path):
    """Opens the same catalog, as often as it is called."""
    opened = []

    def once_more(**other):
        opened.append(Catalog.open(tmp_path / "catalog.sqlite", **{"secret": b"s" * 32, "fuse": fuse} | other))
        return opened[-1]

    yield once_more
    for catalog in opened:
        catalog.close()


@pytest.fixture
def catalog(open_catalog):
    return open_catalog()


@pytest.fixture
def gallery(catalog):
    with catalog.write() as tx:
        return galleries.create(tx, "staff", model="sface", model_digest="d1", dim=DIM)


@pytest.fixture
def revision(catalog, gallery):
    """Tells the gallery's revision."""

    def now():
        with catalog.read() as reading:
            return galleries.by_pk(reading, gallery.pk).revision

    return now


@pytest.fixture
def unit():
    """Makes n random unit vectors."""

    def vectors(n, seed=0, dim=DIM):
        drawn = np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)
        return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)

    return vectors


@pytest.fixture
def template(unit):
    """Makes the template of photo number `seed`."""

    def made(seed, quality=0.7, **other):
        values = {
            "photo_digest": hashlib.sha256(str(seed).encode()).hexdigest(),
            "embedding": unit(1, seed)[0],
            "quality": quality,
            "box": (1.5, 2.0, 30.0, 40.0),
        }
        return NewTemplate(**values | other)

    return made
