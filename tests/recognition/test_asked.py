import numpy as np
import pytest

from service.errors import AnswerNotFoundError, DigitsLockedError
from service.recognition.asked import LOCKED_SECONDS, WAIT_SECONDS, WRONG, Asked, Pending
from service.recognition.expectations import Context

PENDING = Pending("staff", None, np.ones(4, np.float32), Context(device="gate"))


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
def asked(clock):
    return Asked(clock)


def test_a_probe_waits_for_its_digits_and_may_be_tried_again(asked):
    answer = asked.keep(PENDING)
    assert asked.take("staff", answer) is PENDING
    assert asked.take("staff", answer) is PENDING


def test_a_probe_does_not_wait_for_ever(asked, clock):
    answer = asked.keep(PENDING)
    clock.now += WAIT_SECONDS
    with pytest.raises(AnswerNotFoundError):
        asked.take("staff", answer)


@pytest.mark.parametrize("gallery", ["staff", "guests"])
def test_an_answer_nobody_gave_or_of_another_gallery_is_not_found(asked, gallery):
    answer = asked.keep(PENDING) if gallery == "guests" else "a_0"
    with pytest.raises(AnswerNotFoundError):
        asked.take(gallery, answer)


def wrong(asked, times, device="gate"):
    for _ in range(times):
        asked.admit("staff", device)
        asked.tried("staff", device, right=False)


def test_wrong_digits_lock_the_device_for_a_while(asked, clock):
    wrong(asked, WRONG)
    with pytest.raises(DigitsLockedError) as refusal:
        asked.admit("staff", "gate")
    assert 0 < refusal.value.retry_after <= LOCKED_SECONDS + 1
    asked.admit("staff", "other")
    asked.admit("guests", "gate")
    clock.now += LOCKED_SECONDS
    asked.admit("staff", "gate")


def test_right_digits_clear_the_slate(asked):
    wrong(asked, WRONG - 1)
    asked.tried("staff", "gate", right=True)
    wrong(asked, WRONG - 1)
    asked.admit("staff", "gate")
