"""What is learnt from a gallery over REST: habits from its visits, a calibration from its people."""

from datetime import UTC, datetime, timedelta

from service.gallery import galleries, people
from service.gallery.visits import NewVisit
from tests.conftest import assert_problem
from tests.faces import orl_photo
from tests.recognition.test_own import PEOPLE, enrolled, strangers


def test_habits_are_fitted_to_visits_and_kept(service, gallery):
    for person in ("anna", "bert", "carl"):
        gallery.enrolled(person, orl_photo(ord(person[0]) - 96, 1))
    with service.product.catalog.write() as tx:
        pk = galleries.get(tx, gallery.name).pk
        who = people.get(tx, pk, "anna").pk
        for days in range(300):
            at = datetime.now(UTC) - timedelta(days=days)
            service.product.visits.record(tx, pk, NewVisit(who, None, "gate-7", None, None, at, "card"))
    answer = service.post(f"{gallery.path}/habits").json()
    assert answer["visits"] >= 50
    assert answer["bits"] >= answer["bits_before"] > 1
    with service.product.catalog.read() as reading:
        kept = galleries.get(reading, gallery.name).habits
    assert kept.items() <= answer["habits"].items()
    assert {"tau", "eps", "travel_d0", "travel_beta", "travel_kappa"} <= kept.keys()
    (face,) = gallery.identify(orl_photo(1, 2), context='{"device": "gate-7"}').json()["faces"]
    assert face["person"] == "anna"


def test_too_few_visits_fit_nothing(service, gallery):
    service.post(f"{gallery.path}/visits", json={"person": None, "device": "gate-7", "confirmed_by": "card"})
    assert_problem(service.post(f"{gallery.path}/habits"), 422, "calibration_impossible")


# --- calibration ---


def test_a_gallery_is_measured_on_its_own_people(service, gallery):
    enrolled(service.product, gallery.name, strangers())
    assert_problem(service.get(f"{gallery.path}/calibration"), 404, "not_found")
    answer = service.post(f"{gallery.path}/calibration")
    assert answer.status_code == 200
    told = answer.json()
    assert (told["version"], told["people"]) == (1, PEOPLE)
    everybody = told["tiers"]["all"]
    assert everybody["pairs"] == PEOPLE * (PEOPLE - 1) // 2
    assert everybody["thresholds_low"][-1] <= everybody["thresholds"][-1] <= everybody["thresholds_high"][-1]
    assert len(everybody["figures"]["mated"]) == len(everybody["figures"]["edges"]) - 1
    kept = service.get(f"{gallery.path}/calibration").json()
    assert kept["tiers"]["all"]["thresholds"] == everybody["thresholds"]
    assert kept["tiers"]["all"]["figures"] is None


def test_a_gallery_that_is_too_small_is_refused(service, gallery):
    assert_problem(service.post(f"{gallery.path}/calibration"), 422, "calibration_impossible")
    gallery.enrolled("anna", orl_photo(1, 1))
    assert_problem(service.post(f"{gallery.path}/calibration"), 422, "calibration_impossible")
