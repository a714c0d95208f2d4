"""What is left when a process that enrols is killed at any moment."""

import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from service.gallery import changes, faces, galleries, people
from service.gallery.catalog import Catalog
from service.gallery.index.indexes import LocalIndexes
from service.gallery.view import GalleryView
from service.identify.fusion import fuse

ENROLLING = Path(__file__).with_name("enrolling.py")
CHECKOUT = ENROLLING.parent.parent.parent
KILLS = 10


def enrol_until_killed(path, prefix, gallery_pk, seconds):
    """Kill an enrolling process that long after its first commit, and return whom it acknowledged."""
    command = [sys.executable, str(ENROLLING), str(path), prefix, str(gallery_pk)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=CHECKOUT, env={"PYTHONPATH": "."}) as process:
        first = process.stdout.readline()
        time.sleep(seconds)
        process.kill()
        return [line.strip() for line in [first, *process.stdout] if line.endswith("\n")]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def survived(request, tmp_path_factory):
    """Whom ten killed processes acknowledged, and the catalog that they left, opened after every kill."""
    folder = tmp_path_factory.mktemp("killed")
    snapshot = folder / "1.snapshot"
    if request.param == "sqlite":
        path = folder / "catalog.sqlite"
    else:
        path = request.getfixturevalue("postgres_server").database()
    draw, acknowledged, catalog = random.Random(7), [], None
    for kill in range(KILLS):
        catalog = open_(path)
        if kill == 0:
            with catalog.write() as tx:
                gallery = galleries.create(tx, "staff", model="sface", model_digest="d1", dim=16)
        if kill == 7:
            GalleryView(catalog, gallery.pk, LocalIndexes(folder), snapshot_every=1000).close()
        catalog.close()
        acknowledged.append(enrol_until_killed(path, f"k{kill}", gallery.pk, draw.uniform(0, 0.15)))
    catalog = open_(path)
    yield catalog, gallery.pk, snapshot, acknowledged
    catalog.close()


def open_(path):
    return Catalog.open(path, secret=b"s" * 32, fuse=fuse)


def everyone(catalog, gallery_pk):
    with catalog.read() as reading:
        found = people.page(reading, gallery_pk, limit=1_000_000).items
        return {each.person: (each, faces.of_person(reading, each.pk), faces.fused(reading, each.pk)) for each in found}


def test_everybody_acknowledged_is_there(survived):
    catalog, gallery_pk, _, acknowledged = survived
    there = set(everyone(catalog, gallery_pk))
    assert sum(map(len, acknowledged)) >= KILLS
    assert {person for persons in acknowledged for person in persons} <= there


def test_at_most_one_more_than_acknowledged_was_committed_before_each_kill(survived):
    catalog, gallery_pk, _, acknowledged = survived
    there = everyone(catalog, gallery_pk)
    for kill, persons in enumerate(acknowledged):
        assert sum(person.startswith(f"k{kill}-") for person in there) in {len(persons), len(persons) + 1}


def test_nobody_is_half_there(survived):
    catalog, gallery_pk, _, _ = survived
    there = everyone(catalog, gallery_pk)
    everybody = there.pop("everybody")
    assert {len(templates) for _, templates, _ in there.values()} == {2}
    assert len(everybody[1]) == everybody[0].faces == len(there)


def test_every_fused_vector_is_that_of_its_templates(survived):
    catalog, gallery_pk, _, _ = survived
    for record, templates, fused in everyone(catalog, gallery_pk).values():
        assert record.faces == len(templates)
        quality = np.array([each.quality for each in templates], dtype=np.float32)
        np.testing.assert_array_equal(fuse(np.stack([each.embedding for each in templates]), quality), fused)


def test_the_revision_counts_the_commits(survived):
    catalog, gallery_pk, _, _ = survived
    there = everyone(catalog, gallery_pk)
    del there["everybody"]
    assert sorted(record.revision for record, _, _ in there.values()) == list(range(1, len(there) + 1))
    with catalog.read() as reading:
        assert galleries.by_pk(reading, gallery_pk).revision == len(there)


@pytest.mark.parametrize("survived", ["sqlite"], indirect=True)
def test_the_file_is_sound(survived):
    catalog, *_ = survived
    with catalog.read() as reading:
        assert reading.connection.exec_driver_sql("PRAGMA integrity_check").scalars().all() == ["ok"]
        assert reading.connection.exec_driver_sql("PRAGMA foreign_key_check").all() == []


def test_an_old_snapshot_and_replay_give_what_a_rebuild_gives(survived):
    catalog, gallery_pk, snapshot, _ = survived
    assert snapshot.exists()
    view = GalleryView(catalog, gallery_pk, LocalIndexes(snapshot.parent), snapshot_every=1_000_000)
    view.abandon()
    with catalog.read() as reading:
        parts = list(changes.fused_vectors(reading, gallery_pk))
    assert len(view) == sum(len(rows) for rows, _ in parts)
    for rows, vectors in parts:
        np.testing.assert_allclose(np.diag(view.score(vectors, rows)), 1, atol=1e-6)
