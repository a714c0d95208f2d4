import hashlib
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from service.gallery import faces, forgetting, galleries, people
from service.gallery.catalog import Catalog
from service.gallery.records import NewTemplate, PersonFields
from service.gallery.visits import CatalogVisits, NewVisit
from service.identify.calibration import fit
from service.identify.fusion import fuse
from service.identify.planner import ASK_SHARE
from service.identify.prior import Habits
from service.identify.travel import Gravity
from service.recognition.calibrated import Calibrated
from service.recognition.everybody import Everybody
from service.recognition.expectations import RATES_KEPT, Context, Expectations

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOME, REGION = "881f8d7a49fffff", "851f8d7bfffffff"
FAR = "8828308281fffff"


@pytest.fixture
def catalog(tmp_path):
    opened = Catalog.open(tmp_path / "catalog.sqlite", secret=b"s" * 32, fuse=fuse)
    yield opened
    opened.close()


@pytest.fixture
def staff(catalog):
    """The key of a gallery of thirty people; p0 to p9 live in one town, p10 to p19 in another."""
    with catalog.write() as tx:
        pk = galleries.create(tx, "staff", model="m", model_digest="d", dim=8).pk
        for number in range(30):
            enrolled(tx, pk, number, HOME if number < 10 else FAR if number < 20 else None)
    return pk


def enrolled(tx, pk, number, region=None, **fields):
    made = people.create(tx, pk, f"p{number}", PersonFields(region=region, **fields))
    vector = np.random.default_rng(number).standard_normal(8)
    vector = (vector / np.linalg.norm(vector)).astype(np.float32)
    digest = hashlib.sha256(str(number).encode()).hexdigest()
    faces.add(tx, pk, f"p{number}", [NewTemplate(digest, vector, 0.7, (0, 0, 0, 0))], limit=5)
    return made.pk


@pytest.fixture(scope="module")
def calibration():
    random = np.random.default_rng(0)
    return fit(random.normal(0.6, 0.1, 2_000), random.normal(0, 0.1, 300_000))


@pytest.fixture
def expect(catalog, staff, calibration):
    expectations = Expectations(catalog, CatalogVisits(), Calibrated(calibration), Habits(), Gravity())

    def expected(alpha=0.01, now=NOW, scan_share=0.25, **context):
        return expectations.of(staff, Context(**context), alpha, insist=True, now=now, scan_share=scan_share)

    expected.plans = expectations._plans
    return expected


def key(catalog, staff, number):
    with catalog.read() as reading:
        return people.get(reading, staff, f"p{number}").pk


def visited(catalog, staff, number, times=1, device="gate", days=0, *, region=REGION):
    with catalog.write() as tx:
        who = None if number is None else people.get(tx, staff, f"p{number}")
        for _ in range(times):
            new = NewVisit(who and who.pk, who and who.region, device, None, region, NOW - timedelta(days=days), "card")
            CatalogVisits().record(tx, staff, new)


def of(expected, *rows):
    return expected.budget.prior.of(np.array(rows))


def test_visits_make_a_person_likelier_and_age(catalog, staff, expect):
    visited(catalog, staff, 3, times=4)
    visited(catalog, staff, 4, times=4, days=200)
    fresh, stale, other = of(expect(device="gate"), *(key(catalog, staff, n) for n in (3, 4, 5)))
    assert fresh > stale > other


def test_the_plan_is_kept_until_something_changes(catalog, staff, expect):
    first = expect(device="gate")
    assert expect(device="gate") is first
    visited(catalog, staff, 3)
    assert expect(device="gate") is not first


def test_of_the_rates_that_callers_choose_few_are_kept_and_those_the_ones_used_last(catalog, staff, expect):
    first = expect(device="gate")
    for number in range(100):
        expect(device="gate", alpha=0.011 + number * 1e-5)
        assert expect(device="gate") is first
    assert max(len(plan.budgets) for plan in expect.plans.values()) == RATES_KEPT


def test_where_a_search_of_everybody_is_cheap_only_likely_tiers_come_before_it(catalog, staff, expect):
    visited(catalog, staff, 3, times=40)
    dear, cheap = (
        expect(device="gate", scan_share=share, alpha=alpha) for share, alpha in ((10.0, 0.01), (0.04, 0.02))
    )
    assert "region" in [tier.name for tier in dear.tiers]
    assert "region" not in [tier.name for tier in cheap.tiers]


