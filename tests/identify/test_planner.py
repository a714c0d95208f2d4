import numpy as np
import pytest

from service.identify.budget import floors
from service.identify.planner import ASK_SHARE, Rule, Tier, in_order, look
from service.identify.prior import digits_given
from tests.identify.gallery import DEVIATION, EVERYBODY, HABITS, PEOPLE, RESIDENTS, budget, scale, scales, share_out

DEVICE = Tier("device", np.array([3, 7, 200]))
REGION = Tier("region", np.flatnonzero(RESIDENTS.home == 1))
TIERS = (DEVICE, REGION)


def answer(scores, found=None, rule=None, tiers=TIERS, top=5):
    """Look for a probe that has these cosines with everybody."""
    scores = np.asarray(scores)

    def search(k):
        order = np.argsort(-scores)[:k]
        return order, scores[order]

    return look(found or budget(), rule or Rule(), HABITS, tiers, lambda rows: scores[rows], search, top=top)


def scores_of(**given):
    """Cosines near zero, but for some people named like `p3=0.6`."""
    scores = np.random.default_rng(0).normal(0, 0.02, PEOPLE)
    for name, value in given.items():
        scores[int(name[1:])] = value
    return scores


def test_a_guest_of_the_device_is_found_in_the_first_tier():
    found = answer(scores_of(p3=0.6))
    assert (found.decision, found.rows[0]) == ("match", 3)
    assert [tier.scored for tier in found.tiers] == [3]


def test_somebody_from_the_region_is_found_in_the_second():
    found = answer(scores_of(p50=0.6), rule=Rule(certainty=0.9))
    assert (found.decision, found.rows[0]) == ("match", 50)
    assert [(tier.tier, tier.scored) for tier in found.tiers] == [("device", 3), ("region", 148)]


def test_a_traveller_is_found_in_the_whole_gallery():
    found = answer(scores_of(p390=0.65), rule=Rule(certainty=0.9))
    assert (found.decision, found.rows[0]) == ("match", 390)
    assert [tier.tier for tier in found.tiers] == ["device", "region", "gallery"]


def test_a_stranger_is_unknown_after_everybody_was_examined():
    found = answer(scores_of())
    assert found.decision == "unknown"
    assert found.tiers[-1].tier == "gallery"


def test_a_posterior_is_prior_times_likelihood_over_everything():
    scores = scores_of(p3=0.35, p7=0.3)
    found = answer(scores, rule=Rule(certainty=0.9999999))
    prior = budget().prior
    rows = np.arange(PEOPLE)
    joint = prior.of(rows) * np.exp(scale().llr(scores))
    order = np.argsort(-scores)[: 5 + 16]
    examined = np.union1d(np.union1d(DEVICE.rows, REGION.rows), order)
    missed = 1 - float(scale().found(scores[order[-1]]))
    rest = (prior.enrolled - prior.of(examined).sum()) * missed
    expected = joint[3] / (prior.unknown + joint[examined].sum() + rest)
    assert found.posteriors[0] == pytest.approx(expected)


def test_before_everybody_is_examined_the_others_count_with_their_prior():
    found = answer(scores_of(p3=0.6))
    prior = budget().prior
    joint = prior.of(DEVICE.rows) * np.exp(scale().llr(scores_of(p3=0.6)[DEVICE.rows]))
    rest = prior.enrolled - prior.of(DEVICE.rows).sum()
    assert found.posteriors[0] == pytest.approx(joint[0] / (prior.unknown + joint.sum() + rest))


@pytest.mark.parametrize("certainty", [0.5, 0.99])
def test_a_match_reaches_both_its_threshold_and_the_certainty(certainty):
    for similarity in np.linspace(0.2, 0.6, 60):
        found = answer(scores_of(p3=similarity), rule=Rule(certainty=certainty))
        passes = similarity >= found.thresholds[0] and found.posteriors[0] >= certainty
        assert (found.decision == "match") == bool(passes)


def test_more_certainty_accepts_less():
    scores = scores_of(p3=0.36)
    assert answer(scores, rule=Rule(certainty=0.5)).decision == "match"
    assert answer(scores, rule=Rule(certainty=0.99999)).decision == "unknown"


