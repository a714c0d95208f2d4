"""Helpers: what becomes of their tasks when one dies."""

import hashlib
import os
import signal
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from service.errors import NotReadyError, VultusError
from service.imports.helpers import Helpers
from service.imports.sight import Photo, Setup
from service.settings import CHECKOUT
from service.vision.see import Limits
from tests.faces import orl_photo

SECONDS = 60


@pytest.fixture
def setup(tmp_path):
    """What a helper needs to know."""
    return Setup(
        root=tmp_path,
        models=CHECKOUT / "models",
        recognition=("sface", "onnxruntime"),
        detection=("yunet", "onnxruntime"),
        limits=Limits(1 << 20, 1 << 20, 50),
        min_quality=0.3,
    )


@pytest.fixture
def photos(tmp_path):
    """Photos of five people."""
    found = []
    for person in range(1, 6):
        (tmp_path / f"{person}.pgm").write_bytes(orl_photo(person, 1))
        found.append(Photo(str(tmp_path / f"{person}.pgm")))
    return found


def test_photos_are_read_before_any_are_looked_at(setup, photos):
    (missing := setup.root / "missing.jpg").unlink(missing_ok=True)
    helpers, ended = Helpers(setup, 1), []
    try:
        looks = [helpers.look(photos) for _ in range(4)]
        read = helpers.read([*photos, Photo(str(missing))])
        for name, answer in [("read", read), *((f"look {number}", look) for number, look in enumerate(looks))]:
            answer.add_done_callback(lambda _, name=name: ended.append(name))
        digests = [hashlib.sha256(orl_photo(person, 1)).hexdigest() for person in range(1, 6)]
        *sights, unreadable = read.result(SECONDS)
        assert [(sight.digest, sight.embedding, sight.error) for sight in sights] == [
            (digest, None, None) for digest in digests
        ]
        assert (unreadable.digest, unreadable.error.code) == ("", "photo_unreadable")
        assert [sight.digest for sight in looks[-1].result(SECONDS)] == digests
    finally:
        helpers.close()
    assert ended.index("read") < ended.index("look 3")


def children():
    """The helpers' process ids."""
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            facts, command = status.read_text(), (status.parent / "cmdline").read_bytes()
        except OSError:
            continue
        if f"PPid:\t{os.getpid()}\n" in facts and b"service.imports.sight" in command:
            found.append(int(status.parent.name))
    return found


def test_photos_are_answered_in_their_order_at_the_lowest_priority(setup, photos):
    helpers = Helpers(setup, 1)
    try:
        (empty := setup.root / "empty.jpg").write_bytes(b"")
        answers = [helpers.look(photos), helpers.look([Photo(str(empty)), Photo("/etc/passwd"), photos[0]])]
        first, second = (answer.result(SECONDS) for answer in answers)
        (child,) = children()
        assert os.getpriority(os.PRIO_PROCESS, child) == 19
        session = Path(f"/proc/{child}/autogroup")
        assert not session.exists() or session.read_text().endswith(" nice 19\n")
    finally:
        helpers.close()
    assert all(sight.embedding is not None and sight.embedding.shape == (128,) for sight in first)
    assert [sight.error and sight.error.code for sight in second] == ["photo_empty", "photo_unreadable", None]
    assert (second[2].embedding == first[0].embedding).all()
    assert children() == []


def test_the_tasks_of_a_helper_that_is_killed_are_done_all_the_same(setup, photos):
    helpers = Helpers(setup, 1)
    try:
        helpers.look(photos[:1]).result(SECONDS)
        answers = [helpers.look(photos) for _ in range(4)]
        for pid in children():
            os.kill(pid, signal.SIGKILL)
        found = [answer.result(SECONDS) for answer in answers]
    finally:
        helpers.close()
    assert all(sight.embedding is not None for sights in found for sight in sights)


def test_a_photo_that_brings_every_helper_down_is_refused_and_its_neighbours_are_seen(setup, photos):
    """Whoever opens it is killed, as a decoder that crashes would be."""
    deadly, ended = setup.root / "deadly.pgm", threading.Event()
    with deadly.open("wb") as file:
        file.truncate(1 << 28)  # long enough to be seen while it is read

    def strike():
        while not ended.wait(0.001):
            for pid in children():
                try:
                    opened = {str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()}
                except OSError:
                    continue
                if str(deadly) in opened:
                    os.kill(pid, signal.SIGKILL)

    striker = threading.Thread(target=strike)
    striker.start()
    helpers = Helpers(replace(setup, limits=Limits(1 << 29, 1 << 20, 50)), 1)
    try:
        found = helpers.look([photos[0], Photo(str(deadly)), photos[1]]).result(2 * SECONDS)
    finally:
        ended.set()
        striker.join()
        helpers.close()
    assert [sight.error and sight.error.code for sight in found] == [None, "photo_damaged", None]


def test_a_helper_that_cannot_begin_says_why_to_whoever_waits(setup, photos, tmp_path):
    (tmp_path / "models").mkdir()
    helpers = Helpers(replace(setup, models=tmp_path / "models"), 1)
    try:
        with pytest.raises(VultusError, match="no model 'yunet'"):
            helpers.look(photos).result(SECONDS)
    finally:
        helpers.close()


def test_tasks_that_wait_when_the_service_stops_are_answered(setup, photos):
    helpers = Helpers(setup, 1)
    answers = [helpers.look(photos) for _ in range(20)]
    helpers.close()
    kinds = {type(answer.exception(SECONDS)) for answer in answers}
    assert kinds <= {NotReadyError, type(None)}
    assert NotReadyError in kinds
