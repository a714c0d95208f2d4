"""What every plan promises about its batches."""

import numpy as np
import pytest

from training.errors import DataError
from training.samplers import MixedPlan, PeoplePlan, RandomPlan

LABELS = np.repeat(np.arange(10), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10])


def test_an_epoch_shows_every_photo_at_most_once_and_all_but_a_last_part_batch():
    epoch = RandomPlan(23, 5).epoch(0)
    assert epoch.shape == (4, 5)
    assert len(np.unique(epoch)) == 20


@pytest.mark.parametrize("plan", [RandomPlan(55, 5), PeoplePlan(LABELS, 3, 2), MixedPlan([20, 35], [1, 1], 6)])
def test_epochs_differ_and_repeat_exactly(plan):
    assert np.array_equal(plan.epoch(3), plan.epoch(3))
    assert not np.array_equal(plan.epoch(3), plan.epoch(4))
    assert plan.epoch(3).shape[0] == plan.steps


def test_a_batch_of_people_holds_p_people_with_k_photos():
    for batch in PeoplePlan(LABELS, 4, 3).epoch(1):
        people, counts = np.unique(LABELS[batch], return_counts=True)
        assert len(people) == 4
        assert counts.tolist() == [3, 3, 3, 3]


def test_a_person_s_photos_repeat_only_where_there_are_too_few():
    for batch in PeoplePlan(LABELS, 4, 3).epoch(1):
        for photos in batch.reshape(4, 3):
            have = (LABELS[photos[0]] == LABELS).sum()
            assert len(np.unique(photos)) == 3 if have >= 3 else len(np.unique(photos)) <= have


def test_a_mix_keeps_its_shares_in_every_batch():
    plan = MixedPlan([100, 50, 10], [5, 3, 2], 20)
    assert plan.shares() == [10, 6, 4]
    for batch in plan.epoch(0):
        assert [((batch >= a) & (batch < b)).sum() for a, b in ((0, 100), (100, 150), (150, 160))] == [10, 6, 4]


def test_a_small_data_set_of_a_mix_is_used_evenly_over_epochs():
    plan = MixedPlan([100, 7], [1, 1], 10)
    shown = np.concatenate([plan.epoch(i) for i in range(5)])
    counts = np.bincount(shown[shown >= 100] - 100, minlength=7)
    assert counts.max() - counts.min() <= 1


def test_every_data_set_of_a_mix_has_a_place():
    assert MixedPlan([1000, 1000], [1000, 1], 8).shares() == [7, 1]


@pytest.mark.parametrize(
    "make",
    [
        lambda: RandomPlan(3, 4),
        lambda: PeoplePlan(np.zeros(10, np.int64), 2, 2),
        lambda: MixedPlan([5, 0], [1, 1], 2),
        lambda: MixedPlan([5, 5], [1], 2),
    ],
)
def test_too_little_data_for_one_batch_is_refused(make):
    with pytest.raises(DataError):
        make()