def test_two_people_who_both_look_like_it_leave_it_uncertain():
    assert answer(scores_of(p3=0.6, p7=0.6), rule=Rule(certainty=0.9)).decision == "unknown"


def test_somebody_taken_out_of_the_index_meanwhile_is_passed_over():
    scores = scores_of(p7=0.6)
    scores[3] = np.nan
    found = answer(scores)
    assert found.rows[0] == 7
    assert 3 not in found.rows


def test_candidates_come_with_their_prior_odds():
    found = answer(scores_of(p3=0.6))
    pi = budget().prior.of(found.rows)
    np.testing.assert_allclose(found.prior_log_odds, np.log(pi / (1 - pi)))


def test_tiers_are_ordered_by_the_mates_they_find_for_their_cost():
    street = Tier("street", REGION.rows[:20])
    assert [tier.name for tier in in_order((street, DEVICE), budget())] == ["device", "street"]


def test_a_tier_dearer_than_a_full_scan_is_left_out():
    unlikely = Tier("far away", np.flatnonzero(RESIDENTS.home == 2))
    assert [tier.name for tier in in_order((unlikely, DEVICE), budget())] == ["device"]


def test_a_scan_that_could_hardly_find_anybody_is_not_run():
    found = answer(scores_of(), rule=Rule(pointless=0.99))
    assert found.stopped
    assert "gallery" not in [tier.tier for tier in found.tiers]


def test_digits_are_asked_for_where_they_could_decide():
    scores = scores_of(p390=0.4)
    assert answer(scores, rule=Rule(certainty=0.99)).decision == "unknown"
    assert answer(scores, rule=Rule(certainty=0.99, digits=4)).decision == "ask"
    assert answer(scores_of(), rule=Rule(certainty=0.99, digits=4)).decision == "unknown"


def test_digits_decide_within_their_share_of_the_budget():
    before = budget().prior
    with_digits = digits_given(before, np.array([17, 390]), 4, HABITS)
    second = share_out(with_digits, scales(), 0.01 * ASK_SHARE, floors(0.01, PEOPLE, np.array([17, 390])), insist=True)
    found = answer(scores_of(p390=0.42), second, tiers=(Tier("digits", np.array([17, 390])),))
    assert (found.decision, found.rows[0]) == ("match", 390)
    assert found.tiers[0].scored == 2


@pytest.mark.parametrize("safe", [False, True])
def test_strangers_are_accepted_no_oftener_than_stated(safe):
    random, alpha, trials = np.random.default_rng(5), 0.02, 4000
    found = budget(alpha)
    taken = sum(
        answer(random.normal(0, DEVIATION, PEOPLE), found, Rule(certainty=0.5, safe=safe)).decision == "match"
        for _ in range(trials)
    )
    assert taken <= alpha * trials + 3 * np.sqrt(alpha * trials)
    if not safe:
        assert taken >= 0.4 * alpha * trials


def test_safe_mode_finds_a_clear_face_and_shows_its_evidence():
    found = answer(scores_of(p3=0.65), rule=Rule(safe=True))
    assert found.decision == "match"
    assert found.evidence >= 1 / 0.01


def test_evidence_is_the_weighted_likelihood_of_all_who_were_examined():
    scores = scores_of(p3=0.6)
    found, prior = answer(scores), budget().prior
    weights = prior.of(DEVICE.rows) / (1 - prior.unknown)
    assert found.evidence == pytest.approx(weights @ np.exp(scale().llr(scores[DEVICE.rows])) / scales().excess)


def test_an_empty_tier_and_an_empty_gallery_answer_unknown():
    found = look(
        budget(),
        Rule(),
        HABITS,
        (Tier("device", np.empty(0, np.int64)),),
        lambda rows: np.zeros(len(rows)),
        lambda _: (np.empty(0, np.int64), np.empty(0)),
        top=5,
    )
    assert found.decision == "unknown"
    assert len(found.rows) == 0


def test_every_row_of_the_gallery_has_a_threshold():
    assert np.isfinite(budget().thresholds(EVERYBODY)).all()
