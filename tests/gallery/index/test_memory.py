import resource
import subprocess
import sys

import numpy as np
import pytest

from service.errors import IndexMemoryError
from service.gallery.index import memory
from service.settings import CHECKOUT
from tests.gallery.index.conftest import OWNER


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


def test_what_does_not_fit_is_not_added(tiny, unit):
    index = tiny(allowed=memory.used() // 2).of(OWNER, 0)
    with pytest.raises(IndexMemoryError):
        index.add(np.arange(3), unit(3))
    assert len(index) == 0


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
