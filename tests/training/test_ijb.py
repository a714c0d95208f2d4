"""IJB-B's and IJB-C's layouts, small and drawn: lists, templates, 1:1 and both galleries of 1:N."""

import io

import numpy as np
import pytest
from PIL import Image

from tests.training.models import tiny_model
from tests.training.photos import jpeg
from training.embed import embed, of_onnx
from training.errors import EvaluationError
from training.evaluate import main
from training.figures import IN_NEITHER, NOT_IN_THIS_ONE, Curve
from training.ijb import AlignedPhotos, aggregated, evaluate_ijb, read_ijb

TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
"""ArcFace's five points in a crop; a loose crop here is a crop with a rim of 20 pixels."""
RIM = 20


def face(person, frame):
    """A loose crop of a person as the set has them."""
    crop = np.array(Image.open(io.BytesIO(jpeg(person))), np.int16)
    noise = np.random.default_rng([person, frame]).normal(0, 15, crop.shape)
    loose = np.pad((crop + noise).clip(0, 255).astype(np.uint8), ((RIM, RIM), (RIM, RIM), (0, 0)), mode="edge")
    file = io.BytesIO()
    Image.fromarray(loose).save(file, "JPEG", quality=95)
    return file.getvalue()


def made(root, prefix="ijbc", galleries=("G1", "G2"), strangers=()):
    """Twelve people: 0 to 5 in the first gallery, 6 to 11 in the second; each has a gallery template and two probes.

    A gallery template is a still and a video of three frames; a probe one still. Strangers have probes alone.
    """
    (root / "loose_crop").mkdir(parents=True)
    (root / "meta").mkdir()
    faces, points, templates = [], [], []
    for person in (*range(12), *strangers):
        wanted = [] if person in strangers else [(1, 3)]  # frames of each medium
        for number, frames in enumerate([*wanted, (1,), (1,)]):
            template = 1000 * (person + 1) + 7 * (number + len(wanted) - 1)
            templates.append((template, person + 500, bool(wanted) and number == 0))
            for medium, count in enumerate(frames):
                for _ in range(count):
                    name = f"{len(faces) + 1}.jpg"
                    (root / "loose_crop" / name).write_bytes(face(person, len(faces)))
                    faces.append(f"{name} {template} {10 * template + medium}")
                    places = " ".join(f"{each:.3f}" for each in (TEMPLATE + RIM).ravel())
                    points.append(f"{name} {places} 0.99")
    (root / "meta" / f"{prefix}_face_tid_mid.txt").write_text("\n".join(faces) + "\n")
    (root / "meta" / f"{prefix}_name_5pts_score.txt").write_text("\n".join(points) + "\n")
    gallery = [(t, p) for t, p, enrolled in templates if enrolled]
    probes = [(t, p) for t, p, enrolled in templates if not enrolled]
    pairs = [f"{t} {u} {int(p == q)}" for t, p in gallery for u, q in probes]
    (root / "meta" / f"{prefix}_template_pair_label.txt").write_text("\n".join(pairs) + "\n")
    heading = "TEMPLATE_ID,SUBJECT_ID,FILENAME\n"
    for name, first in zip(galleries, (500, 506), strict=True):
        rows = [f"{t},{p},img/{t}.jpg" for t, p in gallery if first <= p < first + 6]
        twice = [*rows, rows[0]]  # the published lists have a row a photo: a template comes more than once
        (root / "meta" / f"{prefix}_1N_gallery_{name}.csv").write_text(heading + "\n".join(twice) + "\n")
    rows = [f"{t},{p},img/{t}.jpg" for t, p in probes]
    (root / "meta" / f"{prefix}_1N_probe_mixed.csv").write_text(heading + "\n".join(rows) + "\n")
    return root


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    embedder = of_onnx(tiny_model(tmp_path_factory.mktemp("model") / "tiny.onnx"))
    return lambda photos: embed(embedder, photos)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """As the real sets are: everybody is in one of the galleries."""
    return made(tmp_path_factory.mktemp("ijb") / "IJBC")


def figures(model, ijb):
    return [each for each in evaluate_ijb(model, ijb) if not isinstance(each, Curve)]


def test_the_lists_are_read(published):
    ijb = read_ijb(published)
    assert len(ijb.photos) == 12 * 6
    assert ijb.landmarks.shape == (72, 5, 2)
    assert (len(ijb.pairs), int(ijb.same.sum())) == (12 * 24, 24)
    assert [len(each.templates) for each in ijb.galleries] == [6, 6]
    assert len(ijb.probes.templates) == 24
    assert set(ijb.galleries[0].people) == set(range(500, 506))


def test_photos_are_cut_by_their_landmarks(published):
    crop = np.array(Image.open(io.BytesIO(AlignedPhotos(read_ijb(published))[0])), np.int16)
    plain = np.array(Image.open(io.BytesIO(face(0, 0))), np.int16)[RIM:-RIM, RIM:-RIM]
    assert np.abs(crop - plain).mean() < 8


