"""Identify with a context: who comes where decides how much of a face is needed."""

import hashlib
import json
import re
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from service.errors import DigitsLockedError
from service.gallery import faces, galleries, people, schema
from service.gallery.records import NewTemplate, PersonFields
from service.gallery.visits import NewVisit
from service.identify.decision import decide, threshold
from service.recognition.expectations import Context
from service.recognition.identify import identify
from tests.conftest import Gallery, assert_problem, base64_of
from tests.faces import orl_photo

PEOPLE = 300


def vector(seed):
    drawn = np.random.default_rng(seed).standard_normal(128)
    return drawn / np.linalg.norm(drawn)


def like(person, cosine):
    """A probe at this cosine to a person and at none to the others, nearly."""
    truth, other = vector(person), vector(10_000 + person)
    other -= (other @ truth) * truth
    probe = cosine * truth + np.sqrt(1 - cosine**2) * other / np.linalg.norm(other)
    return probe.astype(np.float32)


@pytest.fixture(scope="module")
def town(service):
    """A gallery of 300 people; p0 to p4 come to the device `gate`, 100 live in one town and 100 in one far away."""
    service.post("/v1/galleries", json={"name": "town"})
    product = service.product
    with product.catalog.write() as tx:
        pk = galleries.get(tx, "town").pk
        for number in range(PEOPLE):
            fields = PersonFields(
                region="881f8d7a49fffff" if number < 100 else "8828308281fffff" if number < 200 else None,
                device="phone-9" if number == 9 else None,
                digits=product.catalog.digits_hash(pk, f"{number % 150:04d}") if number != 8 else None,
            )
            made = people.create(tx, pk, f"p{number}", fields)
            digest = hashlib.sha256(str(number).encode()).hexdigest()
            faces.add(tx, pk, f"p{number}", [NewTemplate(digest, like(number, 1.0), 0.7, (0, 0, 0, 0))], limit=5)
            if number < 5:
                for days in range(10):
                    at = datetime.now(UTC) - timedelta(days=days)
                    place = ("gate", "871f8d7a4ffffff", "851f8d7bfffffff")
                    product.visits.record(tx, pk, NewVisit(made.pk, fields.region, *place, at, "card"))
    product.views.of(pk).catch_up()
    yield Gallery(service, "town")
    service.delete("/v1/galleries/town")


@pytest.fixture
def ask(service, town):
    """Identifies a probe through the product, for which no key is needed."""

    def answered(probe, rate=0.003, certainty=0.9, *, safe=False, **context):
        async def work():
            return await identify(
                service.product,
                "town",
                None,
                probe,
                fpir=rate,
                context=Context(**context),
                certainty=certainty,
                safe=safe,
            )

        (face,) = service.portal.call(work).faces
        return face

    return answered


def test_a_guest_needs_less_of_a_face_than_without_a_prior(ask):
    with_prior, without = ask(like(2, 0.42), device="gate"), ask(like(2, 0.42))
    assert (with_prior.decision, with_prior.person) == ("match", "p2")
    assert without.decision == "unknown"
    assert with_prior.threshold < without.threshold


def test_a_guest_is_found_among_the_few_who_come_here(ask):
    face = ask(like(2, 0.6), device="gate")
    assert [(tier.tier, tier.scored) for tier in face.tiers] == [("device", 5)]
    assert face.candidates[0].prior_log_odds > ask(like(2, 0.6)).candidates[0].prior_log_odds


def test_somebody_who_never_came_is_found_with_a_clearer_face(ask):
    face = ask(like(250, 0.7), device="gate")
    assert (face.decision, face.person) == ("match", "p250")
    assert face.tiers[-1].tier == "gallery"


def test_a_stranger_is_unknown(ask):
    assert ask(vector(99_999).astype(np.float32), device="gate").decision == "unknown"


def test_the_answer_is_explained_in_words(ask):
    words = ask(like(2, 0.6), device="gate").words
    assert "p2" in words
    assert "similarity is 0.600" in words
    assert "was needed" in words
    assert ask(like(2, 0.6)).words is None
    assert ask(like(2, 0.3), device="gate").words.endswith("That does not suffice.")
    assert "safe mode asks for evidence of" in ask(like(2, 0.6), device="gate", safe=True).words


@pytest.mark.parametrize(
    "context",
    [
        {"device": "never-seen"},
        {"cell": "8828308281fffff"},
        {"cell": "822837fffffffff"},
        {"device": "gate", "cell": "881f8d7a49fffff"},
        {"person": "nobody"},
    ],
    ids=str,
)
def test_where_little_is_known_a_clear_face_is_found_all_the_same(ask, context):
    face = ask(like(40, 0.7), **context)
    assert (face.decision, face.person) == ("match", "p40")


