import asyncio
import dataclasses
from concurrent.futures import Executor, Future
from datetime import UTC, datetime, timedelta

import pytest

from service.errors import PersonNotFoundError
from service.gallery import forgetting, galleries, people
from service.recognition.enroll import enroll
from service.recognition.forget import forget, forget_expired
from tests.faces import orl_photo


def test_a_receipt_can_be_checked_by_who_still_knows_the_id(service, call, gallery):
    gallery.enrolled("anna", orl_photo(1, 1))
    gone = call(lambda product: forget(product, gallery.name, "anna"))
    catalog = service.product.catalog
    with catalog.read() as reading:
        kept = forgetting.receipt_of(reading, gone.receipt.receipt)
        pk = galleries.get(reading, gallery.name).pk
    assert (kept.gallery, kept.faces, kept.revision) == (gallery.name, 1, 2)
    assert kept.person_hash == catalog.person_hash(pk, "anna")
    assert kept.person_hash != catalog.person_hash(pk, "bert")


def test_of_two_who_forget_at_once_one_gets_the_receipt(call, gallery):
    gallery.enrolled("anna", orl_photo(1, 1))

    async def twice(product):
        both = (forget(product, gallery.name, "anna") for _ in range(2))
        return await asyncio.gather(*both, return_exceptions=True)

    outcomes = call(twice)
    assert sorted(isinstance(outcome, PersonNotFoundError) for outcome in outcomes) == [False, True]
    assert gallery.state() == (2, 0, 0)


def test_a_receipt_that_cannot_be_remembered_leaves_the_person(call, gallery):
    gallery.enrolled("anna", orl_photo(1, 1))

    def remember(*_):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        call(lambda product: forget(product, gallery.name, "anna", remember=remember))
    assert gallery.whose(orl_photo(1, 1)) == "anna"


def test_forgetting_while_enrolling_never_leaves_half_a_person(call, gallery):
    async def both(product):
        for _ in range(5):
            await asyncio.gather(
                enroll(product, gallery.name, "anna", [orl_photo(1, 1)]),
                forget(product, gallery.name, "anna"),
                return_exceptions=True,
            )
            await asyncio.gather(forget(product, gallery.name, "anna"), return_exceptions=True)

    call(both)
    assert gallery.state()[1:] == (0, 0)
    assert gallery.whose(orl_photo(1, 1)) is None


def test_only_those_whose_time_has_passed_are_forgotten(service, call, gallery):
    now = datetime.now(UTC)
    for person, seconds in (("past", -5), ("soon", 60), ("later", 86_400)):
        service.put(f"{gallery.people}/{person}", json={"expires_at": (now + timedelta(seconds=seconds)).isoformat()})
    service.put(f"{gallery.people}/never", json={})
    assert call(forget_expired) == 1
    left = [person["person"] for person in service.get(gallery.people).json()["people"]]
    assert left == ["later", "never", "soon"]
    assert call(forget_expired) == 0


def test_many_may_expire_at_once(service, call, gallery):
    for number in range(30):
        service.put(f"{gallery.people}/p{number}", json={"expires_at": "2020-01-01T00:00:00Z"})
    assert call(forget_expired) == 30
    assert gallery.state()[1] == 0


class Between(Executor):
    """Runs jobs at once, and something else after the first of them."""

    def __init__(self, then):
        self._then = [then]

    def submit(self, job, /, *args, **kwargs):
        done = Future()
        done.set_result(job(*args, **kwargs))
        while self._then:
            self._then.pop()()
        return done


def test_who_is_given_more_time_at_the_last_moment_stays(service, call, gallery):
    past, future = "2020-01-01T00:00:00Z", datetime.now(UTC) + timedelta(days=1)
    for person in ("anna", "bert", "carl"):
        service.put(f"{gallery.people}/{person}", json={"expires_at": past})

    def meanwhile():
        with service.product.catalog.write() as tx:
            pk = galleries.get(tx, gallery.name).pk
            people.patch(tx, pk, "anna", {"expires_at": future})
            forgetting.forget(tx, pk, "bert")

    assert call(lambda product: forget_expired(dataclasses.replace(product, storage=Between(meanwhile)))) == 1
    left = [person["person"] for person in service.get(gallery.people).json()["people"]]
    assert left == ["anna"]
