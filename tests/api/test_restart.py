"""What stays when the service is stopped and started, with damage in between."""

import io
import json
import shutil
import sqlite3
import tempfile
import time

import pytest
from PIL import Image

from service.artifact.store import ModelStore
from service.errors import DataFolderInUseError, ModelDamagedError, ModelMissingError, StorageError
from service.gallery import galleries
from service.settings import CHECKOUT
from tests.conftest import Gallery, assert_problem
from tests.faces import orl_photo, saved


def staffed(service):
    service.post("/v1/galleries", json={"name": "staff"})
    gallery = Gallery(service, "staff")
    for person in range(1, 4):
        gallery.enrolled(f"p{person}", orl_photo(person, 1))
    return gallery


def answers(gallery):
    return [gallery.identify(orl_photo(person, 2)).json() for person in range(1, 5)]


def test_a_stopped_service_starts_again_with_everything(start):
    gallery = staffed(start())
    before, people = answers(gallery), gallery.service.get(gallery.people).json()
    start.stop()
    again = Gallery(start(), "staff")
    assert answers(again) == before
    assert again.service.get(again.people).json() == people
    assert [found["faces"][0]["person"] for found in before] == ["p1", "p2", "p3", None]


def test_who_lives_where_is_read_before_the_first_question_after_a_start(start):
    gallery = staffed(start())
    visit = {"person": "p1", "device": "gate", "confirmed_by": "card"}
    assert gallery.service.post(f"{gallery.path}/visits", json=visit).status_code == 201
    gallery.service.post("/v1/galleries", json={"name": "unvisited"})
    start.stop()
    product = start().product
    with product.catalog.read() as reading:
        visited, unvisited = (galleries.get(reading, name).pk for name in ("staff", "unvisited"))
    until = time.monotonic() + 20
    while product.expectations.as_of(visited) < 0 and time.monotonic() < until:
        time.sleep(0.02)
    assert product.expectations.as_of(visited) > 0
    assert product.expectations.as_of(unvisited) == -1