def test_in_an_unknown_place_the_threshold_is_nearly_that_of_a_plain_search(ask):
    assert ask(like(40, 0.7), device="never-seen").threshold == pytest.approx(ask(like(40, 0.7)).threshold, abs=0.01)


def test_the_region_counts_where_the_device_is_new(ask):
    here = ask(like(40, 0.7), device="never-seen", cell="881f8d7a49fffff")
    there = ask(like(140, 0.7), device="never-seen", cell="881f8d7a49fffff")
    assert here.threshold < there.threshold


def test_a_claimed_person_needs_a_comparison_alone(service, ask):
    face = ask(like(200, 0.48), rate=3e-4, person="p200")
    assert (face.decision, face.person) == ("match", "p200")
    assert face.tiers[0].tier == "claim"
    assert ask(like(200, 0.48), rate=3e-4).decision == "unknown"


@pytest.mark.parametrize("context", [{"person": "p200"}, {"person": "p40"}, {"device": "phone-9"}], ids=str)
@pytest.mark.parametrize("rate", [3e-3, 3e-4])
def test_a_claim_is_decided_at_1e_5_or_stricter_in_a_small_gallery_too(service, ask, rate, context):
    number = int(context.get("person", "p9")[1:])
    least = service.product.calibration.threshold(1e-5)
    assert ask(like(number, 0.6), rate=rate, **context).threshold == pytest.approx(least, abs=2e-3)
    assert ask(like(number, least - 0.01), rate=rate, **context).decision != "match"


def test_a_claim_never_asks_for_more_of_a_face_than_no_claim(ask):
    """At 3 % a plain search of 300 people stands for 1e-4 each: a claim is no reason to ask for more."""
    for number, device in ((200, "never-seen"), (2, "gate")):
        usual = ask(like(number, 0.6), rate=0.03, device=device).threshold
        said = ask(like(number, 0.6), rate=0.03, device=device, person=f"p{number}").threshold
        assert said <= usual + 1e-6


def test_a_false_claim_does_not_help(ask):
    assert ask(like(200, 0.3), person="p7").decision != "match"


def test_at_ones_own_device_no_claim_is_needed(ask):
    assert ask(like(9, 0.48), rate=3e-4, device="phone-9").person == "p9"
    assert ask(like(10, 0.48), rate=3e-4, device="phone-9").person is None


def test_digits_are_asked_for_and_decide(ask):
    first = ask(like(200, 0.43), device="gate")
    assert first.decision == "ask"
    assert first.person is None
    assert first.answer.startswith("a_")
    second = ask(like(200, 0.43), device="gate", digits="0050")
    assert (second.decision, second.person) == ("match", "p200")
    assert second.tiers[0].tier == "digits"
    assert ask(like(200, 0.43), device="gate", digits="0051").decision == "unknown"


def test_who_gave_no_digits_is_not_asked_for_them(ask):
    assert ask(like(8, 0.42), device="gate").decision == "unknown"


def test_safe_mode_is_slower_to_accept(ask):
    assert ask(like(2, 0.7), device="gate", safe=True).person == "p2"
    accepted = [
        sum(ask(like(2, c), device="gate", safe=safe).decision == "match" for c in np.linspace(0.3, 0.6, 16))
        for safe in (False, True)
    ]
    assert accepted[1] <= accepted[0]


def test_identify_never_learns_from_its_own_answers(service, ask):
    def newest():
        with service.product.catalog.read() as reading:
            return service.product.visits.last_of(reading, galleries.get(reading, "town").pk)

    before = newest()
    ask(like(2, 0.6), device="gate")
    assert newest() == before


def test_a_visit_is_known_to_the_very_next_question(service, town, ask):
    before = ask(like(60, 0.6), device="door").threshold
    for _ in range(3):
        body = {"person": "p60", "device": "door", "confirmed_by": "card"}
        assert service.post(f"{town.path}/visits", json=body).status_code == 201
    assert ask(like(60, 0.6), device="door").threshold < before


def test_one_visit_makes_a_device_no_oracle(service, town, ask):
    body = {"person": "p61", "device": "lone", "confirmed_by": "card"}
    service.post(f"{town.path}/visits", json=body)
    assert ask(like(240, 0.7), device="lone").person == "p240"
    assert ask(vector(99_998).astype(np.float32), device="lone").decision == "unknown"


# --- over REST ---


def test_off_is_a_plain_search_whatever_the_context_says(town):
    plain = town.identify(orl_photo(3, 4)).json()
    context = json.dumps({"device": "gate", "claims": {"person": "p3"}})
    assert town.identify(orl_photo(3, 4), prior="off", context=context).json() == plain
    assert "words" not in plain["faces"][0]["trace"]


