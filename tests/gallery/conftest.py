"""A catalog in either database, a gallery in it, and templates to put there."""

import hashlib

import numpy as np
import pytest
from sqlalchemy import select

from service.gallery import galleries
from service.gallery.catalog import Catalog
from service.gallery.records import NewTemplate
from service.gallery.schema import metadata
from service.identify.fusion import fuse

DIM = 16


@pytest.fixture(params=["sqlite", "postgresql"])
def kind(request):
    """The database that the catalog is kept in; every test of this folder runs on both."""
    return request.param


@pytest.fixture
def place(kind, tmp_path, request):
    """Where an empty catalog can be made: a file or a URL."""
    if kind == "sqlite":
        return tmp_path / "catalog.sqlite"
    return request.getfixturevalue("postgres_server").database()


@pytest.fixture(scope="session")
def postgres_catalog(postgres_server):
    """One catalog in PostgreSQL that the tests use one after the other."""
    url = postgres_server.database()
    catalog = Catalog.open(url, secret=b"s" * 32, fuse=fuse)
    yield catalog, url
    catalog.close()


@pytest.fixture
def open_catalog(kind, tmp_path, request):
    """Opens the same catalog, as often as it is called."""
    if kind == "postgresql":
        shared, where = request.getfixturevalue("postgres_catalog")
        with shared.write() as tx:
            tx.connection.exec_driver_sql(EMPTIED)
    else:
        shared, where = None, tmp_path / "catalog.sqlite"
    opened = []

    def once_more(**other):
        if shared is None or other:
            opened.append(Catalog.open(where, **{"secret": b"s" * 32, "fuse": fuse} | other))
            return opened[-1]
        return shared

    yield once_more
    for catalog in opened:
        catalog.close()


EMPTIED = """
DO $$ DECLARE name text; BEGIN
  FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'meta' LOOP
    EXECUTE format('DELETE FROM %I', name);
  END LOOP;
  FOR name IN SELECT sequencename FROM pg_sequences WHERE schemaname = 'public' LOOP
    EXECUTE format('ALTER SEQUENCE %I RESTART', name);
  END LOOP;
END $$
"""
"""Faster than a new database for every test."""


@pytest.fixture
def catalog(open_catalog):
    return open_catalog()


@pytest.fixture
def everything(catalog):
    """Tells all that the catalog holds, as text."""

    def now():
        with catalog.read() as reading:
            rows = [reading.connection.execute(select(table)).all() for table in metadata.tables.values()]
        return repr(rows)

    return now


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
