"""The service over a real Milvus server that is killed while it serves, and comes back."""

import time
from collections.abc import Callable

import httpx
import pytest

from tests.conftest import Gallery, assert_problem, running
from tests.faces import orl_photo
from tests.milvus_server import Milvus

HEALED_SECONDS = 120


@pytest.mark.timeout(300)
def test_a_server_that_goes_and_comes_back_costs_answers_but_no_data(milvus: Milvus, tmp_path):
    with running(tmp_path, index="milvus", milvus=milvus.uri) as service:
        service.post("/v1/galleries", json={"name": "staff"})
        staff = Gallery(service, "staff")
        staff.enrolled("anna", orl_photo(1, 1), orl_photo(1, 2))
        staff.enrolled("bert", orl_photo(2, 1))
        assert staff.whose(orl_photo(1, 3)) == "anna"
        before = staff.state()

        milvus.kill()
        refused = staff.identify(orl_photo(1, 3))
        assert_problem(refused, 503, "index_unavailable")
        assert refused.headers["retry-after"]
        assert_problem(staff.enroll("carl", orl_photo(3, 1)), 503, "index_unavailable")
        assert_problem(service.delete(f"{staff.people}/anna"), 503, "index_unavailable")
        assert service.get(f"{staff.people}/anna").json()["face_count"] == 2
        assert staff.state() == before

        milvus.start()
        answer = healed(lambda: staff.identify(orl_photo(1, 3)))
        assert answer.json()["faces"][0]["person"] == "anna"
        # A server that searches again may refuse to write for a moment more; nothing of it is kept.
        assert healed(lambda: staff.enroll("carl", orl_photo(3, 1))).status_code == 201
        assert service.get(f"{staff.people}/carl").json()["face_count"] == 1
        assert healed(lambda: staff.identify(orl_photo(3, 2))).json()["faces"][0]["person"] == "carl"
        assert service.delete(f"{staff.people}/anna").status_code == 200
        assert staff.whose(orl_photo(1, 3)) is None

    with running(tmp_path, index="milvus", milvus=milvus.uri) as service:
        staff = Gallery(service, "staff")
        assert (staff.whose(orl_photo(2, 2)), staff.whose(orl_photo(1, 3))) == ("bert", None)


def healed(ask: Callable[[], httpx.Response]) -> httpx.Response:
    """Ask again, as `retry-after` says, while the index is unavailable; not for ever."""
    began = time.monotonic()
    while (answer := ask()).status_code == 503:
        assert_problem(answer, 503, "index_unavailable")
        assert time.monotonic() - began < HEALED_SECONDS
        time.sleep(0.5)
    return answer
