import numpy as np
import pytest

from service.errors import EngineAbsentError, StorageError
from service.gallery.index.indexes import LocalIndexes
from tests.gallery.index.conftest import OWNER


def test_rows_of_one_place_lie_together_once_they_are_sealed(tiny, unit):
    asked = []

    def order(gallery_pk, rows):
        asked.append(gallery_pk)
        return rows % 3

    indexes = tiny(order=order)
    index = indexes.of(OWNER, 0)
    index.add(np.arange(30), unit(30))
    indexes.settle()
    for each in index._state.sealed:
        assert (np.diff(each.segment.rows % 3) >= 0).all()
    assert set(asked) == {OWNER.gallery_pk}


def test_where_places_are_not_known_rows_are_kept_as_they_came(tiny, unit, caplog):
    def order(gallery_pk, rows):
        raise StorageError("no answer")

    indexes = tiny(order=order)
    index = indexes.of(OWNER, 0)
    index.add(np.arange(9), unit(9))
    indexes.settle()
    assert index._state.sealed[0].segment.rows.tolist() == list(range(9))
    assert "kept as they came" in caplog.text


def test_a_gpu_that_is_not_there_refuses_the_start(tmp_path):
    with pytest.raises(EngineAbsentError, match="VULTUS_INDEX_DEVICE=cuda"):
        LocalIndexes(tmp_path, device="cuda")


@pytest.mark.usefixtures("kept")
def test_what_belongs_to_a_dropped_gallery_is_deleted(tiny, tmp_path):
    (tmp_path / "notes.txt").touch()
    tiny().drop(OWNER.gallery_pk)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("harm", [lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[:-9])])
@pytest.mark.usefixtures("kept")
def test_a_segment_that_is_gone_or_cut_short_means_starting_from_the_catalog(tiny, unit, tmp_path, harm, caplog):
    harm(next(tmp_path.glob("*.segment")))
    again = tiny().of(OWNER, 1)
    assert (len(again), again.kept) == (0, -1)
    assert "rebuilt from the catalog" in caplog.text
    again.add(np.arange(30), unit(30))
    again.keep(1)
    assert len(again) == 30


def test_closing_ends_what_is_being_built(tiny, unit):
    index = tiny().of(OWNER, 0)
    index.add(np.arange(40), unit(40))
    index.close()
    assert index._drafts == set()