def test_the_next_day_is_planned_anew(catalog, staff, expect):
    visited(catalog, staff, 3)
    today, tomorrow = expect(device="gate"), expect(device="gate", now=NOW + timedelta(days=30))
    assert of(today, key(catalog, staff, 3)) > of(tomorrow, key(catalog, staff, 3))


def test_somebody_enrolled_since_is_expected_too(catalog, staff, expect):
    before = expect(device="gate").budget.prior.residents.people
    with catalog.write() as tx:
        newcomer = enrolled(tx, staff, 99, HOME)
    after = expect(device="gate").budget.prior
    assert after.residents.people == before + 1
    assert after.residents.homes(np.array([newcomer]))[0] > 0


def test_somebody_forgotten_since_is_expected_no_more(catalog, staff, expect):
    visited(catalog, staff, 3)
    gone = key(catalog, staff, 3)
    assert gone in expect(device="gate").budget.prior.rows
    with catalog.write() as tx:
        forgetting.forget(tx, staff, "p3")
    after = expect(device="gate").budget.prior
    assert gone not in after.rows
    assert after.residents.people == 29


def test_who_moves_house_is_expected_there(catalog, staff, expect):
    mover = key(catalog, staff, 3)
    before = expect(cell=HOME)
    with catalog.write() as tx:
        people.patch(tx, staff, "p3", {"region": FAR})
    assert of(expect(cell=HOME), mover) < of(before, mover)


def test_neighbours_are_likelier_than_people_from_far_away(catalog, staff, expect):
    near, far = of(expect(cell=HOME), key(catalog, staff, 3), key(catalog, staff, 13))
    assert near > 10 * far


def test_travels_that_were_seen_bring_far_people_nearer(catalog, staff, expect):
    before = of(expect(cell=HOME), key(catalog, staff, 13))[0]
    visited(catalog, staff, 14, times=200, device="elsewhere")
    # Travels are read now and then; what starts afresh reads them at once.
    again = Expectations(
        catalog, CatalogVisits(), Calibrated(fit(np.full(9, 0.6), np.linspace(-0.3, 0.3, 90))), Habits(), Gravity()
    )
    found = again.of(staff, Context(cell=HOME), 0.5, insist=False, now=NOW, scan_share=0.25)
    assert found.budget.prior.of(np.array([key(catalog, staff, 13)]))[0] > before


def test_a_device_that_tells_no_place_is_where_it_was_last_seen(catalog, staff, expect):
    visited(catalog, staff, 3)
    near, far = of(expect(device="gate"), key(catalog, staff, 5), key(catalog, staff, 15))
    assert near > far


def test_a_device_learns_how_many_strangers_come(catalog, staff, expect):
    before = expect(device="gate").budget.prior.unknown
    visited(catalog, staff, None, times=60)
    assert expect(device="gate").budget.prior.unknown > before


def test_a_device_nobody_knows_expects_everybody_alike(catalog, staff, expect):
    found = expect(device="new")
    assert np.ptp(of(found, *(key(catalog, staff, n) for n in (3, 13, 23)))) == pytest.approx(0)
    assert [tier.name for tier in found.tiers] == []


def test_where_digits_are_kept_a_share_of_the_rate_waits_for_them(catalog, staff, expect):
    assert expect(device="gate").budget.fpir == pytest.approx(0.01)
    with catalog.write() as tx:
        enrolled(tx, staff, 77, digits=catalog.digits_hash(staff, "1234"))
    asking = expect(device="gate")
    assert (asking.digits, asking.fpir) == (4, 0.01)
    assert asking.budget.fpir == pytest.approx(0.01 * (1 - ASK_SHARE))
    given = expect(device="gate", digits="1234")
    assert (given.digits, given.fpir) == (0, 0.01)
    assert given.budget.fpir == pytest.approx(0.01 * ASK_SHARE)
    assert given.tiers[0].name == "digits"


def test_an_own_device_that_two_people_share_is_nobodys(catalog, staff, expect):
    with catalog.write() as tx:
        enrolled(tx, staff, 71, device="phone")
    assert [tier.name for tier in expect(device="phone").tiers] == ["claim"]
    with catalog.write() as tx:
        enrolled(tx, staff, 72, device="phone")
    assert [tier.name for tier in expect(device="phone").tiers] == []


