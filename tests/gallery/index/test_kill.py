"""What is left of an index whose process is killed while it adds, seals, merges, keeps or deletes."""

import logging
import subprocess
import sys

import numpy as np
import pytest

from service.settings import CHECKOUT
from tests.gallery.index.churning import STAY, vector
from tests.gallery.index.conftest import OWNER


@pytest.mark.parametrize(
    ("event", "ending", "last"),
    [
        ("os.rename", ".segment", 1),
        ("os.rename", ".segment", 2),
        ("os.rename", ".segment", 9),
        ("os.rename", ".snapshot", 1),
        ("os.rename", ".snapshot", 8),
        ("os.remove", ".segment", 3),
        ("open", ".segment", 12),
    ],
    ids=["first seal", "first merge", "later", "first snapshot", "later snapshot", "deletion", "erasure"],
)
def test_what_was_kept_is_there_and_nothing_half(tmp_path, tiny, caplog, event, ending, last):
    command = [sys.executable, "-m", "tests.gallery.index.churning", str(tmp_path), event, ending, str(last)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=CHECKOUT, timeout=60)
    assert done.returncode == -9, done.stderr
    told = max([0, *map(int, done.stdout.split())])
    with caplog.at_level(logging.WARNING):
        indexes = tiny()
        indexes.sweep({OWNER.gallery_pk})
        index = indexes.of(OWNER, 100_000)
    assert "rebuilt" not in caplog.text, caplog.text
    kept = max(0, index.kept)
    assert kept >= told
    if kept:
        living = np.arange(max(1, kept - STAY + 1), kept + 1)
        scores = np.concatenate([index.score(vector(row), np.array([row]))[0] for row in living.tolist()])
        # The process had no time to apply more than a few steps beyond what it kept.
        later = np.isnan(scores)
        assert not later[len(living) // 2 :].any()
        np.testing.assert_allclose(scores[~later], 1, atol=1e-4)
        assert np.isnan(index.score(vector(1), np.arange(1, kept - STAY + 1))).all()
    index.add(np.array([7_000_000]), vector(5))
    index.keep(99_999)
    index.close()
    again = tiny()
    assert again.of(OWNER, 100_000).search(vector(5), 1).scores[0, 0] == pytest.approx(1, abs=1e-4)
    again.settle()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
