import json
import resource
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from service.errors import IndexMemoryError
from service.gallery.index import memory
from service.settings import CHECKOUT
from tests.gallery.index.conftest import OWNER, TINY


def test_the_least_limit_counts(tmp_path):
    groups = tmp_path / "groups"
    (groups / "a/b").mkdir(parents=True)
    own = tmp_path / "own"
    own.write_text("0::/a/b\n")
    machine = memory.limit(groups, own)
    (groups / "a/b/memory.max").write_text("max\n")
    assert memory.limit(groups, own) == machine
    (groups / "a/memory.max").write_text("123456789\n")
    assert memory.limit(groups, own) == 123_456_789
    (groups / "memory").mkdir()
    (groups / "memory/memory.limit_in_bytes").write_text("1000\n")
    own.write_text("4:memory:/\n")
    assert memory.limit(groups, own) == 1000


def test_a_machine_without_groups_has_its_own_memory(tmp_path):
    assert memory.limit(tmp_path, tmp_path / "none") <= 1 << 50


def test_a_limit_of_the_process_counts():
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (1 << 33, hard))
    try:
        assert memory.limit() <= 1 << 33
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def test_ten_million_need_less_than_a_hundred_bytes_each():
    assert memory.needed(512, 10_000_000, 0) <= 100 * 10_000_000


def test_an_index_that_does_not_fit_is_refused(tiny, unit):
    index = tiny().of(OWNER, 0)
    index.add(np.arange(30), unit(30))
    index.keep(1)
    index.close()
    with pytest.raises(IndexMemoryError, match="MiB allowed"):
        tiny(allowed=memory.used() // 2).of(OWNER, 1)
    assert len(tiny().of(OWNER, 1)) == 30


def test_who_asks_for_room_that_is_not_there_is_refused(tiny):
    with pytest.raises(IndexMemoryError):
        tiny(allowed=memory.used() // 2).of(OWNER, 0).require_room(1)


def test_a_real_limit_gives_the_refusal_and_not_a_killed_process(tiny, unit, tmp_path):
    index = tiny().of(OWNER, 0)
    index.add(np.arange(30), unit(30))
    index.keep(1)
    index.close()
    script = (
        "import resource\n"
        "from pathlib import Path\n"
        "from service.errors import IndexMemoryError\n"
        "from service.gallery.index import memory\n"
        "from service.gallery.index.indexes import LocalIndexes\n"
        "from tests.gallery.index.conftest import OWNER\n"
        "resource.setrlimit(resource.RLIMIT_DATA, (memory.used(), resource.RLIM_INFINITY))\n"
        "try:\n"
        f"    LocalIndexes(Path({str(tmp_path)!r})).of(OWNER, 1)\n"
        "except IndexMemoryError as error:\n"
        "    print(error.code)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=CHECKOUT)
    assert (done.returncode, done.stdout) == (0, "index_memory\n"), done.stderr


@pytest.mark.parametrize("dim", [128, 512])
def test_what_is_needed_is_what_growing_sealing_and_merging_take(dim, tmp_path):
    """In a process of its own, whose memory nobody else changes."""
    command = [sys.executable, "-m", "tests.gallery.index.weighing", str(tmp_path), str(dim)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=CHECKOUT)
    assert done.returncode == 0, done.stderr
    taken = json.loads(done.stdout)
    count = taken.pop("count")
    needed = {
        "growing": memory.needed(dim, 0, count),
        "sealing": memory.to_seal(dim, count),
        "sealed": memory.needed(dim, 2 * count, 0),
        "merging": memory.to_merge(dim, 2 * count),
    }
    for what, most in MORE.items():
        assert 0.9 * taken[what] < needed[what] < most * taken[what], (what, taken, needed)


MORE = {"growing": 1.5, "sealing": 1.6, "sealed": 1.5, "merging": 2.5}
"""Times what is really taken that the need may be at most; up to 256 numbers fewer copies are made than above."""


def test_a_limit_under_the_need_refuses_and_one_above_it_does_not(tiny, monkeypatch):
    monkeypatch.setattr(memory, "used", lambda: 10 * memory.MEBI)
    count, kept = 1000, 200
    need = memory.needed(OWNER.dim, 0, count) + memory.to_seal(OWNER.dim, kept + count)
    for spare, fits in ((-1, False), (0, True)):
        index = tiny(allowed=10 * memory.MEBI + need + spare, sizes=replace(TINY, flat=kept + 1)).of(OWNER, 0)
        index.add(np.arange(kept), np.eye(OWNER.dim, dtype=np.float32)[np.arange(kept) % OWNER.dim])
        if fits:
            index.require_room(count)
        else:
            with pytest.raises(IndexMemoryError):
                index.require_room(count)
        index.close()


def test_what_is_kept_is_opened_from_its_need_on(tiny, kept, monkeypatch):
    sealed = sum(len(each.segment) for each in kept._state.sealed)
    assert sealed == 30
    monkeypatch.setattr(memory, "used", lambda: 10 * memory.MEBI)
    allowed = 10 * memory.MEBI + memory.needed(OWNER.dim, sealed, 0)
    with pytest.raises(IndexMemoryError):
        tiny(allowed=allowed - 1).of(OWNER, 1)
    assert len(tiny(allowed=allowed).of(OWNER, 1)) == 30
