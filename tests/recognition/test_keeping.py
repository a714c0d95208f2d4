"""Enrolments committed together: one commit for a group, and nobody fails with a neighbour."""

import asyncio
import threading

import numpy as np
import pytest

from service.errors import GalleryNotFoundError, NothingEnrolledError, StorageError
from service.gallery import galleries, people
from service.gallery.records import NewTemplate
from service.recognition.keeping import Wanted, keep

NUMBERS = np.random.default_rng(3)


@pytest.fixture
def wanted(service, gallery, call):
    """Makes an enrolment of a person with one new template; `tell` gives what was added."""

    async def known(product):
        return product, *await product.gallery(gallery.name)

    product, record, view = call(known)

    def one(person, *, tell=lambda _tx, added, _alike: added, photo=None):
        vector = NUMBERS.standard_normal(128).astype(np.float32)
        digest = photo or NUMBERS.bytes(32).hex()
        template = NewTemplate(digest, vector / np.linalg.norm(vector), 0.8, (0.0, 0.0, 0.0, 0.0))
        return Wanted(record, view, person, [template], 5, tell)

    one.product, one.view, one.pk = product, view, record.pk
    return one


def faces_of(wanted, person):
    with wanted.product.catalog.read() as reading:
        found = people.find(reading, wanted.pk, person)
    return found.faces if found else None


def test_a_group_is_one_commit_that_the_index_shows(wanted):
    kept = keep(wanted.product.catalog, [wanted("anna"), wanted("bert"), wanted("anna")])
    assert [each.result.revision for each in kept] == [1, 1, 1]
    assert [each.fault for each in kept] == [None] * 3
    assert (faces_of(wanted, "anna"), faces_of(wanted, "bert")) == (2, 1)
    assert (len(wanted.view), wanted.view.revision) == (2, 1)
    anna = kept[2].result
    assert wanted.view.search(anna.fused[None], 1).rows[0, 0] == anna.person.pk


def test_each_hears_whom_its_own_templates_resemble(wanted):
    first = wanted("anna")
    keep(wanted.product.catalog, [first])
    again = Wanted(first.gallery, first.view, "bert", first.templates, 5, lambda _tx, _added, alike: alike)
    other = wanted("carl", tell=lambda _tx, _added, alike: alike)
    found = [each.result.scores[0, 0] for each in keep(wanted.product.catalog, [other, again])]
    assert found[0] < 0.6
    assert found[1] == pytest.approx(1)


def test_a_group_in_which_one_fails_is_undone(wanted):
    def fail(*_):
        raise NothingEnrolledError("no")

    with pytest.raises(NothingEnrolledError):
        keep(wanted.product.catalog, [wanted("anna"), wanted("bert", tell=fail)])
    assert (faces_of(wanted, "anna"), wanted.view.revision) == (None, 0)


def test_those_who_wait_are_committed_together_and_one_that_fails_fails_alone(wanted, call):
    begun, gate, revisions = threading.Event(), threading.Event(), []

    def hold(_tx, added, _alike):
        begun.set()
        gate.wait(10)
        revisions.append(added.revision)

    def fail(*_):
        raise NothingEnrolledError("no")

    async def at_once(product):
        first = asyncio.create_task(product.keeping.submit(wanted("first", tell=hold)))
        assert await asyncio.to_thread(begun.wait, 10)
        good = [asyncio.create_task(product.keeping.submit(wanted(f"good{number}"))) for number in range(3)]
        await asyncio.sleep(0.05)
        asyncio.get_running_loop().call_soon(gate.set)
        together = [each.result.revision for each in await asyncio.gather(*good)]
        mixed = [wanted("fine"), wanted("bad", tell=fail), wanted("also-fine")]
        answers = await asyncio.gather(*map(product.keeping.submit, mixed), return_exceptions=True)
        await first
        return together, answers

    together, (fine, bad, also_fine) = call(at_once)
    assert (revisions, together) == ([1], [2, 2, 2])
    assert isinstance(bad, NothingEnrolledError)
    assert fine.result.created
    assert also_fine.result.created
    assert (faces_of(wanted, "fine"), faces_of(wanted, "bad"), faces_of(wanted, "also-fine")) == (1, None, 1)
    assert len(wanted.view) == 6


def test_what_is_committed_is_not_tried_again_when_the_index_cannot_show_it(wanted, monkeypatch):
    def broken(*_):
        raise StorageError("out of order")

    monkeypatch.setattr(wanted.view, "show", broken)
    (kept,) = keep(wanted.product.catalog, [wanted("anna")])
    assert isinstance(kept.fault, StorageError)
    assert faces_of(wanted, "anna") == 1


def test_nobody_is_kept_in_a_gallery_that_is_gone(wanted):
    waiting = wanted("anna")
    with wanted.product.catalog.write() as tx:
        galleries.delete(tx, wanted.pk)
    with pytest.raises(GalleryNotFoundError):
        keep(wanted.product.catalog, [waiting])
