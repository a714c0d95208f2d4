"""What callers see of processes that see photos and die."""

import itertools
import os
import signal
import threading
import time

from tests.conftest import as_files, assert_problem
from tests.faces import crowd, orl_photo

PEOPLE = range(1, 25)


def pids(service):
    return {seer.process.pid for seer in service.product.reader.seeing._seers}


def test_a_process_killed_in_the_middle_of_enrolments_loses_none_and_is_replaced(start):
    service = start(threads=2)
    service.post("/v1/galleries", json={"name": "staff"})
    ended, struck = threading.Event(), set()

    def strike():
        """In the event loop, so that nothing is handed on between the look and the stroke."""
        seeing = service.product.reader.seeing
        having = [waiting for seer in seeing._seers for waiting in seer.under_way]
        # A photo that is there when a second process dies is rightly taken for the reason.
        tried = any(waiting.deaths for waiting in itertools.chain(having, *seeing._queues))
        busy = [seer.process.pid for seer in seeing._seers if seer.under_way]
        if busy and not tried and not pids(service) & struck:
            struck.add(busy[0])
            os.kill(busy[0], signal.SIGKILL)

    def strikes():
        while len(struck) < 3 and not ended.wait(0.02):
            service.portal.call(strike)

    striker = threading.Thread(target=strikes)
    striker.start()
    paths = {person: f"/v1/galleries/staff/people/p{person}/faces" for person in PEOPLE}
    answers = service.at_once(
        *(("POST", paths[person], {"files": as_files(orl_photo(person, 1))}) for person in PEOPLE)
    )
    ended.set()
    striker.join()
    assert struck
    assert [answer.status_code for answer in answers] == [201] * len(PEOPLE)
    for person in PEOPLE:
        (face,) = service.post("/v1/galleries/staff/identify", files=as_files(orl_photo(person, 1))).json()["faces"]
        assert face["person"] == f"p{person}"
    until = time.monotonic() + 30
    while len(pids(service)) < 2:
        assert time.monotonic() < until
        time.sleep(0.05)
    assert not pids(service) & struck


def test_a_photo_that_brings_the_decoder_down_is_answered_as_damaged_and_the_service_goes_on(start):
    service = start()
    deadly, ended = crowd(20), threading.Event()

    def strike():
        while not ended.wait(0.0005):
            for seer in [*service.product.reader.seeing._seers]:
                first = next(iter([*seer.under_way]), None)
                if first is not None and first.photo == deadly:
                    os.kill(seer.process.pid, signal.SIGKILL)

    striker = threading.Thread(target=strike)
    striker.start()
    answer = service.post("/v1/faces/detect", files=as_files(deadly))
    ended.set()
    striker.join()
    assert_problem(answer, 422, "photo_damaged")
    assert len(service.post("/v1/faces/detect", files=as_files(orl_photo(1, 1))).json()["faces"]) == 1
