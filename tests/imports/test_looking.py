"""What is known of photos before anything is looked at, and how long that may be relied on."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from service.gallery import galleries
from service.imports.looking import Looking
from service.imports.sources import source_of
from service.imports.verdicts import settled
from tests.faces import orl_photo, saved, scene


@pytest.fixture
def known(gallery, folder):
    """A folder that was imported: looked at once more by the function that it gives."""
    source = folder(anna=[(1, 1), (1, 2)], bert=[(2, 1), (1, 3)])
    (source / "anna" / "3.jpg").write_bytes(saved(scene(), "JPEG"))
    gallery.imported(source)
    product, worker = gallery.service.product, gallery.service.app.state.imports
    with product.catalog.read() as reading:
        record = galleries.get(reading, gallery.name)
    entries = list(source_of(source).entries(str, record.dim))

    def look():
        with ThreadPoolExecutor(1) as pool:
            helpers = worker._helpers
            looking = Looking(product, record, source_of(source), worker._rule, True, helpers, pool)  # noqa: FBT003
            return looking.begin(entries).result(60)

    return look


def test_of_known_photos_the_lines_are_settled_without_a_look(known, gallery):
    verdicts = settled(known(), gallery.state()[0])
    assert [(line.outcome, bool(line.face), line.resembles) for line in verdicts.done] == [
        ("duplicate", True, ""),
        ("duplicate", True, ""),
        ("no_face", False, ""),
        ("duplicate", True, ""),
        ("another_person", False, "anna"),
    ]
    assert not verdicts.additions
    assert not verdicts.refusals


def test_what_was_settled_is_decided_anew_once_the_gallery_has_changed(known, gallery):
    seen = known()
    gallery.service.delete(f"{gallery.people}/anna")
    assert settled(seen, gallery.state()[0]) is None


def test_one_row_that_is_not_known_leaves_all_of_them_to_be_decided(known, gallery):
    first, *rest = known()
    assert settled([first._replace(line=None), *rest], gallery.state()[0]) is None


def test_a_photo_that_was_forgotten_is_enrolled_by_the_next_run(gallery, folder):
    source = folder(anna=[(1, 1)], bert=[(2, 1)])
    gallery.imported(source)
    gallery.service.delete(f"{gallery.people}/anna")
    job = gallery.imported(source)
    assert [outcome for *_, outcome in gallery.outcomes(job)] == ["enrolled", "duplicate"]
    assert gallery.whose(orl_photo(1, 5)) == "anna"
