"""Intervals over people against draws of photos written out one by one, and against what they are for."""

import numpy as np
import pytest

from training.bootstrap import fnir_interval, tar_interval


def drawn_slowly(people, rounds, seed):
    random = np.random.default_rng(seed)
    for _ in range(rounds):
        yield random.integers(people, size=people).tolist()


def strictest(scores, rate):
    """The highest score that must be refused so that no larger share than the rate lies above it."""
    ranked = sorted(scores, reverse=True)
    return ranked[int(rate * len(ranked) * (1 + 1e-12))]


def test_a_tar_s_interval_is_that_of_people_drawn_again():
    random = np.random.default_rng(5)
    person = random.integers(12, size=60)
    pairs = random.integers(12, size=(300, 2))
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    mated, impostors = random.normal(1, 1, 60), random.normal(0, 1, len(pairs))
    rates = []
    for draw in drawn_slowly(12, 50, seed=3):
        again = [score for who in draw for score, owner in zip(mated, person, strict=True) if owner == who]
        others = [
            score
            for score, (a, b) in zip(impostors, pairs.tolist(), strict=True)
            for _ in range(draw.count(a) * draw.count(b))
        ]
        threshold = strictest(others, 0.1)
        rates.append(sum(score > threshold for score in again) / len(again))
    expected = np.percentile(rates, [2.5, 97.5])
    assert tar_interval(mated, person, impostors, pairs, 0.1, rounds=50, seed=3) == pytest.approx(expected.tolist())


def test_an_fnir_s_interval_is_that_of_people_drawn_again():
    random = np.random.default_rng(6)
    person, stranger = random.integers(10, size=50), random.integers(20, 35, size=80)
    returned, strangers = random.normal(1, 1, 50), random.normal(0, 1, 80)
    known, unknown = np.unique(person), np.unique(stranger)
    rates = []
    draws = zip(drawn_slowly(len(known), 40, seed=1), drawn_slowly(len(unknown), 40, seed=2), strict=True)
    for mates, others in draws:
        threshold = strictest([s for who in others for s in strangers[stranger == unknown[who]]], 0.2)
        scores = [s for who in mates for s in returned[person == known[who]]]
        rates.append(sum(score <= threshold for score in scores) / len(scores))
    expected = np.percentile(rates, [2.5, 97.5]).tolist()
    assert fnir_interval(returned, person, strangers, stranger, 0.2, rounds=40, seed=1) == pytest.approx(expected)


def test_photos_of_few_people_are_worth_less_than_as_many_of_many():
    random = np.random.default_rng(0)
    impostors, pairs = np.zeros(1000), np.stack([np.arange(1000), np.arange(1000) + 1], axis=1)
    widths = []
    for people in (20, 400):
        easy = random.random(people) < 0.9
        person = np.repeat(np.arange(people), 400 // people)
        low, high = tar_interval(np.where(easy, 1.0, -1.0)[person], person, impostors, pairs, 0.01)
        widths.append(high - low)
    assert widths[0] > 2.5 * widths[1]