def test_off_equals_a_search_of_everybody_bit_for_bit(service, town):
    """The search and the decision made by hand, over the same index: every number of the answer is the same."""
    product, photo = service.product, orl_photo(3, 4)

    async def probes():
        seen = await product.reader.see(photo)
        return await product.reader.encode([face.crop for face in seen.faces])

    (probe,) = service.portal.call(probes)
    with product.catalog.read() as reading:
        pk = galleries.get(reading, "town").pk
        names = {people.get(reading, pk, f"p{number}").pk: f"p{number}" for number in range(PEOPLE)}
    everybody = product.views.of(pk).search(probe[None], PEOPLE)
    rows, scores = everybody.rows[0][:5], everybody.scores[0][:5]
    accept = threshold(product.calibration, PEOPLE, 0.003, insist=True)
    decided = decide(scores, people=PEOPLE, calibration=product.calibration, accept=accept)
    context = json.dumps({"device": "gate", "claims": {"person": "p3"}})
    (face,) = town.identify(photo, prior="off", context=context, fpir=0.003).json()["faces"]
    assert (face["threshold"], face["fpir"]) == (accept.similarity, accept.fpir)
    assert face["decision"] == decided.decision
    assert [
        (each["person"], each["similarity"], each["posterior"], each["prior_log_odds"]) for each in face["candidates"]
    ] == [
        (names[row], float(score), float(posterior), decided.prior_log_odds)
        for row, score, posterior in zip(rows.tolist(), scores, decided.posteriors, strict=True)
    ]


def test_the_prior_of_whoever_was_found_is_in_the_metrics(service, gallery):
    def found():
        text = service.get("/metrics").text
        return float(re.search(r"^vultus_prior_log_odds_count (\S+)$", text, re.MULTILINE).group(1))

    gallery.enrolled("anna", orl_photo(1, 1))
    before = found()
    (face,) = gallery.identify(orl_photo(1, 2), context='{"device": "gate"}').json()["faces"]
    assert face["decision"] == "match"
    gallery.identify(orl_photo(9, 2), context='{"device": "gate"}')
    assert found() == before + 1


def test_the_trace_tells_in_words(town):
    (face,) = town.identify(orl_photo(3, 4), context='{"device": "gate"}').json()["faces"]
    trace = face["trace"]
    assert "comparisons" in trace["words"]
    assert 0 < trace["unknown"] < 1
    assert trace["lift"] > 0
    assert (trace["certainty"], trace["calibration"]) == (0.5, 0)
    assert "answer" not in face


def test_an_answer_that_asks_is_come_back_to_with_the_digits_alone(service, town, ask):
    first = ask(like(201, 0.43), device="gate")
    claims = {"digits": "0051", "answer": first.answer}
    (face,) = service.post(f"{town.path}/identify", json={"context": {"claims": claims}, "certainty": 0.9}).json()[
        "faces"
    ]
    assert (face["decision"], face["person"]) == ("match", "p201")


def test_an_answer_nobody_gave_is_not_found(service, town):
    body = {"context": {"claims": {"digits": "0051", "answer": "a_0"}}}
    assert_problem(service.post(f"{town.path}/identify", json=body), 404, "answer_not_found")


def test_an_answer_takes_digits_once_so_that_both_looks_together_keep_to_the_rate(service, town, ask):
    first = ask(like(202, 0.43), device="gate")
    wrong, right = (
        {"context": {"claims": {"digits": digits, "answer": first.answer}}, "certainty": 0.9}
        for digits in ("9998", "0052")
    )
    (face,) = service.post(f"{town.path}/identify", json=wrong).json()["faces"]
    assert (face["decision"], "answer" in face) == ("unknown", False)
    assert_problem(service.post(f"{town.path}/identify", json=right), 404, "answer_not_found")


def test_an_answer_that_asked_for_no_digits_takes_none(service, town):
    (face,) = town.identify(orl_photo(3, 4), context='{"device": "gate"}', looks=2).json()["faces"]
    assert face["decision"] == "unknown"
    body = {"context": {"claims": {"digits": "0051", "answer": face["answer"]}}}
    assert_problem(service.post(f"{town.path}/identify", json=body), 404, "answer_not_found")


def test_digits_without_the_prior_are_refused(service, town, ask):
    first = ask(like(203, 0.43), device="gate")
    body = {"context": {"claims": {"digits": "0053", "answer": first.answer}}, "prior": "off"}
    assert_problem(service.post(f"{town.path}/identify", json=body), 422, "invalid_request")


def test_wrong_digits_five_times_lock_the_device(service, town, ask):
    for number in range(5):
        assert ask(like(210 + number, 0.43), device="lock", digits="9999").decision == "unknown"
    context = json.dumps({"device": "lock", "claims": {"digits": "9999"}})
    answer = town.identify(orl_photo(3, 4), context=context)
    assert_problem(answer, 429, "digits_locked")
    assert int(answer.headers["retry-after"]) > 290


