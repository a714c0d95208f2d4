"""From photos of people to crops to learn from: `python -m training.prepare PEOPLE CROPS`.

    PEOPLE/PERSON/PHOTO -> the service's detector and aligner -> CROPS/PERSON/PHOTO.jpg, CROPS/report.json

The face of a photo is the one nearest to its middle, as photos of one person have it. What was done is noted photo by
photo in CROPS/.done.jsonl, so that a second start goes on where the first one stopped. The service's recognition model
then looks over the crops for what spoils training: copies, faces that disagree with their person, and people of an
evaluation set. They are listed; `--leave-out` removes them.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from service.artifact.files import write_atomic
from service.artifact.store import ModelStore
from service.errors import PhotoError, VultusError
from service.vision import engines
from service.vision.align import align
from service.vision.decode import decode
from service.vision.detect import Detector
from training.data import Folder
from training.embed import PhotosOf, embed, of_onnx, unit
from training.errors import DataError

LIMITS = {"max_bytes": 1 << 28, "max_pixels": 200_000_000}

DISAGREES = 0.2
"""A photo whose median cosine with the others of its person is under this shows someone else, most likely."""
NEAR_COPY = 2.0
"""Two photos of a person whose brightness, at 16 x 16 pixels of the whole photo, differs by less than this on average
are one photo saved twice; crops would not show it, as the landmarks of two sizes of a photo differ by a pixel."""
SAME_PERSON = 0.5
"""Two people whose mean embeddings are above this cosine are one person."""


@dataclass(frozen=True)
class Prepared:
    """What came of a folder of photos; photos by their path from the folder of crops or of photos.

    Attributes:
        crops: number of crops there are.
        refused: (photo, reason) of photos without a usable face.
        copies: (crop, crop that it equals) of exact and near copies within a person.
        disagreeing: (crop, median cosine with the rest of its person).
        evaluated: (person, person of the evaluation set, cosine).
        left_out: whether the crops listed were removed.
    """

    crops: int
    refused: list[tuple[str, str]] = field(default_factory=list)
    copies: list[tuple[str, str]] = field(default_factory=list)
    disagreeing: list[tuple[str, float]] = field(default_factory=list)
    evaluated: list[tuple[str, str, float]] = field(default_factory=list)
    left_out: bool = False


def prepare(
    photos: Path,
    crops: Path,
    store: ModelStore,
    *,
    evaluation: Path | None = None,
    leave_out: bool = False,
    threads: int,
) -> Prepared:
    """Cut the crops that are still missing, and look all of them over.

    Args:
        photos: the folder of people.
        crops: where the crops go.
        store: the models folder, which holds `yunet` and `sface`.
        evaluation: crops of an evaluation set, as this function makes them.
        leave_out: remove what is listed.
        threads: photos worked on at once.

    Raises:
        DataError: there is no photo, or no face in any of them.
        ModelError: a model's file is missing or damaged.
    """
    noted = cut(photos, crops, store, threads=threads)
    embedder = of_onnx(store.file(store.manifest("sface")), threads=threads)
    found = Folder(crops, threads=threads)
    vectors = embed(embedder, PhotosOf(found))
    names = [str(path.relative_to(crops)) for path in found.paths]
    evaluated = []
    if evaluation is not None:
        others = Folder(evaluation, threads=threads)
        theirs = embed(embedder, PhotosOf(others))
        evaluated = shared_people(found, vectors, others, theirs)
    shared = [(str(Path(path).relative_to(crops)), "another person's photo") for path in found.report.shared]
    prepared = Prepared(
        crops=len(found),
        refused=[(name, each.refused) for name, each in noted.items() if each.refused],
        copies=shared + copies(noted, crops),
        disagreeing=disagreeing(found, vectors, names),
        evaluated=evaluated,
        left_out=leave_out,
    )
    if leave_out:
        remove(crops, prepared)
    write_atomic(crops / "report.json", json.dumps(asdict(prepared), indent=1).encode())
    return prepared


# --- cutting ---


@dataclass(frozen=True)
class Noted:
    """What the journal says of a photo: why it was refused, if it was, and how it looks at 16 x 16 pixels, in hex."""

    refused: str
    look: str


def cut(photos: Path, crops: Path, store: ModelStore, *, threads: int) -> dict[str, Noted]:
    """Cut the crop of every photo that has not been worked on yet; gives what is noted of all photos."""
    files = [path for path in sorted(photos.glob("*/*")) if path.is_file()]
    if not files:
        raise DataError(f"{photos} holds no PERSON/PHOTO")
    crops.mkdir(parents=True, exist_ok=True)
    journal = crops / ".done.jsonl"
    done = _read(journal)
    detector = Detector(engines.onnxruntime(store.file(store.manifest("yunet")), streams=threads))
    missing = [path for path in files if str(path.relative_to(photos)) not in done]
    with journal.open("a", encoding="utf-8") as notes, ThreadPoolExecutor(threads) as pool:
        results = pool.map(lambda path: _cut(path, crops / _crop_of(path), detector), missing)
        for path, noted in zip(missing, tqdm(results, total=len(missing), unit="photo", disable=None), strict=True):
            name = str(path.relative_to(photos))
            done[name] = noted
            notes.write(json.dumps([name, noted.refused, noted.look]) + "\n")
            notes.flush()
    return done


def _read(journal: Path) -> dict[str, Noted]:
    """What is noted; a last line that a kill cut short does not count."""
    done: dict[str, Noted] = {}
    if journal.exists():
        for line in journal.read_text("utf-8").splitlines():
            try:
                name, refused, look = json.loads(line)
            except json.JSONDecodeError:
                break
            done[name] = Noted(refused, look)
    return done


def _crop_of(photo: Path) -> Path:
    """PERSON/CROP of a photo: another ending than .jpg stays in the name, so that 1.jpg and 1.png do not meet."""
    return Path(photo.parent.name) / (photo.name if photo.suffix == ".jpg" else f"{photo.name}.jpg")


def _noted(journal: Path) -> dict[str, str]:
    """Photos that are done, and why they were refused; a last line that a kill cut short does not count."""
    done: dict[str, str] = {}
    if journal.exists():
        for line in journal.read_text("utf-8").splitlines():
            try:
                name, reason = json.loads(line)
            except json.JSONDecodeError:
                break
            done[name] = reason
    return done


def _cut(photo: Path, crop: Path, detector: Detector) -> Noted:
    """Write the crop of a photo."""
    try:
        pixels = decode(photo.read_bytes(), **LIMITS).pixels
        faces = detector.detect(pixels)
        if not faces:
            return Noted("no face", "")
        middle = np.array(pixels.shape[1::-1]) / 2
        face = min(faces, key=lambda each: float(np.linalg.norm(each.landmarks.mean(axis=0) - middle)))
        aligned = align(pixels, face.landmarks)
    except PhotoError as error:
        return Noted(error.detail, "")
    crop.parent.mkdir(parents=True, exist_ok=True)
    partial = crop.with_suffix(".partial")
    Image.fromarray(aligned).save(partial, "JPEG", quality=95, subsampling=0)
    partial.replace(crop)
    look = Image.fromarray(pixels).convert("L").resize((16, 16), Image.Resampling.BOX)
    return Noted("", look.tobytes().hex())


# --- looking over ---


def copies(noted: dict[str, Noted], crops: Path) -> list[tuple[str, str]]:
    """(crop, earlier crop of the person that it equals, exactly or nearly)."""
    listed: list[tuple[str, str]] = []
    kept: dict[str, list[tuple[str, NDArray[np.int16]]]] = {}
    for name in sorted(noted):
        crop = _crop_of(Path(name))
        if noted[name].refused or not (crops / crop).exists():
            continue
        look = np.frombuffer(bytes.fromhex(noted[name].look), np.uint8).astype(np.int16)
        of_person = kept.setdefault(crop.parent.name, [])
        equal = next((other for other, its in of_person if np.abs(look - its).mean() < NEAR_COPY), None)
        if equal is None:
            of_person.append((str(crop), look))
        else:
            listed.append((str(crop), equal))
    return listed


def disagreeing(found: Folder, vectors: NDArray[np.float32], names: list[str]) -> list[tuple[str, float]]:
    """(crop, median cosine with the rest), for people of three photos or more; of two, either may be wrong."""
    listed = []
    for label in range(len(found.people)):
        of_person = np.flatnonzero(found.labels == label)
        if len(of_person) < 3:
            continue
        cosines = vectors[of_person] @ vectors[of_person].T
        np.fill_diagonal(cosines, np.nan)
        for i, median in zip(of_person, np.nanmedian(cosines, axis=1), strict=True):
            if median < DISAGREES:
                listed.append((names[i], round(float(median), 3)))
    return listed


def shared_people(
    mine: Folder, vectors: NDArray[np.float32], others: Folder, theirs: NDArray[np.float32]
) -> list[tuple[str, str, float]]:
    """(person, person of the evaluation set, cosine of their means), where it says that they are one."""
    cosines = _means(mine, vectors) @ _means(others, theirs).T
    nearest = cosines.argmax(axis=1)
    return [
        (mine.people[i], others.people[j], round(float(cosines[i, j]), 3))
        for i, j in enumerate(nearest)
        if cosines[i, j] > SAME_PERSON
    ]


def _means(found: Folder, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    means = np.stack([vectors[found.labels == label].mean(axis=0) for label in range(len(found.people))])
    return unit(means)


def remove(crops: Path, prepared: Prepared) -> None:
    """Remove the crops that are listed, and the people of the evaluation set."""
    people = {person for person, _, _ in prepared.evaluated}
    listed = {name for name, _ in (*prepared.copies, *prepared.disagreeing)}
    for path in sorted(crops.glob("*/*.jpg")):
        if path.parent.name in people or str(path.relative_to(crops)) in listed:
            path.unlink()


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m training.prepare", description="Make crops to learn from.")
    parser.add_argument("photos", type=Path, help="the folder of people")
    parser.add_argument("crops", type=Path, help="where the crops go")
    parser.add_argument("--models", type=Path, default=Path("models"), help="the models folder")
    parser.add_argument("--evaluation", type=Path, help="crops of an evaluation set; people of it are listed")
    parser.add_argument("--leave-out", action="store_true", help="remove what is listed")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    asked = parser.parse_args()
    try:
        found = prepare(
            asked.photos,
            asked.crops,
            ModelStore(asked.models),
            evaluation=asked.evaluation,
            leave_out=asked.leave_out,
            threads=asked.threads,
        )
    except VultusError as error:
        sys.stderr.write(f"{error.title}: {error.detail}\n")
        return 1
    sys.stdout.write(
        f"{found.crops} crops; {len(found.refused)} photos without a usable face, {len(found.copies)} copies, "
        f"{len(found.disagreeing)} that disagree with their person, {len(found.evaluated)} people of the evaluation "
        f"set; see {asked.crops / 'report.json'}\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
