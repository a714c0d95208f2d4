"""IJB-B and IJB-C as insightface packs them: templates of several photos and frames, compared 1:1 and searched 1:N.

    ROOT/loose_crop/1.jpg ...                    photos, a little larger than the face
    ROOT/meta/ijbc_name_5pts_score.txt           photo, five landmarks, detector's score: one line a photo
    ROOT/meta/ijbc_face_tid_mid.txt              photo, template, medium (a still, or the video that a frame is of)
    ROOT/meta/ijbc_template_pair_label.txt       template, template, 1 for one person
    ROOT/meta/ijbc_1N_gallery_G1.csv, ..._G2.csv template, person, ... with a heading; IJB-B calls them S1 and S2
    ROOT/meta/ijbc_1N_probe_mixed.csv            template, person, ...

1:N is open-set: every probe is searched in each gallery apart. The published protocol takes a probe for non-mated when
its person is not in the gallery searched, though the other gallery may hold it; strictly, only who is in neither is a
stranger. Both are measured, where there are such probes, and `strangers` says which. Sources: Whitelam et al. 2017
(IJB-B), Maze et al. 2018 (IJB-C).
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.vision.align import align
from training.embed import Model, unit
from training.errors import EvaluationError
from training.figures import IN_NEITHER, NOT_IN_THIS_ONE, Seen, open_set, ranks, verification
from training.identification import search
from training.verification import pair_scores

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Listed:
    """Templates of a gallery or of the probes, and whose they are; each template once."""

    templates: Numbers
    people: Numbers


@dataclass(frozen=True)
class Ijb:
    """One of the sets.

    Attributes:
        photos: where each photo lies.
        landmarks: (n, 5, 2) pixels.
        templates: (n,) template of each photo.
        media: (n,) medium of each photo.
        pairs: (k, 2) templates that are compared.
        same: (k,) whether they are of one person.
        galleries: two galleries of disjoint people; empty where there is no 1:N protocol.
        probes: probes of the people of both galleries, and possibly others.
    """

    photos: list[Path]
    landmarks: NDArray[np.float32]
    templates: Numbers
    media: Numbers
    pairs: Numbers
    same: NDArray[np.bool_]
    galleries: tuple[Listed, ...]
    probes: Listed | None


def read_ijb(root: Path) -> Ijb:
    """Read the lists of a set.

    Raises:
        EvaluationError: a list is missing, of another form, or names photos or templates that are not there.
    """
    meta = root / "meta"
    found = sorted(meta.glob("*_face_tid_mid.txt"))
    if len(found) != 1:
        raise EvaluationError(f"{meta} holds {len(found)} lists named *_face_tid_mid.txt instead of one")
    prefix = found[0].name.removesuffix("_face_tid_mid.txt")
    of_faces = _columns(found[0], 3)
    points = _columns(meta / f"{prefix}_name_5pts_score.txt", 12)
    names, placed = [row[0] for row in of_faces], [row[0] for row in points]
    if names != placed:
        raise EvaluationError(f"the lists of {prefix} name other photos, or in another order: {_first(names, placed)}")
    photos = [root / "loose_crop" / name for name in names]
    missing = [path for path in photos if not path.is_file()]
    if missing:
        raise EvaluationError(f"{len(missing)} of the {len(photos)} photos are not there, such as {missing[0]}")
    pairs = _numbers(meta / f"{prefix}_template_pair_label.txt", 3)
    files = [meta / f"{prefix}_1N_gallery_{name}.csv" for name in ("G1", "G2", "S1", "S2")]
    galleries = tuple(_listed(file) for file in files if file.is_file())
    mixed = meta / f"{prefix}_1N_probe_mixed.csv"
    made = Ijb(
        photos=photos,
        landmarks=np.array([row[1:11] for row in points], np.float32).reshape(-1, 5, 2),
        templates=np.array([row[1] for row in of_faces], np.int64),
        media=np.array([row[2] for row in of_faces], np.int64),
        pairs=pairs[:, :2],
        same=pairs[:, 2] == 1,
        galleries=galleries,
        probes=_listed(mixed) if mixed.is_file() else None,
    )
    listed = [made.pairs.ravel(), *(each.templates for each in (*galleries, *([made.probes] if made.probes else [])))]
    unknown = np.setdiff1d(np.concatenate(listed), made.templates)
    if len(unknown):
        raise EvaluationError(f"{len(unknown)} templates have no photo, such as {unknown[0]}")
    return made


def _first(names: list[str], others: list[str]) -> str:
    place = next((i for i, (a, b) in enumerate(zip(names, others, strict=False)) if a != b), None)
    return f"{len(names)} and {len(others)} of them" if place is None else f"{names[place]} and {others[place]}"


def _columns(path: Path, count: int) -> list[list[str]]:
    try:
        rows = [line.split() for line in path.read_text("utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise EvaluationError(f"{path} cannot be read: {error}") from error
    for number, row in enumerate(rows, 1):
        if len(row) != count or not all(_is_number(each) for each in row[1:]):
            raise EvaluationError(f"line {number} of {path} is of another form: {' '.join(row)!r}")
    return rows


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _numbers(path: Path, count: int) -> Numbers:
    """A list of whole numbers; of IJB-C's fifteen million pairs no text is kept."""
    try:
        numbers = np.loadtxt(path, np.int64, ndmin=2)
    except (OSError, ValueError) as error:
        raise EvaluationError(f"{path} cannot be read: {error}") from error
    if numbers.shape[1:] != (count,):
        raise EvaluationError(f"{path} has rows of {numbers.shape[1]} numbers, not {count}")
    return numbers


