"""Decide about rows in their order, as if each had come alone after those before it were committed.

So the result does not depend on how rows happen to share a transaction, nor on where an import was broken off.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from service.gallery.bulk import Addition, Newcomers, Owner, Refusal
from service.gallery.catalog import WriteTransaction
from service.gallery.embeddings import Embeddings
from service.gallery.people import Indexed, by_pks
from service.gallery.records import GalleryRecord, NewTemplate
from service.gallery.view import GalleryView
from service.identify.decision import threshold
from service.imports.entries import Done, duplicate, invalid, outcome_of, over_limit, refused
from service.imports.looking import Seen
from service.imports.sight import Sight
from service.recognition.product import Product

LOOK_ALIKES: Final = 5
"""People, most like a face, who are asked whether it is theirs."""

RESEMBLES: Final = "resembles_another"
"""The code of a face that is likely another person's."""


class UnseenError(Exception):
    """A photo that was spared a look, because it was known, has to be looked at after all."""


@dataclass
class Verdicts:
    """What becomes of rows.

    Attributes:
        done: a line of the report each.
        additions: templates to be kept,
        newcomers: and those of people who come with one face alone.
        refusals: photos that need not be looked at again.
        rivals: by place in `refusals`, whom a face resembles who gets a key only with the additions.
    """

    done: list[Done] = field(default_factory=list)
    additions: list[Addition] = field(default_factory=list)
    newcomers: Newcomers | None = None
    refusals: list[Refusal] = field(default_factory=list)
    rivals: dict[int, str] = field(default_factory=dict)

    def refusals_with(self, keys: Mapping[str, int]) -> list[Refusal]:
        """The refusals, with the keys of `rivals`."""
        found = list(self.refusals)
        for place, person in self.rivals.items():
            found[place] = replace(found[place], rival_pk=keys[person])
        return found

    def tally(self) -> Counter[str]:
        """Rows by outcome."""
        return Counter(item.outcome for item in self.done)


class LookAlikes:
    """Whom each of some faces resembles in the gallery, as it was before the first of them.

    Args:
        product: the parts.
        gallery: where the faces shall go.
        view: its index, at the newest revision.
        seen: the rows.
    """

    def __init__(self, product: Product, gallery: GalleryRecord, view: GalleryView, seen: Sequence[Seen]) -> None:
        self._product = product
        self._fpir = gallery.fpir or product.policy.fpir
        self._people = len(view)
        faces = [
            (place, item.sight.embedding)
            for place, item in enumerate(seen)
            if item.sight is not None and item.sight.embedding is not None
        ]
        self._alike: dict[int, list[tuple[int, float]]] = {}
        if faces:
            matches = view.search(np.stack([vector for _, vector in faces]), LOOK_ALIKES)
            least = self.needed(0)
            for (place, _), rows, scores in zip(faces, matches.rows, matches.scores, strict=True):
                near = [(int(row), float(score)) for row, score in zip(rows, scores, strict=True) if score >= least]
                if near:
                    self._alike[place] = near

    def needed(self, more: int) -> float:
        """The cosine at which a face is taken for somebody's, once so many people more are in the gallery."""
        return threshold(self._product.calibration, self._people + more, self._fpir, insist=False).similarity

    def pks(self) -> list[int]:
        """Everybody whom some face resembles."""
        return sorted({pk for near in self._alike.values() for pk, _ in near})

    def of(self, place: int) -> Sequence[tuple[int, float]]:
        """Whom the face of a row resembles, and how much."""
        return self._alike.get(place, ())


def settled(seen: Sequence[Seen], revision: int) -> Verdicts | None:
    """What becomes of rows that change nothing in a gallery of this revision; None where one must be decided about."""
    lines = [item.line for item in seen if item.line is not None and item.revision == revision]
    return Verdicts(lines) if len(lines) == len(seen) else None


