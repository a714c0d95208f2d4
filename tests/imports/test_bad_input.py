"""Imports of what operators really have: nothing is lost, nothing is done twice, and the message says what to do."""

import io
import json
import tarfile
import time

import numpy as np
import pytest

from service.gallery import imports
from tests.conftest import assert_problem
from tests.faces import orl_photo
from tests.imports.conftest import Importing


@pytest.fixture
def written(root, gallery):
    """Writes a manifest of its own under the root: `written(rows)`, as JSON lines."""

    def write(rows):
        path = root / f"{gallery.name}.jsonl"
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        return path.name

    return write


@pytest.fixture
def photo(folder):
    """A photo's path relative to the root: `photo(person, number)`."""

    def path(person, number):
        return f"{folder(faces=[(person, number)]).name}/faces/{number}.pgm"

    return path


def test_a_manifest_brings_what_it_knows_about_people(gallery, written, photo):
    rows = [
        {"photo": photo(1, 1), "person": "anna", "name": "Anna", "digits": "1234", "attributes": {"floor": 3}},
        {"photo": photo(1, 2), "person": "anna", "name": "Another name"},
    ]
    gallery.imported(written(rows))
    anna = gallery.service.get(f"{gallery.people}/anna").json()
    assert (anna["name"], anna["digits"], anna["attributes"], anna["face_count"]) == ("Anna", True, {"floor": 3}, 2)


def test_missing_files_and_duplicate_rows_are_outcomes(gallery, written, photo):
    row = {"photo": photo(1, 1), "person": "anna"}
    job = gallery.imported(written([row, row, {"photo": "nowhere.jpg", "person": "anna"}, {"photo": "x"}]))
    assert [outcome for _, _, outcome in gallery.outcomes(job)] == ["enrolled", "duplicate", "unreadable", "invalid"]
    lines = gallery.report(job)
    assert lines[1]["face"] == lines[0]["face"]
    assert (lines[2]["code"], lines[2]["detail"]) == (
        "photo_unreadable",
        "the file cannot be read: No such file or directory",
    )


def test_photos_outside_of_the_root_are_not_read(gallery, written, tmp_path):
    (tmp_path / "1.pgm").write_bytes(orl_photo(1, 1))
    job = gallery.imported(written([{"photo": str(tmp_path / "1.pgm"), "person": "anna"}]))
    assert [line["detail"] for line in gallery.report(job)] == ["the file lies outside of the import root"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"photo,person,salary\na,b,c\n", "unknown columns 'salary'"),
        ("photo,person\n\xe4,b\n".encode("latin-1"), "not UTF-8"),
    ],
)
def test_a_manifest_of_unknown_columns_or_wrong_encoding_is_refused_at_once(gallery, root, content, said):
    (root / "bad.csv").write_bytes(content)
    told = assert_problem(gallery.begin("bad.csv"), 422, "import_manifest")
    assert said in told["detail"]
    assert gallery.service.get(f"{gallery.path}/imports").json()["imports"] == []


def test_a_wrong_encoding_further_down_fails_the_import_before_anything_is_enrolled(gallery, root, photo):
    good = f"{photo(1, 1)},anna\n".encode()
    (root / "late.csv").write_bytes(b"photo,person\n" + good + b"x.jpg,b\n" * 20_000 + b"\xe4.jpg,b\n")
    job = gallery.ended(gallery.begin("late.csv").json()["import"])
    assert (job["state"], job["trouble"]["code"], job["done"]) == ("failed", "import_manifest", 0)
    assert gallery.state() == (0, 0, 0)