def _listed(path: Path) -> Listed:
    try:
        rows = np.loadtxt(path, np.int64, delimiter=",", skiprows=1, usecols=(0, 1), ndmin=2)
    except (OSError, ValueError) as error:
        raise EvaluationError(f"{path} cannot be read: {error}") from error
    templates, first = np.unique(rows[:, 0], return_index=True)
    return Listed(templates, rows[first, 1])


# --- photos to templates ---


class AlignedPhotos:
    """The crops of a set by number, cut when they are asked for, by the service's own aligner."""

    def __init__(self, ijb: Ijb) -> None:
        self._ijb = ijb

    def __len__(self) -> int:
        return len(self._ijb.photos)

    def __getitem__(self, index: int, /) -> bytes:
        with Image.open(self._ijb.photos[index]) as image:
            pixels = np.asarray(image.convert("RGB"))
        file = io.BytesIO()
        Image.fromarray(align(pixels, self._ijb.landmarks[index])).save(file, "BMP")
        return file.getvalue()


class LoosePhotos:
    """The photos of a set as they are, for a service that finds and aligns faces itself."""

    def __init__(self, ijb: Ijb) -> None:
        self._ijb = ijb

    def __len__(self) -> int:
        return len(self._ijb.photos)

    def __getitem__(self, index: int, /) -> bytes:
        return self._ijb.photos[index].read_bytes()


def aggregated(
    vectors: NDArray[np.float32], templates: Numbers, media: Numbers, *, block: int = 65_536
) -> tuple[Numbers, NDArray[np.float32]]:
    """One unit vector a template: the mean of a medium's photos, then the sum over the template's media.

    A video of a thousand frames so counts as much as a still. Source: Whitelam et al. 2017, as in the public protocol.

    Returns:
        (t,) templates, rising, and their (t, dim) vectors.
    """
    order = np.lexsort((media, templates))
    names, starts = np.unique(templates[order], return_index=True)
    ends = np.append(starts[1:], len(order))
    pooled = np.empty((len(names), vectors.shape[1]), np.float32)
    low = 0
    while low < len(names):
        high = max(low + 1, int(np.searchsorted(ends, starts[low] + block, side="right")))
        rows = order[starts[low] : ends[high - 1]]
        own, of_media = templates[rows], media[rows]
        begins = np.flatnonzero(np.append(True, (own[1:] != own[:-1]) | (of_media[1:] != of_media[:-1])))
        counts = np.diff(np.append(begins, len(rows)))
        means = np.add.reduceat(vectors[rows], begins, axis=0) / counts[:, None]
        of_template = np.flatnonzero(np.append(True, own[begins][1:] != own[begins][:-1]))
        pooled[low:high] = np.add.reduceat(means, of_template, axis=0)
        low = high
    return names, unit(pooled)


# --- the protocols ---


def evaluate_ijb(model: Model, ijb: Ijb, *, aligned: bool = True) -> Seen:
    """1:1 over the list of pairs, and 1:N in each gallery, of templates.

    Args:
        model: photos to vectors.
        ijb: the set.
        aligned: give the model crops; otherwise photos, which a service aligns itself.
    """
    photos = AlignedPhotos(ijb) if aligned else LoosePhotos(ijb)
    names, vectors = aggregated(model(photos), ijb.templates, ijb.media)
    owners = _owners(ijb, names)
    pairs = np.searchsorted(names, ijb.pairs)
    people = owners[pairs] if (owners[pairs] >= 0).all() else None
    yield from verification(pair_scores(vectors, pairs), ijb.same, people=people)
    if ijb.probes is None:
        return
    probes, whose = vectors[np.searchsorted(names, ijb.probes.templates)], ijb.probes.people
    anywhere = np.isin(whose, np.concatenate([each.people for each in ijb.galleries]))
    for number, gallery in enumerate(ijb.galleries, 1):
        found = search(probes, whose, vectors[np.searchsorted(names, gallery.templates)], gallery.people)
        said = {"gallery": number, "enrolled": len(np.unique(gallery.people))}
        yield from ranks(found, said)
        elsewhere = ~np.isin(whose, gallery.people)
        yield from open_set(found, whose, elsewhere, {**said, "strangers": NOT_IN_THIS_ONE})
        if not anywhere.all():
            yield from open_set(found, whose, ~anywhere, {**said, "strangers": IN_NEITHER})


def _owners(ijb: Ijb, names: Numbers) -> Numbers:
    """(t,) whose each template is, -1 where the 1:N lists do not say."""
    owners = np.full(len(names), -1, np.int64)
    for listed in (*ijb.galleries, *([ijb.probes] if ijb.probes is not None else [])):
        owners[np.searchsorted(names, listed.templates)] = listed.people
    return owners