def decide(
    tx: WriteTransaction,
    seen: Sequence[Seen],
    owners: dict[str, Owner],
    *,
    dim: int,
    limit: int,
    rule: str,
    alike: LookAlikes | None,
) -> Verdicts:
    """Decide about rows.

    Args:
        tx: the transaction that will keep what comes of them.
        seen: the rows.
        owners: what `bulk.read` gave of their people, in this transaction; what is enrolled is added to it.
        dim: of the gallery.
        limit: most faces kept for a person.
        rule: what a refusal depends on besides the photo.
        alike: whom their faces resemble; None keeps faces whomever they resemble.

    Raises:
        UnseenError: a row has to be looked at first.
    """
    court = _Court(tx, owners, len(seen), dim, limit, rule, alike)
    alone = _alone(seen, owners) if alike is None else []
    came: dict[int, Done] = {}
    if alone:
        court.verdicts.newcomers, lines = _newcomers([seen[place] for place in alone])
        came = dict(zip(alone, lines, strict=True))
    for place, item in enumerate(seen):
        court.verdicts.done.append(came.get(place) or court.judge(place, item))
    return court.verdicts


def _alone(seen: Sequence[Seen], owners: Mapping[str, Owner]) -> list[int]:
    """The places of rows that no other one touches: usable, and all that there is of their person."""
    rows = Counter([item.entry.person for item in seen])
    return [
        place
        for place, (entry, _, sight, refusal, *_) in enumerate(seen)
        if rows[entry.person] == 1
        and entry.fault is None
        and entry.person not in owners
        and refusal is None
        and sight is not None
        and sight.embedding is not None
        and sight.crop is None
    ]


def _newcomers(seen: Sequence[Seen]) -> tuple[Newcomers, list[Done]]:
    """What is kept of rows that no other one touches, and their lines, as the court would say it one by one."""
    entries, digests, found, *_ = zip(*seen, strict=True)
    photos, persons, *_ = zip(*entries, strict=True)
    sights: tuple[Sight, ...] = found
    newcomers = Newcomers(
        persons=list(persons),
        fields=[entry.fields() for entry in entries],
        faces=drawn(len(seen)),
        photo_digests=list(digests),
        embeddings=[sight.embedding for sight in sights if sight.embedding is not None],
        quality=[sight.quality for sight in sights],
        boxes=[sight.box for sight in sights],
    )
    lines = [
        Done(photo, person, "enrolled", face=face, quality=round(quality, 4))
        for photo, person, face, quality in zip(photos, persons, newcomers.faces, newcomers.quality, strict=True)
    ]
    return newcomers, lines


def drawn(count: int) -> list[str]:
    """Ids for so many new faces."""
    digits = secrets.token_hex(10 * count)
    return [f"f_{digits[first : first + 20]}" for first in range(0, 20 * count, 20)]


