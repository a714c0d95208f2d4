import itertools

import numpy as np
import pytest

from service.errors import CalibrationError
from service.recognition.calibrate import Labelled, calibrate, label, pair_scores, photos_in
from tests.faces import orl_photo


def unit(rng, count, dim=16):
    rows = rng.normal(size=(count, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("count", [2, 7, 700])
def test_every_pair_of_faces_is_scored_once(count):
    rng = np.random.default_rng(count)
    embeddings, people = unit(rng, count), rng.integers(0, max(2, count // 5), count)
    given = pair_scores(embeddings, people)
    mated, impostor = [], []
    for one, other in itertools.combinations(range(count), 2):
        cosine = float(np.dot(embeddings[one], embeddings[other]))
        (mated if people[one] == people[other] else impostor).append(cosine)
    np.testing.assert_allclose(np.sort(given.mated), np.sort(mated), atol=1e-6)
    np.testing.assert_allclose(np.sort(given.impostor), np.sort(impostor), atol=1e-6)


def test_a_calibration_states_what_it_was_made_from():
    rng = np.random.default_rng(1)
    centres = unit(rng, 20)
    embeddings = np.repeat(centres, 3, axis=0) + 0.1 * unit(rng, 60)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    record, figures = calibrate(Labelled(embeddings, np.repeat(np.arange(20), 3), {}), data="drawn")
    assert (record.people, record.mated_pairs, record.impostor_pairs) == (20, 60, 60 * 59 // 2 - 60)
    assert record.data == "drawn"
    assert sum(figures.cases) == 60 * 59 // 2


def test_too_few_pairs_are_refused():
    embeddings = unit(np.random.default_rng(2), 4)
    with pytest.raises(CalibrationError, match="too few"):
        calibrate(Labelled(embeddings, np.array([0, 0, 1, 1]), {}), data="drawn")


def test_no_faces_are_refused():
    with pytest.raises(CalibrationError, match="only 0"):
        calibrate(Labelled(np.empty((0, 0), np.float32), np.empty(0, np.int64), {}), data="drawn")


def test_a_folder_is_read_person_by_person(tmp_path):
    for person, photo in (("anna", "1.jpg"), ("anna", "2.jpg"), ("bernd", "1.jpg"), ("bernd", ".hidden")):
        (tmp_path / person).mkdir(exist_ok=True)
        (tmp_path / person / photo).touch()
    (tmp_path / "notes.txt").touch()
    found = [(each.person, str(each.path.relative_to(tmp_path))) for each in photos_in(tmp_path)]
    assert found == [(0, "anna/1.jpg"), (0, "anna/2.jpg"), (1, "bernd/1.jpg")]


def test_a_folder_of_one_person_is_refused(tmp_path):
    (tmp_path / "anna").mkdir()
    (tmp_path / "anna" / "1.jpg").touch()
    with pytest.raises(CalibrationError, match="two people"):
        photos_in(tmp_path)


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(CalibrationError, match="no folder"):
        photos_in(tmp_path / "nowhere")


def test_photos_without_a_face_are_skipped_with_the_reason(service, tmp_path):
    for person in (1, 2):
        (tmp_path / f"s{person}").mkdir()
        (tmp_path / f"s{person}" / "1.pgm").write_bytes(orl_photo(person, 1))
    (tmp_path / "s1" / "2.jpg").write_text("no photo")
    photos = photos_in(tmp_path)
    read = []
    labelled = service.portal.call(lambda: label(service.product.reader, photos, read=lambda: read.append(1)))
    assert labelled.people.tolist() == [0, 1]
    assert list(labelled.skipped) == [tmp_path / "s1" / "2.jpg"]
    assert len(read) == 3
