"""Whole imports: what becomes of each photo, and that a second run changes nothing."""

from tests.faces import blurred, crowd, orl_photo, saved, scene, truncated_jpeg


def test_every_photo_has_one_outcome_and_what_is_enrolled_is_found(gallery, folder):
    source = folder(anna=[(1, 1), (1, 2)], bert=[(2, 1)])
    (source / "anna" / "3.jpg").write_bytes(saved(scene(), "JPEG"))
    (source / "anna" / "4.jpg").write_bytes(truncated_jpeg())
    (source / "anna" / "5.jpg").write_bytes(crowd(2))
    (source / "anna" / "6.pgm").write_bytes(orl_photo(1, 1))
    (source / "bert" / "2.pgm").write_bytes(orl_photo(1, 3))
    (source / "Not allowed").mkdir()
    (source / "Not allowed" / "1.pgm").write_bytes(orl_photo(3, 1))
    (source / "stray.pgm").write_bytes(orl_photo(4, 1))
    job = gallery.imported(source.name)
    assert gallery.outcomes(job) == [
        ("Not allowed/1.pgm", "Not allowed", "invalid"),
        ("anna/1.pgm", "anna", "enrolled"),
        ("anna/2.pgm", "anna", "enrolled"),
        ("anna/3.jpg", "anna", "no_face"),
        ("anna/4.jpg", "anna", "unreadable"),
        ("anna/5.jpg", "anna", "several_faces"),
        ("anna/6.pgm", "anna", "duplicate"),
        ("bert/1.pgm", "bert", "enrolled"),
        ("bert/2.pgm", "bert", "another_person"),
        ("stray.pgm", "", "invalid"),
    ]
    lines = gallery.report(job)
    assert [line["row"] for line in lines] == [str(number) for number in range(1, 11)]
    assert lines[8]["resembles"] == "anna"
    assert (job["total"], job["done"], job["seconds_left"]) == (10, 10, None)
    assert {name: count for name, count in job["outcomes"].items() if count} == {
        "enrolled": 3,
        "duplicate": 1,
        "another_person": 1,
        "no_face": 1,
        "several_faces": 1,
        "unreadable": 1,
        "invalid": 2,
    }
    assert gallery.state()[1:] == (2, 3)
    assert (gallery.whose(orl_photo(1, 5)), gallery.whose(orl_photo(2, 5))) == ("anna", "bert")


def test_a_second_run_says_the_same_and_changes_nothing(gallery, folder):
    source = folder(anna=[(1, 1), (1, 2)], bert=[(2, 1), (2, 2)])
    (source / "bert" / "3.pgm").write_bytes(orl_photo(1, 3))
    (source / "bert" / "4.jpg").write_bytes(saved(scene(), "JPEG"))
    first = gallery.report(gallery.imported(source))
    state = gallery.state()
    again = gallery.report(gallery.imported(source))
    assert gallery.state() == state
    assert [line["outcome"] for line in again] == ["duplicate"] * 4 + ["another_person", "no_face"]
    assert [line["face"] for line in again] == [line["face"] for line in first]
    assert again[4:] == first[4:]


def test_an_import_enrols_what_single_enrolments_would(gallery, folder):
    source = folder(anna=[(1, 1), (1, 2)])
    gallery.imported(source)
    gallery.enrolled("other", *(orl_photo(1, number) for number in (1, 2)))
    one, other = (
        [(face["quality"], face["box"]) for face in gallery.service.get(f"{gallery.people}/{person}").json()["faces"]]
        for person in ("anna", "other")
    )
    assert one == other


def test_a_face_under_the_quality_floor_is_reported_and_not_kept(gallery, folder):
    source = folder(anna=[(1, 1)])
    (source / "anna" / "2.png").write_bytes(blurred(1, 2))
    job = gallery.imported(source.name)
    assert gallery.outcomes(job) == [("anna/1.pgm", "anna", "enrolled"), ("anna/2.png", "anna", "low_quality")]
    assert (job["outcomes"]["low_quality"], gallery.state()[1:]) == (1, (1, 1))
    assert "quality" in gallery.report(job)[1]["detail"]
    assert [line["outcome"] for line in gallery.report(gallery.imported(source.name))] == ["duplicate", "low_quality"]
