"""Attributes as evidence over REST: opt-in for a gallery, bounded, and of no effect where nothing is known."""

import json

import pytest

from tests.conftest import assert_problem
from tests.faces import orl_photo

SEEN = {"gender": {"kind": "category"}, "height": {"kind": "number", "spread": 4}}


@pytest.fixture
def club(gallery):
    """Four people, two of them women, whose heights are known but for one."""
    known = {"anna": ("f", 165), "bert": ("m", 185), "carla": ("f", 172), "dirk": ("m", None)}
    for number, (person, (gender, height)) in enumerate(known.items(), start=1):
        gallery.enrolled(person, orl_photo(number, 1))
        attributes = {"gender": gender} | ({"height": height} if height else {})
        gallery.service.patch(f"{gallery.people}/{person}", json={"attributes": attributes})
    return gallery


def observable(gallery, given=SEEN):
    answer = gallery.service.patch(gallery.path, json={"observed": given})
    assert answer.status_code == 200, answer.text
    return answer.json()


def first(gallery, observed=None, number=1):
    context = {"device": "gate"} | ({"observed": observed} if observed is not None else {})
    (face,) = gallery.identify(orl_photo(number, 2), context=json.dumps(context)).json()["faces"]
    return face["candidates"][0]


def test_it_counts_only_where_the_gallery_says_so(club):
    plain = first(club)
    assert first(club, {"gender": "f"}) == plain
    observable(club)
    assert first(club) == plain
    assert first(club, {"gender": "f"})["prior_log_odds"] > plain["prior_log_odds"]
    assert first(club, {"gender": "m"})["prior_log_odds"] < plain["prior_log_odds"]


def test_a_height_of_a_sensor_speaks_for_those_of_that_height(club):
    observable(club)
    near, far = first(club, {"height": [163, 168]}), first(club, {"height": [183, 188]})
    assert near["prior_log_odds"] > first(club)["prior_log_odds"] > far["prior_log_odds"]
    assert abs(near["prior_log_odds"] - far["prior_log_odds"]) < 2.6


def test_nobody_is_excluded_by_it(club):
    observable(club)
    assert first(club, {"gender": "m", "height": 185})["person"] == "anna"


@pytest.mark.parametrize("observed", [{"shoes": "red"}, {"gender": "unheard of"}, {}], ids=str)
def test_an_attribute_or_a_value_nobody_has_has_no_effect(club, observed):
    plain = first(club)
    observable(club, {**SEEN, "shoes": {"kind": "category"}})
    assert first(club, observed)["prior_log_odds"] == pytest.approx(plain["prior_log_odds"])


def test_unknown_on_the_persons_side_has_no_effect(club):
    observable(club)
    (face,) = club.identify(orl_photo(4, 2), context='{"observed": {"height": 150}}').json()["faces"]
    assert (face["decision"], face["person"]) == ("match", "dirk")


def test_who_changes_is_seen_as_they_are_now(club):
    observable(club)
    before = first(club, {"gender": "f"})
    club.service.patch(f"{club.people}/anna", json={"attributes": {"gender": "m"}})
    assert first(club, {"gender": "f"})["prior_log_odds"] < before["prior_log_odds"]


@pytest.mark.parametrize(
    "observed", [{"height": "tall"}, {"height": [190, 160]}, {"height": [1, 2, 3]}, {"gender": ["f"]}], ids=str
)
def test_what_cannot_be_observed_is_refused(club, observed):
    observable(club)
    context = json.dumps({"observed": observed})
    assert_problem(club.identify(orl_photo(1, 2), context=context), 422, "invalid_request")


@pytest.mark.parametrize(
    "given",
    [
        {"x": {"kind": "colour"}},
        {"x": {"kind": "number", "spread": 0}},
        {"x": {}},
        {"x": {"kind": "number", "power": 2}},
    ],
    ids=str,
)
def test_an_observable_that_cannot_be_is_refused(gallery, given):
    assert_problem(gallery.service.patch(gallery.path, json={"observed": {"x": given}}), 422, "invalid_request")


def test_powers_are_fitted_and_the_gain_is_told_by_group(club):
    told = observable(club, {"gender": {"kind": "category"}})
    assert told["observed"]["gender"]["power"] == 1.0
    cases = [{"person": person, "observed": {"gender": "f"}} for person in ("anna", "bert", "dirk", "carla") * 20]
    answer = club.service.post(f"{club.path}/observed", json={"cases": cases})
    assert answer.status_code == 200, answer.text
    gain = answer.json()["gains"]["gender"]
    assert (gain["power"], gain["cases"]) == (0.0, 40)
    assert club.service.get(club.path).json()["observed"]["gender"]["power"] == 0.0


def test_too_few_cases_or_nothing_observable_are_refused(club):
    case = {"person": "anna", "observed": {"gender": "f"}}
    for _ in range(2):
        answer = club.service.post(f"{club.path}/observed", json={"cases": [case]})
        assert_problem(answer, 422, "calibration_impossible")
        observable(club)
    stranger = {"person": "nobody", "observed": {}}
    answer = club.service.post(f"{club.path}/observed", json={"cases": [stranger]})
    assert_problem(answer, 404, "person_not_found")