@pytest.mark.parametrize("devices", [["d1", "d2", "d3", "d4", "d5", "d6"], [None] * 6], ids=["ever new ones", "none"])
def test_wrong_digits_five_times_lock_whom_they_are_about_whatever_the_device_is_called(ask, devices):
    about = 220 if devices[0] else 221
    for device in devices[:5]:
        assert ask(like(about, 0.43), device=device, digits="9999").decision == "unknown"
    for digits in ("9999", f"{about % 150:04d}"):
        with pytest.raises(DigitsLockedError):
            ask(like(about, 0.43), device=devices[5], digits=digits)
    # Others are not locked by it, and who is locked is still found by the face alone.
    assert ask(like(about + 10, 0.43), digits=f"{(about + 10) % 150:04d}").person == f"p{about + 10}"
    assert ask(like(about, 0.7), device="gate").person == f"p{about}"


def test_right_digits_forgive_wrong_ones_about_the_same_person(ask):
    for _ in range(2):
        for _ in range(4):
            ask(like(240, 0.43), digits="9999")
        assert ask(like(240, 0.43), digits="0090").person == "p240"


@pytest.mark.parametrize(
    "fields",
    [
        {"context": '{"time": "1969-01-01T00:00:00Z"}'},
        {"context": '{"time": "2999-01-01T00:00:00Z"}'},
        {"context": '{"time": "2026-01-01T00:00:00"}'},
        {"context": '{"claims": {"digits": "1"}}'},
        {"context": '{"claims": {"digits": "123456789"}}'},
        {"certainty": 0},
        {"certainty": 1},
        {"fpir": -0.1},
        {"fpir": 0},
        {"safe": "perhaps"},
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(town, fields):
    assert_problem(town.identify(orl_photo(3, 4), **fields), 422, "invalid_request")


@pytest.mark.parametrize("count", [0, 1])
def test_a_gallery_of_one_or_none_answers_with_a_context_too(gallery, count):
    if count:
        gallery.enrolled("anna", orl_photo(1, 1), orl_photo(1, 2))
    (face,) = gallery.identify(orl_photo(1, 3), context='{"device": "gate"}').json()["faces"]
    assert face["person"] == ("anna" if count else None)


def test_two_people_with_the_same_photo_are_not_told_apart(gallery):
    for person in ("anna", "bert"):
        gallery.enrolled(person, orl_photo(1, 1))
    (face,) = gallery.identify(orl_photo(1, 2), context='{"device": "gate"}').json()["faces"]
    assert face["decision"] == "unknown"
    assert face["candidates"][0]["posterior"] < 0.6
    asked = json.dumps({"device": "gate"})
    (strict,) = gallery.identify(orl_photo(1, 2), context=asked, certainty=0.9).json()["faces"]
    assert strict["similarity"] >= strict["threshold"]
    assert "would suffice" in strict["trace"]["words"]
    assert "0.9 is asked for" in strict["trace"]["words"]


def test_a_million_visits_of_one_person_leave_room_for_the_others(service, town, ask):
    """A device that has seen one person only: that one is likely, the cap and the even share hold all the same."""
    product = service.product
    with product.catalog.write() as tx:
        pk = galleries.get(tx, "town").pk
        regular = people.get(tx, pk, "p60").pk
        visits = [
            {
                "gallery_pk": pk,
                "person_pk": regular,
                "home": None,
                "device": "busy",
                "cell": None,
                "region": None,
                "at": datetime.now(UTC) - timedelta(days=number % 300),
                "confirmed_by": "card",
            }
            for number in range(100_000)
        ]
        for _ in range(10):
            tx.connection.execute(schema.visits.insert(), visits)
    assert ask(like(60, 0.5), device="busy").decision == "match"
    other = ask(like(61, 0.7), device="busy")
    assert (other.decision, other.person) == ("match", "p61")
    assert ask(vector(99_998).astype(np.float32), device="busy").decision == "unknown"
    with product.catalog.write() as tx:
        tx.connection.execute(schema.visits.delete().where(schema.visits.c.device == "busy"))


@pytest.mark.parametrize("context", [{"device": "gate"}, {"device": "gate", "claims": {"digits": "1234"}}])
def test_in_an_empty_gallery_everybody_is_unknown_whatever_the_context(gallery, context):
    asked = {"photo": base64_of(orl_photo(1, 1)), "context": context}
    (face,) = gallery.service.post(f"{gallery.path}/identify", json=asked).json()["faces"]
    assert (face["decision"], face["candidates"]) == ("unknown", [])