def test_many_rows_of_one_person_stop_at_the_limit_without_being_looked_at(gallery, root):
    rng = np.random.default_rng(0)
    many = gallery.service.product.policy.faces_per_person + 3000
    vectors = rng.standard_normal((many, 128)).astype(np.float32)
    np.save(root / "many.npy", vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    (root / "many.csv").write_text("person\n" + "anna\n" * many)
    job = imported_ready(gallery, "many.csv", "many.npy")
    assert (job["outcomes"]["enrolled"], job["outcomes"]["over_limit"]) == (many - 3000, 3000)
    assert gallery.state()[1:] == (1, many - 3000)


def imported_ready(gallery, manifest, array):
    """Import ready embeddings to the end."""
    return gallery.ended(gallery.begin_ready(manifest, array).json()["import"])


def test_ready_embeddings_need_the_scope_embed(gallery, root):
    np.save(root / "one.npy", np.eye(1, 128, dtype=np.float32))
    (root / "one.csv").write_text("person\nanna\n")
    assert_problem(gallery.begin("one.csv", embeddings="one.npy"), 403, "forbidden")


def test_ready_embeddings_are_enrolled_once_and_those_that_are_none_are_told(gallery, root):
    vectors = np.eye(4, 128, dtype=np.float32)
    vectors[1] *= 3
    vectors[2, 0] = np.nan
    np.save(root / "four.npy", vectors)
    (root / "four.csv").write_text("person,photo,quality\nanna,a.jpg,0.9\nbert,b.jpg,\ncarl,c.jpg,\nanna,d.jpg,\n")
    job = imported_ready(gallery, "four.csv", "four.npy")
    assert gallery.outcomes(job) == [
        ("a.jpg", "anna", "enrolled"),
        ("b.jpg", "bert", "invalid"),
        ("c.jpg", "carl", "invalid"),
        ("d.jpg", "anna", "enrolled"),
    ]
    assert {line["code"] for line in gallery.report(job)[1:3]} == {"invalid_embedding"}
    again = imported_ready(gallery, "four.csv", "four.npy")
    assert again["outcomes"]["duplicate"] == 2


def test_a_person_in_two_galleries_is_two_people(gallery, importing, folder):
    source = folder(anna=[(1, 1)])
    importing.post("/v1/galleries", json={"name": "second"})
    other = type(gallery)(importing, "second")
    for each in (gallery, other):
        assert each.imported(source.name)["outcomes"]["enrolled"] == 1
    importing.delete(f"{other.people}/anna")
    assert (gallery.state()[1:], other.state()[1:]) == ((1, 1), (0, 0))
    importing.delete("/v1/galleries/second")


def test_a_tar_is_imported_without_its_hostile_members(gallery, root):
    with tarfile.open(root / "photos.tar", "w") as tar:
        for name in ("anna/1.pgm", "/anna/2.pgm", "anna/../3.pgm"):
            member = tarfile.TarInfo(name)
            member.size = len(orl_photo(1, 1))
            tar.addfile(member, io.BytesIO(orl_photo(1, 1)))
        link = tarfile.TarInfo("anna/link.pgm")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    job = gallery.imported("photos.tar")
    assert [outcome for _, _, outcome in gallery.outcomes(job)] == ["enrolled"] + ["unreadable"] * 3
    assert not (root / "anna").exists()


@pytest.mark.parametrize("path", ["nowhere", "/etc", "../outside"])
def test_a_path_that_is_not_there_or_elsewhere_is_refused(gallery, path):
    assert_problem(gallery.begin(path), 422, "import_path")


def test_without_an_import_root_nothing_is_imported(service):
    service.post("/v1/galleries", json={"name": "rootless"})
    told = service.post("/v1/galleries/rootless/imports", json={"path": "/"})
    assert "VULTUS_IMPORT_ROOT" in assert_problem(told, 422, "import_path")["detail"]
    service.delete("/v1/galleries/rootless")


def test_an_import_or_a_gallery_that_does_not_exist_is_told(gallery, importing):
    for method, path in (("GET", "i_0"), ("DELETE", "i_0"), ("GET", "i_0/report")):
        assert_problem(importing.request(method, f"{gallery.path}/imports/{path}"), 404, "import_not_found")
    assert_problem(importing.get("/v1/galleries/nobody/imports"), 404, "gallery_not_found")
    assert_problem(importing.post("/v1/galleries/nobody/imports", json={"path": "x"}), 404, "gallery_not_found")


class TestOfOneUnderWay:
    @pytest.fixture
    def large(self, gallery, root, folder):
        """The answer to an import that takes a while, and its path."""
        source = folder(**{f"p{number}": [(number, photo) for photo in range(1, 11)] for number in range(1, 13)})
        return gallery.begin(source.name).json(), source.name

    def test_asked_for_again_it_goes_on_and_is_not_begun_twice(self, gallery, large):
        begun, path = large
        again = gallery.begin(path)
        assert (again.status_code, again.json()["import"]) == (200, begun["import"])
        assert len(gallery.service.get(f"{gallery.path}/imports").json()["imports"]) == 1
        assert gallery.ended(begun["import"])["total"] == 120
        other = gallery.begin(path)
        assert (other.status_code, other.json()["import"] != begun["import"]) == (201, True)
        gallery.ended(other.json()["import"])

    def test_cancelled_twice_it_ends_once_and_keeps_what_it_enrolled(self, gallery, large):
        begun, _ = large
        path = f"{gallery.path}/imports/{begun['import']}"
        first, second = gallery.service.delete(path), gallery.service.delete(path)
        assert (first.status_code, second.status_code) == (200, 200)
        assert first.json()["state"] == "cancelled"
        assert {**first.json(), "per_second": 0} == {**second.json(), "per_second": 0}
        ended = gallery.job(begun["import"])
        assert len(gallery.report(ended)) == ended["done"] < 120
        assert gallery.state()[2] == ended["outcomes"]["enrolled"]

    def test_of_a_gallery_that_is_deleted_it_ends_and_others_go_on(self, gallery, importing, large, root):
        begun, _ = large
        importing.delete(gallery.path)
        assert_problem(importing.get(f"{gallery.path}/imports/{begun['import']}"), 404, "gallery_not_found")
        importing.post("/v1/galleries", json={"name": gallery.name})
        (root / "others" / "zoe").mkdir(parents=True)
        (root / "others" / "zoe" / "1.pgm").write_bytes(orl_photo(40, 1))
        assert gallery.imported("others")["outcomes"]["enrolled"] == 1


def test_a_full_disk_holds_an_import_up_and_no_longer(start, root, folder):
    service = start(import_root=root)  # a catalog of its own: the other has room left by galleries that are gone
    service.post("/v1/galleries", json={"name": "full"})
    gallery, product = Importing(service, "full"), service.product
    with product.catalog.write() as tx:
        pages = tx.connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        tx.connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + 12}")
    source = folder(**{f"p{number}": [(number, photo) for photo in range(1, 9)] for number in range(1, 13)})
    begun = gallery.begin(source.name).json()
    trouble = None
    while trouble is None:
        at = gallery.job(begun["import"])
        assert at["ended_at"] is None, "the disk was not full"
        trouble = at["trouble"]
    assert trouble["code"] == "storage_full"
    with product.catalog.write() as tx:
        tx.connection.exec_driver_sql("PRAGMA max_page_count = 1073741823")
    ended = gallery.ended(begun["import"])
    assert (ended["state"], ended["done"], ended["trouble"]) == ("done", 96, None)
    assert len(gallery.report(ended)) == 96
    assert gallery.state()[2] == ended["outcomes"]["enrolled"]


def test_imports_and_reports_are_forgotten_after_their_time(gallery, importing, folder):
    job = gallery.imported(folder(anna=[(1, 1)]).name)
    with importing.product.catalog.write() as tx:
        assert imports.forget_before(tx, tx.now) >= 1
    assert_problem(importing.get(f"{gallery.path}/imports/{job['import']}"), 404, "import_not_found")
    assert gallery.state()[1:] == (1, 1)


def test_an_import_that_does_not_fit_into_memory_waits_with_nothing_committed(gallery, root):
    np.save(root / "three.npy", np.eye(3, 128, dtype=np.float32))
    (root / "three.csv").write_text("person\nanna\nbert\ncarl\n")
    with gallery.without_memory():
        begun = gallery.begin_ready("three.csv", "three.npy").json()["import"]
        deadline = time.monotonic() + 30
        while (trouble := gallery.job(begun)["trouble"]) is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert trouble["code"] == "index_memory"
        assert gallery.state() == (0, 0, 0)
    assert gallery.ended(begun)["outcomes"]["enrolled"] == 3
    assert gallery.state()[1:] == (3, 3)
