from datetime import UTC, datetime

import numpy as np
import pytest

from service.errors import AnswerNotFoundError, DigitsLockedError
from service.recognition.asked import LOCKED_SECONDS, TRIES, WAIT_SECONDS, Asked, Guess, Pending
from service.recognition.expectations import Context
from service.shared.store import InProcess
from service.vision.detect import Box, Face
from service.vision.quality import Quality
from service.vision.see import SeenFace

SEEN = SeenFace(
    Face(Box(1.5, 2.25, 30.0, 40.0), np.arange(10, dtype=np.float32).reshape(5, 2) / 3, 0.9),
    np.zeros((112, 112, 3), np.uint8),
    Quality(0.1, 0.2, 0.3, 0.4, 0.5, 0.6),
)
CONTEXT = Context(device="gate", cell="871f8d7a4ffffff", at=datetime(2026, 3, 1, 12, 30, 1, 250, UTC), person="anna")
TAKEN = ((np.ones(3, np.float32), 0.7),)
PENDING = Pending("staff", SEEN, np.linspace(-1, 1, 7, dtype=np.float32), CONTEXT, 0.004, 2, TAKEN, asks=True)


class Clock:
    """A clock that is set by hand."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def asked(shared):
    return Asked(shared)


@pytest.fixture
def timed(clock):
    """One over a clock of ours."""
    return Asked(InProcess(clock))


def test_a_probe_waits_for_its_digits_with_all_that_is_known(asked, shared):
    answer = asked.keep(PENDING)
    for replica in (asked, Asked(shared)):
        found = replica.take("staff", answer)
        assert (found.gallery, found.context) == ("staff", CONTEXT)
        np.testing.assert_array_equal(found.probe, PENDING.probe)
        assert found.probe.dtype == np.float32
        assert (found.rate, found.looks, found.taken[0][1]) == (0.004, 2, 0.7)
        assert (found.asks, found.key) == (True, answer)
        np.testing.assert_array_equal(found.taken[0][0], PENDING.taken[0][0])
        assert (found.seen.face.box, found.seen.face.score, found.seen.quality) == (SEEN.face.box, 0.9, SEEN.quality)
        np.testing.assert_array_equal(found.seen.face.landmarks, SEEN.face.landmarks)


def test_a_probe_without_a_photo_waits_too(asked):
    found = asked.take("staff", asked.keep(Pending("staff", None, PENDING.probe, Context(), None, 1, (), asks=False)))
    assert (found.seen, found.context, found.asks) == (None, Context(), False)


def test_the_picture_of_a_face_is_not_kept(asked):
    assert asked.take("staff", asked.keep(PENDING)).seen.crop.size == 0


def test_a_probe_does_not_wait_for_ever(timed, clock):
    answer = timed.keep(PENDING)
    clock.now += WAIT_SECONDS
    with pytest.raises(AnswerNotFoundError):
        timed.take("staff", answer)


@pytest.mark.parametrize("gallery", ["staff", "guests"])
def test_an_answer_nobody_gave_or_of_another_gallery_is_not_found(asked, gallery):
    answer = asked.keep(PENDING) if gallery == "guests" else "a_0"
    with pytest.raises(AnswerNotFoundError):
        asked.take(gallery, answer)


ANNA, GATE = Guess("person", 7), Guess("device", "gate")


def fail(asked, times, guess=ANNA):
    for _ in range(times):
        asked.admit("staff", guess)


@pytest.mark.parametrize("guess", [ANNA, GATE], ids=str)
def test_tries_without_success_lock_a_person_or_a_device_at_every_replica(asked, shared, guess):
    fail(asked, TRIES, guess)
    for replica in (asked, Asked(shared)):
        with pytest.raises(DigitsLockedError) as refusal:
            replica.admit("staff", guess)
        assert LOCKED_SECONDS - 60 < refusal.value.retry_after <= LOCKED_SECONDS + 1
    for kind, name in (("person", 8), ("device", "7"), ("device", "other")):
        asked.admit("staff", Guess(kind, name))
    asked.admit("guests", guess)


def test_a_lock_lasts_its_full_time_from_the_last_wrong_try(timed, clock):
    fail(timed, TRIES - 1)
    clock.now += LOCKED_SECONDS - 1
    fail(timed, 1)
    clock.now += LOCKED_SECONDS - 1
    with pytest.raises(DigitsLockedError) as refusal:
        timed.admit("staff", ANNA)
    assert refusal.value.retry_after == 2
    clock.now += 1
    fail(timed, TRIES)


def test_tries_that_are_refused_do_not_prolong_a_lock(timed, clock):
    fail(timed, TRIES)
    clock.now += LOCKED_SECONDS - 1
    with pytest.raises(DigitsLockedError):
        timed.admit("staff", ANNA)
    clock.now += 1
    timed.admit("staff", ANNA)


def test_right_digits_clear_the_slate(asked):
    fail(asked, TRIES - 1)
    asked.succeeded("staff", ANNA)
    fail(asked, TRIES)
    with pytest.raises(DigitsLockedError):
        asked.admit("staff", ANNA)


def test_a_probe_with_a_photo_on_top_is_spent_for_every_replica(asked, shared):
    pending = asked.take("staff", asked.keep(PENDING))
    asked.spend(pending)
    with pytest.raises(AnswerNotFoundError):
        Asked(shared).spend(pending)
    with pytest.raises(AnswerNotFoundError):
        asked.take("staff", pending.key)
