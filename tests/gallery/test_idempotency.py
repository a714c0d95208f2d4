import dataclasses
from datetime import timedelta

import pytest

from service.errors import IdempotencyConflictError, IdempotencyInProgressError, PersonNotFoundError
from service.gallery import idempotency, people
from service.gallery.idempotency import Answer, Claims
from service.gallery.records import PersonFields
from service.shared.store import InProcess


@pytest.fixture
def claims(shared):
    return Claims(shared)


@pytest.fixture
def kind():
    """SQLite: `test_postgresql` has what is different there; the shared state is of both kinds here."""
    return "sqlite"


@pytest.fixture
def take(catalog, claims):
    def one(key="k1", digest="d1", scope="caller"):
        return claims.take(catalog, scope, key, digest)

    return one


@pytest.fixture
def answer(catalog, claims):
    def with_(claim, status=201, body=b"done", later=timedelta()):
        with catalog.write() as tx:
            tx.now += later
            idempotency.remember(tx, claim, status, body)
        claims.release(claim)

    return with_


def test_the_first_claim_has_no_answer_and_the_next_gets_the_same_bytes(take, answer):
    first = take()
    assert first.answer is None
    answer(first, 422, b"\x00{bytes}")
    assert take().answer == Answer(422, b"\x00{bytes}")
    assert take().answer == Answer(422, b"\x00{bytes}")


def test_a_key_that_is_worked_on_is_refused_until_released(take, claims):
    first = take()
    with pytest.raises(IdempotencyInProgressError):
        take()
    claims.release(first)
    assert take().answer is None


def test_another_request_under_a_finished_key_is_refused(take, answer):
    answer(take())
    with pytest.raises(IdempotencyConflictError):
        take(digest="d2")
    assert take().answer is not None


def test_another_request_under_a_running_key_is_refused(take):
    take()
    with pytest.raises(IdempotencyConflictError):
        take(digest="d2")


def test_keys_of_two_callers_do_not_meet(take):
    take(scope="one")
    assert take(scope="two").answer is None


def test_a_request_that_failed_may_be_tried_again(catalog, gallery, take, claims):
    claim = take()

    def fail():
        with catalog.write() as tx:
            idempotency.remember(tx, claim, 201, b"done")
            people.get(tx, gallery.pk, "nobody")

    with pytest.raises(PersonNotFoundError):
        fail()
    claims.release(claim)
    assert take().answer is None


def test_the_answer_and_the_change_are_committed_together(catalog, gallery, take, claims):
    claim = take()
    with catalog.write() as tx:
        people.put(tx, gallery.pk, "anna", PersonFields())
        idempotency.remember(tx, claim, 201, b"done")
        with catalog.read() as reading:
            assert people.find(reading, gallery.pk, "anna") is None
            assert reading.connection.exec_driver_sql("SELECT count(*) FROM idempotency").scalar() == 0
    with catalog.read() as reading:
        assert people.find(reading, gallery.pk, "anna") is not None
        assert reading.connection.exec_driver_sql("SELECT count(*) FROM idempotency").scalar() == 1


def test_a_claim_of_a_process_that_stopped_is_free(catalog, take, shared):
    take()
    shared.close()
    assert Claims(InProcess()).take(catalog, "caller", "k1", "d1").answer is None


def test_of_two_processes_that_share_nothing_the_second_is_told_and_stores_nothing(
    catalog, gallery, take, answer, claims
):
    ours, theirs = take(), Claims(InProcess()).take(catalog, "caller", "k1", "d1")
    answer(theirs, body=b"theirs")

    def enrol():
        with catalog.write() as tx:
            people.put(tx, gallery.pk, "anna", PersonFields())
            idempotency.remember(tx, ours, 201, b"ours")

    with pytest.raises(IdempotencyInProgressError):
        enrol()
    with catalog.read() as reading:
        assert people.find(reading, gallery.pk, "anna") is None
    claims.release(ours)
    assert take().answer == Answer(201, b"theirs")


def test_after_a_day_a_key_is_new(take, answer):
    answer(take(), body=b"old", later=-timedelta(hours=24))
    second = take(digest="d2")
    assert second.answer is None
    answer(second, body=b"new")
    assert take(digest="d2").answer == Answer(201, b"new")


def test_just_under_a_day_a_key_is_remembered(take, answer):
    answer(take(), later=-timedelta(hours=23, minutes=59))
    assert take().answer is not None


def test_old_answers_are_deleted(catalog, take, answer):
    answer(take("old"), later=-timedelta(hours=25))
    answer(take("new"))
    with catalog.read() as reading:
        assert reading.connection.exec_driver_sql("SELECT key FROM idempotency").scalars().all() == ["new"]


def test_releasing_an_answered_claim_does_not_free_another_ones_key(take, answer, claims):
    answer(take())
    answered = take()
    running = take("k2")
    claims.release(dataclasses.replace(answered, key="k2"))
    claims.release(dataclasses.replace(running, holder="somebody else"))
    with pytest.raises(IdempotencyInProgressError):
        take("k2")
    claims.release(running)
