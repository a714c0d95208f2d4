import pytest

from service.imports.rate import WINDOW_SECONDS, Rate


class Clock:
    """A clock that is set."""

    seconds = 100.0

    def __call__(self):
        return self.seconds


@pytest.fixture
def clock():
    return Clock()


def watched(clock, *seen):
    """A rate that was told of counts, each so many seconds after the first."""
    rate = Rate(clock)
    for after, done in seen:
        clock.seconds = 100.0 + after
        rate.see(done)
    return rate


def test_rows_that_were_done_before_the_first_look_do_not_count(clock):
    assert watched(clock, (0, 5000), (4, 5100)).per_second() == 25


def test_nothing_is_said_of_rows_that_are_watched_for_a_moment_only(clock):
    assert Rate(clock).per_second() is None
    assert watched(clock, (0, 5000), (1, 5000)).per_second() is None


def test_an_import_that_stands_still_goes_at_no_rate(clock):
    assert watched(clock, (0, 5000), (WINDOW_SECONDS + 1, 5000)).per_second() == 0


def test_what_was_long_ago_is_forgotten(clock):
    assert watched(clock, (0, 0), (1, 1000), (20, 1100), (25, 1200)).per_second() == pytest.approx(200 / 24)
    assert watched(clock, (0, 0), (1, 1000), (20, 1100), (31, 1210)).per_second() == 10


def test_a_count_out_of_date_changes_nothing(clock):
    assert watched(clock, (0, 0), (2, 100), (4, 50)).per_second() == 25
