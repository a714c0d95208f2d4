"""Lists of pairs, and the crops that they name."""

import pytest

from tests.training.photos import jpeg
from training.errors import EvaluationError
from training.verification_sets import open_pairs, read_pairs


def test_pairs_are_read_in_lfw_s_form():
    pairs, same = read_pairs("10\t300\nAnn_Bee\t1\t12\nAnn_Bee\t3\tCy_Dee\t4\n")
    assert pairs == [("Ann_Bee_0001", "Ann_Bee_0012"), ("Ann_Bee_0003", "Cy_Dee_0004")]
    assert same.tolist() == [True, False]


def test_a_line_of_another_form_is_named():
    with pytest.raises(EvaluationError, match="line 3"):
        read_pairs("1\t1\nAnn\t1\t2\nAnn\tone\ttwo\n")


def crops_of_lfw_s_form(folder):
    for name in ("Ann_0001", "Ann_0002", "Bo_0001"):
        path = folder / name.rpartition("_")[0] / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(len(name)))
    return folder


def test_a_list_of_pairs_is_packed_from_the_crops_that_it_names(tmp_path):
    (tmp_path / "pairs.txt").write_text("1\t1\nAnn\t1\t2\nAnn\t1\tBo\t1\n")
    pairs = open_pairs(tmp_path / "pairs.txt", crops_of_lfw_s_form(tmp_path / "crops"))
    assert pairs.same.tolist() == [True, False]
    assert pairs.photos == [jpeg(8), jpeg(8), jpeg(8), jpeg(7)]


def test_pairs_that_name_missing_photos_are_refused(tmp_path):
    (tmp_path / "pairs.txt").write_text("1\t1\nAnn\t1\t9\nAnn\t1\tBo\t1\n")
    with pytest.raises(EvaluationError, match=r"1 of the 3 photos are not in .*, such as Ann_0009"):
        open_pairs(tmp_path / "pairs.txt", crops_of_lfw_s_form(tmp_path / "crops"))


def test_a_list_of_pairs_needs_its_crops(tmp_path):
    with pytest.raises(EvaluationError, match="--crops"):
        open_pairs(tmp_path / "pairs.txt")