def something_happens(catalog, staff, turn, who):
    """One change of a kind that goes by the turn; returns who came."""
    with catalog.write() as tx:
        match turn % 5:
            case 0:
                enrolled(tx, staff, 100 + turn, HOME, attributes={"height": 150 + turn, "home": "flat"})
            case 1:
                forgetting.forget(tx, staff, who)
            case 2:
                people.patch(tx, staff, who, {"region": FAR if turn % 2 else None, "attributes": {"height": turn}})
            case 3:
                people.patch(tx, staff, who, {"name": "as before"})
            case _ if turn == 4:
                vector = np.eye(8, dtype=np.float32)[0]
                faces.add(tx, staff, "faceless", [NewTemplate("f" * 64, vector, 0.7, (0, 0, 0, 0))], limit=5)
            case _:
                for each in faces.of_person(tx, people.get(tx, staff, who).pk):
                    faces.remove(tx, staff, who, each.face)


def told(everybody, reading, staff):
    """Who is found, where each lives, who lives in the region of HOME, and the heights."""
    shown, map_, here = everybody.follow(reading, staff, Gravity(), REGION)
    names = {number: name for name, number in everybody.regions.items()}
    assert len(map_.lat) == len(shown.population)
    return (
        shown.rows.tolist(),
        [names.get(home) for home in shown.home.tolist()],
        {names.get(place): count for place, count in enumerate(shown.population.tolist()) if count},
        everybody.living_in(shown, here).tolist(),
        {name: np.nan_to_num(known.of_everybody(), nan=-1).tolist() for name, known in everybody.known.items()},
    )


def test_what_is_followed_step_by_step_is_what_is_read_at_once(catalog, staff):
    with catalog.write() as tx:
        galleries.update(tx, staff, {"observed": {"height": {"kind": "number"}, "home": {"kind": "number"}}})
        people.create(tx, staff, "faceless", PersonFields(region=HOME))
    random, followed = np.random.default_rng(5), Everybody()
    with catalog.read() as reading:
        told(followed, reading, staff)
    for turn in range(40):
        with catalog.read() as reading:
            who = str(random.choice([each.person for each in people.page(reading, staff).items]))
        something_happens(catalog, staff, turn, who)
        if turn % 3:  # now and then several revisions at once
            with catalog.read() as reading:
                assert told(followed, reading, staff) == told(Everybody(), reading, staff)


class Counting(CatalogVisits):
    """Visits that count how often a place was read."""

    def __init__(self):
        self.read = 0

    def at_place(self, reading, gallery_pk, kind, name):
        self.read += 1
        return super().at_place(reading, gallery_pk, kind, name)


def test_who_is_enrolled_elsewhere_makes_nobody_read_the_visits_again(catalog, staff, calibration):
    visits = Counting()
    expectations = Expectations(catalog, visits, Calibrated(calibration), Habits(), Gravity())

    def read():
        before = visits.read
        expectations.of(staff, Context(device="gate"), 0.01, insist=True, now=NOW, scan_share=0.25)
        return visits.read - before

    visited(catalog, staff, 3)
    assert read() > 0
    with catalog.write() as tx:
        enrolled(tx, staff, 99, HOME)
    assert read() == 0
    with catalog.write() as tx:
        forgetting.forget(tx, staff, "p3")
    assert read() > 0


def test_how_a_gallery_s_people_travel_is_its_own(catalog, staff, expect):
    def odds():
        near, far = of(expect(cell=HOME), key(catalog, staff, 3), key(catalog, staff, 13))
        return near / far

    before = odds()
    with catalog.write() as tx:
        galleries.update(tx, staff, {"habits": {"tau": 30.0, "travel_beta": 0.5}})
    assert odds() < 0.8 * before


def test_what_is_held_out_is_not_among_the_travels_that_shall_tell_it(catalog, staff, calibration):
    for days in range(10):
        visited(catalog, staff, 13, days=days)  # from far away, every day
    expectations = Expectations(catalog, CatalogVisits(), Calibrated(calibration), Habits(), Gravity())
    (scene,), everybody = expectations.scenes(staff, now=NOW)
    far = everybody.homes(np.array([key(catalog, staff, 13)]))[0]
    told = scene.affinity(Gravity(kappa=1e-9))[far]
    assert (scene.device.days < 0).sum() == 2
    assert told == pytest.approx(1.0)  # eight visits of eight
    strong = scene.affinity(Gravity(kappa=8.0))[far]
    assert strong == pytest.approx(0.5, abs=0.01)  # ten of ten would be 0.56