def damaged(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize("harm", [damaged, lambda content: content[:-40]], ids=["one bit", "cut short"])
def test_a_damaged_snapshot_is_rebuilt_and_the_answers_are_the_same(start, tmp_path, harm):
    before = answers(staffed(start()))
    start.stop()
    (snapshot,) = (tmp_path / "data" / "snapshots").iterdir()
    whole = snapshot.read_bytes()
    snapshot.write_bytes(harm(whole))
    assert answers(Gallery(start(), "staff")) == before
    start.stop()
    assert snapshot.read_bytes() == whole


def test_lost_snapshots_are_rebuilt(start, tmp_path):
    before = answers(staffed(start()))
    start.stop()
    shutil.rmtree(tmp_path / "data" / "snapshots")
    assert answers(Gallery(start(), "staff")) == before


@pytest.fixture
def copied_models(tmp_path):
    """A copy of the models that a test may damage."""
    return shutil.copytree(CHECKOUT / "models", tmp_path / "models")


@pytest.mark.parametrize("name", ["sface", "yunet"])
def test_a_damaged_model_stops_the_start_and_is_told_by_the_check(start, copied_models, name):
    file = copied_models / name / "model.onnx"
    file.write_bytes(damaged(file.read_bytes()))
    with pytest.raises(ModelDamagedError, match=f"{name}/model.onnx"):
        start(models=copied_models)
    store = ModelStore(copied_models)
    assert store.states(store.manifest(name))[0].state == "damaged"


def test_a_missing_model_stops_the_start(start, copied_models):
    (copied_models / "sface" / "model.onnx").unlink()
    with pytest.raises(ModelMissingError, match="vultus models fetch sface"):
        start(models=copied_models)


def test_a_start_that_failed_lets_the_data_folder_go(start, copied_models):
    file = copied_models / "yunet" / "model.onnx"
    whole = file.read_bytes()
    file.write_bytes(damaged(whole))
    with pytest.raises(ModelDamagedError):
        start(models=copied_models)
    file.write_bytes(whole)
    assert start(models=copied_models).get("/health/ready").status_code == 200


def test_a_second_service_on_the_same_data_is_refused(start):
    first = start()
    with pytest.raises(DataFolderInUseError):
        start()
    assert first.get("/health/ready").status_code == 200


def test_a_model_that_is_not_for_commercial_use_says_so_at_the_start_and_in_the_list(start, copied_models, caplog):
    path = copied_models / "sface" / "manifest.json"
    document = json.loads(path.read_text())
    document["licence"] |= {"spdx": "CC-BY-NC-4.0", "commercial": False}
    path.write_text(json.dumps(document))
    service = start(models=copied_models)
    assert "NO COMMERCIAL USE" in caplog.text
    licences = {model["name"]: model["licence"] for model in service.get("/v1/models").json()["models"]}
    assert (licences["sface"]["spdx"], licences["sface"]["commercial"]) == ("CC-BY-NC-4.0", False)


def test_a_damaged_catalog_stops_the_start(start, tmp_path):
    start().post("/v1/galleries", json={"name": "staff"})
    start.stop()
    catalog = tmp_path / "data" / "catalog.sqlite"
    catalog.write_bytes(b"x" * len(catalog.read_bytes()))
    with pytest.raises(StorageError, match="damaged"):
        start()


class TestFullDisk:
    """SQLite itself refuses to grow the file, as it does when the disk under it is full."""

    @pytest.fixture
    def full(self, start):
        gallery = staffed(start(snapshot_every=1_000_000))
        self.allow_pages(gallery.service, None)
        return gallery

    def allow_pages(self, service, pages):
        with service.product.catalog.write() as tx:
            pages = pages or tx.connection.exec_driver_sql("PRAGMA page_count").scalar_one()
            tx.connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")

    def test_writes_are_refused_and_leave_nothing(self, full):
        before = full.state()
        large = {"attributes": {"a": "x" * 16_000}}
        service = full.service
        photos = [orl_photo(9, number) for number in range(1, 11)]
        for answer in (
            service.put(f"{full.people}/new", json=large),
            service.patch(f"{full.people}/p1", json=large),
            service.patch(full.path, json=large),
            service.post("/v1/galleries", json={"name": "other", **large}),
            full.enroll("new", *photos),
        ):
            assert_problem(answer, 507, "storage_full")
        assert full.state() == before
        assert service.get(f"{full.people}/p1").json()["attributes"] == {}

    def test_reading_and_recognising_go_on(self, full):
        service = full.service
        assert_problem(service.put(f"{full.people}/new", json={"attributes": {"a": "x" * 16_000}}), 507, "storage_full")
        assert [found["faces"][0]["person"] for found in answers(full)] == ["p1", "p2", "p3", None]
        assert service.post(f"{full.people}/p1/verify", files={"photo": orl_photo(1, 2)}).json()["same"] is True
        assert len(service.get(full.people).json()["people"]) == 3
        assert service.get("/health/ready").status_code == 200

    def test_photos_of_any_size_are_read_without_a_place_for_temporary_files(self, full, tmp_path, monkeypatch):
        with Image.open(io.BytesIO(orl_photo(1, 2))) as photo:
            large = saved(photo.convert("RGB").resize((920, 1120)), "BMP")
        assert len(large) > 2 << 20
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
        assert full.whose(large) == "p1"
        service = full.service
        assert service.post(f"{full.people}/p1/verify", files={"photo": large}).json()["same"] is True
        assert service.post("/v1/verify", files={"photo_a": large, "photo_b": large}).json()["same"] is True
        assert len(service.post("/v1/faces/detect", files={"photo": large}).json()["faces"]) == 1

    def test_people_are_forgotten_and_faces_removed(self, full):
        (face,) = full.service.get(f"{full.people}/p2").json()["faces"]
        full.service.delete(f"{full.people}/p2/faces/{face['face']}").raise_for_status()
        full.service.delete(f"{full.people}/p1").raise_for_status()
        assert [found["faces"][0]["person"] for found in answers(full)] == [None, None, "p3", None]
        assert full.state()[1:] == (2, 1)
        assert_problem(full.service.get(f"{full.people}/p1"), 404, "person_not_found")

    def test_an_idempotency_key_is_free_again_after_a_refusal(self, full):
        body, headers = {"attributes": {"a": "x" * 16_000}}, {"Idempotency-Key": "k"}
        path = f"{full.people}/new"
        assert_problem(full.service.put(path, json=body, headers=headers), 507, "storage_full")
        self.allow_pages(full.service, 1_000_000)
        assert full.service.put(path, json=body, headers=headers).status_code == 201

    def test_with_space_again_writing_goes_on(self, full):
        photos = [orl_photo(9, number) for number in range(1, 11)]
        assert_problem(full.enroll("new", *photos), 507, "storage_full")
        self.allow_pages(full.service, 1_000_000)
        assert full.enroll("new", *photos).status_code == 201
        assert full.whose(orl_photo(9, 1)) == "new"


def test_a_catalog_that_may_not_be_written_refuses_writes(start, tmp_path, caplog):
    gallery = staffed(start())
    locker = sqlite3.connect(tmp_path / "data" / "catalog.sqlite", isolation_level=None)
    with gallery.service.product.catalog.write() as tx:
        tx.connection.exec_driver_sql("PRAGMA query_only = ON")
    locker.close()
    assert_problem(gallery.service.put(f"{gallery.people}/new", json={}), 503, "storage_unavailable")
    told = [record for record in caplog.records if "storage_unavailable" in record.getMessage()]
    assert [record.exc_info for record in told] == [None]
    assert answers(gallery)[0]["faces"][0]["person"] == "p1"