@pytest.mark.parametrize("block", [1, 5, 1000])
def test_a_medium_counts_once_in_its_template_however_many_frames_it_has(block):
    random = np.random.default_rng(0)
    vectors = random.normal(size=(200, 8)).astype(np.float32)
    templates, media = random.integers(30, size=200) * 3, random.integers(4, size=200)
    names, pooled = aggregated(vectors, templates, media, block=block)
    assert names.tolist() == sorted(set(templates.tolist()))
    for name, vector in zip(names, pooled, strict=True):
        total = np.zeros(8)
        for medium in set(media[templates == name].tolist()):
            frames = [v for v, t, m in zip(vectors, templates, media, strict=True) if (t, m) == (name, medium)]
            total += sum(frames) / len(frames)
        np.testing.assert_allclose(vector, total / np.linalg.norm(total), atol=1e-5)


def test_templates_are_compared_as_the_list_has_it(published, model):
    found = figures(model, read_ijb(published))
    (tar,) = [each for each in found if each["figure"] == "tar" and each.get("far") == 1e-1]
    assert (tar["mated"], tar["impostors"]) == (24, 12 * 24 - 24)
    assert tar["value"] == 1
    assert tar["interval"] == "bootstrap over people"


def test_each_gallery_is_searched_apart_by_the_published_rule(published, model):
    found = [each for each in figures(model, read_ijb(published)) if each["figure"] == "fnir"]
    assert {each["gallery"] for each in found} == {1, 2}
    assert {each["strangers"] for each in found} == {NOT_IN_THIS_ONE}  # everybody is in one of them
    measured = [each for each in found if "mated" in each]
    assert measured == []  # 12 probes of the other gallery cannot vouch for an FPIR of 0.1
    assert all("there are 12" in each["refused"] for each in found)


def test_who_is_in_neither_gallery_is_a_stranger_and_who_is_in_the_other_is_none(tmp_path, model):
    strangers = tuple(range(20, 40))
    found = figures(model, read_ijb(made(tmp_path / "IJBB", "ijbb", ("S1", "S2"), strangers)))
    rates = {
        (each["gallery"], each["strangers"]): each for each in found if each["figure"] == "fnir" and "mated" in each
    }
    for gallery in (1, 2):
        strict, published = rates[gallery, IN_NEITHER], rates[gallery, NOT_IN_THIS_ONE]
        assert (strict["mated"], strict["non_mated"]) == (12, 40)
        assert (published["mated"], published["non_mated"]) == (12, 40 + 12)
        assert strict["interval"] == "bootstrap over people"
    ranked = [each["value"] for each in found if each["figure"] == "rank1"]
    assert ranked == [1.0, 1.0]


def test_the_command_measures_a_set_and_keeps_its_curves(published, tmp_path, capsys):
    model = tiny_model(tmp_path / "tiny.onnx")
    assert main([str(model), "--ijb", str(published), "--out", str(tmp_path / "out")]) == 0
    assert '"set": "IJBC", "figure": "rank1"' in capsys.readouterr().out
    assert (tmp_path / "out" / "IJBC-verification.png").exists()


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        (
            "ijbc_face_tid_mid.txt",
            lambda text: text.replace("\n5.jpg 1007 ", "\n5.jpg ", 1),
            "line 5 of .* another form",
        ),
        ("ijbc_face_tid_mid.txt", lambda text: text.replace("1.jpg", "none.jpg", 1), "name other photos"),
        ("ijbc_name_5pts_score.txt", lambda text: text.rsplit("\n", 2)[0], "72 and 71"),
        ("ijbc_template_pair_label.txt", lambda text: text + "77 1000 0\n", "1 templates have no photo, such as 77"),
        ("ijbc_template_pair_label.txt", lambda text: text + "a b c\n", "cannot be read"),
        ("ijbc_1N_probe_mixed.csv", lambda text: text + "one,two\n", "cannot be read"),
    ],
)
def test_a_list_that_is_damaged_is_named(name, change, said, tmp_path, published):
    root = tmp_path / "IJBC"
    (root / "meta").mkdir(parents=True)
    (root / "loose_crop").symlink_to(published / "loose_crop")
    for file in (published / "meta").iterdir():
        text = file.read_text()
        (root / "meta" / file.name).write_text(change(text) if file.name == name else text)
    with pytest.raises(EvaluationError, match=said):
        read_ijb(root)


def test_photos_that_are_missing_are_counted_and_named(published, tmp_path):
    root = tmp_path / "IJBC"
    (root / "loose_crop").mkdir(parents=True)
    (root / "meta").symlink_to(published / "meta")
    with pytest.raises(EvaluationError, match=r"72 of the 72 photos are not there, such as .*1\.jpg"):
        read_ijb(root)


def test_a_folder_without_lists_is_refused(tmp_path):
    with pytest.raises(EvaluationError, match="holds 0 lists"):
        read_ijb(tmp_path)
