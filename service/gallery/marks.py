"""How far an index that a server keeps has followed a gallery: its mark, which is part of the catalog.

An index in a snapshot carries its own revision. One that is kept elsewhere, and filled by several processes, has it
here: every change up to the mark is in the index, and maybe later ones.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import bindparam, select, update

from service.gallery.catalog import Reading, WriteTransaction
from service.gallery.index.protocol import NEVER
from service.gallery.schema import marks

_ITS: Final = (marks.c.gallery_pk == bindparam("its_gallery")) & (marks.c.place == bindparam("its_place"))

FIND: Final = select(marks.c.revision).where(_ITS)
TAKE: Final = select(marks.c.revision).where(_ITS).with_for_update()
RAISE: Final = update(marks).where(_ITS, marks.c.revision < bindparam("reached")).values(revision=bindparam("reached"))


def of(reading: Reading, gallery_pk: int, place: str) -> int:
    """The revision up to which the index at a place has followed a gallery; `NEVER` where it has not."""
    found = reading.connection.execute(FIND, _its(gallery_pk, place)).scalar_one_or_none()
    return NEVER if found is None else int(found)


def begin(tx: WriteTransaction, gallery_pk: int, place: str) -> bool:
    """Make the mark of an index that follows nothing yet; returns False where there is one already.

    Another process that does the same waits until the transaction has ended.
    """
    tx.hold(gallery_pk)
    if tx.connection.execute(FIND, _its(gallery_pk, place)).scalar_one_or_none() is not None:
        return False
    tx.connection.execute(marks.insert(), {"gallery_pk": gallery_pk, "place": place, "revision": NEVER})
    return True


def take(tx: WriteTransaction, gallery_pk: int, place: str) -> None:
    """Keep every other process from filling the same index until the transaction ends."""
    tx.connection.execute(TAKE, _its(gallery_pk, place))


def reach(tx: WriteTransaction, gallery_pk: int, place: str, revision: int) -> None:
    """Move the mark on to a revision; a mark that is further already stays."""
    tx.connection.execute(RAISE, {**_its(gallery_pk, place), "reached": revision})


def _its(gallery_pk: int, place: str) -> dict[str, int | str]:
    return {"its_gallery": gallery_pk, "its_place": place}
