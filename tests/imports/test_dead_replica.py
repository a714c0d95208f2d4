"""A replica that is killed while it imports: another one does what it left, and nothing twice."""

import csv
import io
import json
import time
from contextlib import ExitStack
from datetime import timedelta

import numpy as np
import pytest
from sqlalchemy import select

from service.gallery.catalog import Catalog
from service.gallery.schema import shards
from service.identify.fusion import fuse
from tests.cli.running import serving, vultus

SECRET = b"s" * 32
MANY = 40_000
SECONDS = 60


@pytest.fixture
def settings(tmp_path, postgres_server):
    """Those of two services over one catalog; the import root holds many people with an embedding each."""
    (tmp_path / "secret").write_bytes(SECRET)
    root = tmp_path / "root"
    root.mkdir()
    vectors = np.random.default_rng(0).standard_normal((MANY, 128)).astype(np.float32)
    np.save(root / "many.npy", vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    (root / "many.csv").write_text("person\n" + "".join(f"p{number}\n" for number in range(MANY)))
    return {"catalog": postgres_server.database(), "secret": tmp_path / "secret", "import_root": root, "threads": 1}


def test_what_a_killed_replica_left_is_done_by_the_other_once(tmp_path, settings):
    scopes = [word for scope in ("read", "enroll", "manage", "embed") for word in ("--scope", scope)]
    made = vultus("keys", "create", "--label", "import", "--json", *scopes, data=tmp_path / "keys", **settings)
    key = {"Authorization": f"Bearer {json.loads(made.stdout)['text']}"}
    catalog = Catalog.open(settings["catalog"], secret=SECRET, fuse=fuse)
    deadline = time.monotonic() + SECONDS
    with ExitStack() as stack:
        stack.callback(catalog.close)
        with serving(tmp_path / "one", **settings) as killed, killed.client(headers=key) as client:
            assert client.post("/v1/galleries", json={"name": "staff"}).status_code == 201
            jobs, wanted = "/v1/galleries/staff/imports", {"path": "many.csv", "embeddings": "many.npy"}
            path = f"{jobs}/{client.post(jobs, json=wanted).json()['import']}"
            while not any(shard.done for shard in shards_of(catalog)):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            killed.process.kill()
            killed.process.wait(SECONDS)
        client = stack.enter_context(stack.enter_context(serving(tmp_path / "two", **settings)).client(headers=key))
        left = [shard.pk for shard in shards_of(catalog) if shard.worker and shard.done < shard.count]
        assert left, "it was killed between two shards"
        assert client.get(path).json()["ended_at"] is None
        expire(catalog, left)
        while (job := client.get(path).json())["ended_at"] is None:
            assert time.monotonic() < deadline, job
            time.sleep(0.05)

        assert (job["state"], job["outcomes"]["enrolled"]) == ("done", MANY)
        lines = list(csv.DictReader(io.StringIO(client.get(f"{path}/report").text)))
        assert [line["row"] for line in lines] == [str(number) for number in range(1, MANY + 1)]
        assert len({line["face"] for line in lines}) == MANY
        shown = client.get("/v1/galleries/staff").json()
        assert (shown["people"], shown["faces"]) == (MANY, MANY)


def shards_of(catalog):
    """The parts of the import."""
    with catalog.read() as reading:
        return reading.connection.execute(select(shards)).all()


def expire(catalog, pks):
    """Let the time of some leases pass; it is a minute."""
    with catalog.write() as tx:
        past = shards.update().where(shards.c.pk.in_(pks)).values(leased_until=tx.now - timedelta(seconds=1))
        tx.connection.execute(past)
