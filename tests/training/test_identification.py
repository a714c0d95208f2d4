"""Open-set search, counted again probe by probe and person by person."""

import numpy as np
import pytest

from training.errors import EvaluationError, RateNotSupportedError
from training.identification import det_points, fnir_at_fpir, rank_rates, search


def crowd(people, each, seed, spread=0.6):
    """(n, 16) unit vectors around a centre for each person, the same centres for every seed."""
    centres = np.random.default_rng(99).normal(size=(200, 16))
    names = np.repeat(people, each)
    vectors = centres[names] + np.random.default_rng(seed).normal(0, spread, (len(names), 16))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), names


GALLERY, OWNERS = crowd(np.arange(0, 40), 3, seed=1)
PROBES, PEOPLE = crowd(np.arange(20, 80), 4, seed=2, spread=1.0)


@pytest.mark.parametrize("block", [1, 7, 1_000_000])
def test_a_search_finds_what_a_loop_over_people_finds(block):
    shuffled = np.random.default_rng(0).permutation(len(OWNERS))
    found = search(PROBES, PEOPLE, GALLERY[shuffled], OWNERS[shuffled], block=block)
    for i, (probe, person) in enumerate(zip(PROBES, PEOPLE, strict=True)):
        by_person = {name: float((GALLERY[name == OWNERS] @ probe).max()) for name in range(40)}
        winner = max(by_person, key=by_person.get)
        assert found.best[i] == pytest.approx(by_person[winner], abs=1e-6)
        assert found.best_person[i] == winner
        if person in by_person:
            assert found.mate[i] == pytest.approx(by_person[person], abs=1e-6)
            assert found.rank[i] == 1 + sum(score > by_person[person] for score in by_person.values())
        else:
            assert found.rank[i] == 0
            assert found.mate[i] == -np.inf


def test_fnir_counts_the_mated_probes_whose_mate_is_not_returned_first():
    found = search(PROBES, PEOPLE, GALLERY, OWNERS)
    strangers = PEOPLE >= 40
    rate = fnir_at_fpir(found, PEOPLE, strangers, 0.05)
    assert np.mean(found.best[strangers] >= rate.threshold) <= 0.05
    misses = [
        not (found.best[i] >= rate.threshold and found.best_person[i] == PEOPLE[i]) for i in np.flatnonzero(~strangers)
    ]
    assert rate.fnir == pytest.approx(np.mean(misses))
    assert (rate.mated, rate.non_mated) == (80, 160)
    assert 0 < rate.misidentified <= rate.fnir
    assert rate.low < rate.fnir < rate.high


def test_people_of_another_gallery_are_neither_mated_nor_strangers():
    strangers = PEOPLE >= 60  # 40 to 59 are in a second gallery
    rate = fnir_at_fpir(search(PROBES, PEOPLE, GALLERY, OWNERS), PEOPLE, strangers, 0.05)
    assert (rate.mated, rate.non_mated) == (80, 80)


def test_an_fpir_that_the_strangers_cannot_vouch_for_is_refused():
    found = search(PROBES, PEOPLE, GALLERY, OWNERS)
    with pytest.raises(RateNotSupportedError, match="at least 300 non-mated probes, there are 160"):
        fnir_at_fpir(found, PEOPLE, PEOPLE >= 40, 0.01)


def test_rank_rates_rise_to_one():
    found = search(PROBES, PEOPLE, GALLERY, OWNERS)
    rates = rank_rates(found, [1, 5, 40])
    ranked = found.rank[found.rank > 0]
    assert rates == [np.mean(ranked <= 1), np.mean(ranked <= 5), 1.0]


def test_the_det_points_agree_with_the_rate_at_a_threshold():
    found = search(PROBES, PEOPLE, GALLERY, OWNERS)
    strangers = PEOPLE >= 40
    fpir, fnir = det_points(found, PEOPLE, strangers)
    mated = np.flatnonzero(~strangers)
    for x, y in zip(fpir, fnir, strict=True):
        threshold = np.sort(found.best[strangers])[160 - round(x * 160)]
        right = (found.best[mated] >= threshold) & (found.best_person[mated] == PEOPLE[mated])
        assert y == pytest.approx(1 - right.mean())


def test_an_empty_gallery_and_a_gallery_without_mates_are_refused():
    with pytest.raises(EvaluationError):
        search(PROBES, PEOPLE, GALLERY[:0], OWNERS[:0])
    with pytest.raises(EvaluationError, match="in the gallery"):
        rank_rates(search(PROBES, PEOPLE + 1000, GALLERY, OWNERS), [1])