class _Court:
    """The state of the gallery after each row, as far as the next ones may touch it."""

    def __init__(
        self,
        tx: WriteTransaction,
        owners: dict[str, Owner],
        rows: int,
        dim: int,
        limit: int,
        rule: str,
        alike: LookAlikes | None,
    ) -> None:
        self.verdicts = Verdicts()
        self._tx = tx
        self._limit, self._rule, self._alike = limit, rule, alike
        self._owners = owners
        self._created = 0
        self._changed: dict[str, int] = {}
        self._vectors = np.empty((rows if alike else 0, dim), np.float32)
        self._people: dict[int, Indexed] = {}
        if alike is not None:
            found = by_pks(tx, alike.pks())
            self._people = {pk: each for pk, each in found.items() if not each.expired(tx.now)}

    def judge(self, place: int, item: Seen) -> Done:
        """What becomes of a row, given all those before."""
        owner = self._owners.get(item.entry.person) or Owner()
        return self._beforehand(item, owner) or self._by_face(place, item, owner)

    def _beforehand(self, item: Seen, owner: Owner) -> Done | None:
        """What becomes of a row whatever its photo shows."""
        entry = item.entry
        if entry.fault is not None:
            return invalid(entry)
        if item.digest in owner.photos:
            return duplicate(entry, owner.photos[item.digest])
        if item.digest and len(owner.embeddings) >= self._limit:
            return over_limit(entry, self._limit)
        return None if item.refusal is None else self._again(item, item.refusal)

    def _by_face(self, place: int, item: Seen, owner: Owner) -> Done:
        sight = item.sight
        if sight is None:
            raise UnseenError
        if sight.error is not None:
            error = sight.error
            return self._refused(
                item, Refusal(item.digest, "", self._rule, outcome_of(error), error.code, error.detail)
            )
        if sight.embedding is None:
            raise UnseenError
        rival = self._rival(place, item.entry.person, owner, sight.embedding)
        if rival is not None:
            return self._for_another(item, *rival)
        return self._enrolled(item, owner, sight, sight.embedding)

    def _again(self, item: Seen, refusal: Refusal) -> Done | None:
        if refusal.rival_pk is None:
            return self._refused(item, refusal, new=False)
        rival = by_pks(self._tx, [refusal.rival_pk]).get(refusal.rival_pk)
        if self._alike is None or rival is None:
            return None
        return self._refused(item, refusal, new=False, rival=rival.person)

    def _refused(self, item: Seen, refusal: Refusal, *, new: bool = True, rival: str = "") -> Done:
        if new and refusal.photo_digest:
            self.verdicts.refusals.append(refusal)
        return refused(item.entry, refusal, rival)

    def _for_another(self, item: Seen, rival: str, pk: int | None, similarity: float) -> Done:
        detail = "the face is more like another person's"
        similarity = round(similarity, 4)
        refusal = Refusal(
            item.digest, item.entry.person, self._rule, "another_person", RESEMBLES, detail, pk, similarity
        )
        if pk is None:
            self.verdicts.rivals[len(self.verdicts.refusals)] = rival
        return self._refused(item, refusal, rival=rival)

    def _enrolled(self, item: Seen, owner: Owner, sight: Sight, embedding: Embeddings) -> Done:
        entry = item.entry
        (face,) = drawn(1)
        if not owner.embeddings:
            self._created += 1
        self._owners[entry.person] = owner
        owner.photos[item.digest] = face
        owner.embeddings.append(embedding)
        owner.quality.append(sight.quality)
        if self._alike is not None:
            place = self._changed.setdefault(entry.person, len(self._changed))
            self._vectors[place] = self._fused(owner)
        template = NewTemplate(item.digest, embedding, sight.quality, sight.box, sight.crop)
        self.verdicts.additions.append(Addition(entry.person, face, template, entry.fields()))
        return Done(entry.photo, entry.person, "enrolled", face=face, quality=round(sight.quality, 4))

    def _rival(
        self, place: int, person: str, owner: Owner, embedding: Embeddings
    ) -> tuple[str, int | None, float] | None:
        """Somebody whose face this is more likely than its person's: who, their key, the similarity."""
        if self._alike is None:
            return None
        needed = self._alike.needed(self._created)
        best: tuple[str, int | None, float] | None = None
        for pk, similarity in self._alike.of(place):
            other = self._people.get(pk)
            if other is None or other.person == person or other.person in self._changed:
                continue
            if similarity >= needed and (best is None or similarity > best[2]):
                best = (other.person, pk, similarity)
        if self._changed:
            scores = self._vectors[: len(self._changed)] @ embedding
            for other_person, number in self._changed.items():
                similarity = float(scores[number])
                if other_person != person and similarity >= needed and (best is None or similarity > best[2]):
                    best = (other_person, self._owners[other_person].pk, similarity)
        if best is not None and owner.embeddings and float(self._fused(owner) @ embedding) >= best[2]:
            return None
        return best

    def _fused(self, owner: Owner) -> Embeddings:
        quality = np.array(owner.quality, np.float32)
        return np.asarray(self._tx.fuse(np.stack(owner.embeddings), quality), np.float32)
