"""An application that may import, on one helper, and small sources of real faces."""

import csv
import io
import itertools
import time
from dataclasses import dataclass

import pytest

from tests.conftest import Gallery
from tests.faces import orl_photo

SECONDS = 60
_NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """The import root."""
    return tmp_path_factory.mktemp("root")


@pytest.fixture(scope="module")
def importing(start_module, root):
    """An application with an import root."""
    return start_module(import_root=root)


@dataclass(frozen=True)
class Importing(Gallery):
    """A gallery that is imported into."""

    def begin(self, path, **more):
        """Begin an import, and give the answer."""
        return self.service.post(f"{self.path}/imports", json={"path": str(path), **more})

    def begin_ready(self, manifest, array):
        """Begin an import of ready embeddings, for which a service without keys needs somebody who may."""
        state = self.service.app.state
        access, state.access = state.access, _Somebody()
        try:
            return self.begin(manifest, embeddings=array)
        finally:
            state.access = access

    def job(self, import_id):
        return self.service.get(f"{self.path}/imports/{import_id}").json()

    def ended(self, import_id):
        """An import once it has ended."""
        deadline = time.monotonic() + SECONDS
        while (job := self.job(import_id))["ended_at"] is None:
            assert time.monotonic() < deadline, job
            time.sleep(0.02)
        return job

    def imported(self, path, **more):
        """Import to the end, which must be a good one."""
        answer = self.begin(path, **more)
        assert answer.status_code in {200, 201}, answer.text
        job = self.ended(answer.json()["import"])
        assert job["state"] == "done", job
        return job

    def report(self, job):
        """The lines of a report, as dicts."""
        answer = self.service.get(f"{self.path}/imports/{job['import']}/report")
        assert answer.headers["content-type"].startswith("text/csv")
        return list(csv.DictReader(io.StringIO(answer.text)))

    def outcomes(self, job):
        """(photo, person, outcome) of each line."""
        return [(line["photo"], line["person"], line["outcome"]) for line in self.report(job)]


class _Somebody:
    """Access for whoever asks."""

    async def caller(self, authorization, scope):
        return "somebody"

    async def admit(self, caller):
        pass


@pytest.fixture
def gallery(importing):
    """An empty gallery of it."""
    name = f"i{next(_NUMBERS)}"
    assert importing.post("/v1/galleries", json={"name": name}).status_code == 201
    yield Importing(importing, name)
    importing.delete(f"/v1/galleries/{name}")


@pytest.fixture
def folder(root):
    """Makes a folder under the root: `folder(anna=[(1, 1), (1, 2)], ...)`, photos by ORL person and number."""
    made = root / f"folder{next(_NUMBERS)}"

    def make(**people):
        for person, photos in people.items():
            (made / person).mkdir(parents=True, exist_ok=True)
            for who, number in photos:
                (made / person / f"{number}.pgm").write_bytes(orl_photo(who, number))
        return made

    return make
