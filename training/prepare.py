"""From photos of people to crops to learn from: `python -m training.prepare PHOTOS CROPS`.

    PHOTOS/PERSON/PHOTO -> the service's detector and aligner -> CROPS/PERSON/PHOTO.jpg, CROPS/report.json
    PHOTOS/PHOTO        -> the same, every face of a photo    -> CROPS/unlabelled/PHOTO.1.jpg, PHOTO.2.jpg, ...

The face of a person's photo is the one nearest to its middle, as photos of one person have it. Raw photos, which lie in
no person's folder, have no labels: a network can learn from them what a teacher sees in them (`teacher.alone`). What
was done is noted photo by photo in CROPS/.done.jsonl, so that a second start goes on where the first one stopped. The
service's recognition model then looks over the crops for what spoils training (`training.lookover`): copies, faces that
disagree with their person, and people of an evaluation set. They are listed; `--leave-out` removes them.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from service.artifact.files import write_atomic
from service.artifact.store import ModelStore
from service.errors import PhotoError, VultusError
from service.vision import engines
from service.vision.align import align
from service.vision.decode import decode
from service.vision.detect import Detector
from training.embed import PhotosOf, embed, of_onnx
from training.errors import DataError
from training.folder import Folder
from training.lookover import SIDE, UNLABELLED, alike, copies, disagreeing, means_of

LIMITS = {"max_bytes": 1 << 28, "max_pixels": 200_000_000}


@dataclass(frozen=True)
class Prepared:
    """What came of a folder of photos; photos by their path from the folder of crops or of photos.

    Attributes:
        crops: number of crops there are.
        labelled: whether they lie in folders of people.
        refused: (photo, reason) of photos without a usable face.
        shared: crops that several people have, exactly; one label must be wrong.
        copies: (crop, crop that it equals) of exact and near copies, of one person or of two.
        disagreeing: (crop, median cosine with the rest of its person).
        evaluated: (person, or crop of a raw photo; person of the evaluation set; cosine).
        left_out: whether the crops listed were removed.
    """

    crops: int
    labelled: bool = True
    refused: list[tuple[str, str]] = field(default_factory=list)
    shared: list[str] = field(default_factory=list)
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
        photos: the folder of people, or of raw photos.
        crops: where the crops go.
        store: the models folder, which holds `yunet` and `sface`.
        evaluation: crops of an evaluation set, as this function makes them.
        leave_out: remove what is listed.
        threads: photos worked on at once.

    Raises:
        DataError: there is no photo, no face in any of them, or no room for the crops.
        ModelError: a model's file is missing or damaged.
    """
    noted = cut(photos, crops, store, threads=threads)
    embedder = of_onnx(store.file(store.manifest("sface")), threads=threads)
    found = Folder(crops, threads=threads)
    vectors = embed(embedder, PhotosOf(found))
    names = [str(path.relative_to(crops)) for path in found.paths]
    labelled = found.people != [UNLABELLED]
    evaluated = []
    if evaluation is not None:
        others = Folder(evaluation, threads=threads)
        theirs = means_of(embed(embedder, PhotosOf(others)), others.labels)
        mine = (found.people, means_of(vectors, found.labels)) if labelled else (names, vectors)
        evaluated = alike(*mine, others.people, theirs)
    looks = {name: each.look for photo, each in noted.items() if each.look for name in each.crops_of(photo)}
    prepared = Prepared(
        crops=len(found),
        labelled=labelled,
        refused=[(name, each.refused) for name, each in noted.items() if each.refused],
        shared=[str(Path(path).relative_to(crops)) for path in found.report.shared],
        copies=copies({name: look for name, look in looks.items() if (crops / name).exists()}),
        disagreeing=disagreeing(names, vectors, found.labels) if labelled else [],
        evaluated=evaluated,
        left_out=leave_out,
    )
    if leave_out:
        remove(crops, prepared)
    write_atomic(crops / "report.json", json.dumps(asdict(prepared), indent=1).encode())
    return prepared


def remove(crops: Path, prepared: Prepared) -> None:
    """Remove the crops that are listed, and the people of the evaluation set."""
    evaluated = {each for each, _, _ in prepared.evaluated}
    listed = {*prepared.shared, *(name for name, _ in (*prepared.copies, *prepared.disagreeing))}
    for path in sorted(crops.glob("*/*.jpg")):
        name = str(path.relative_to(crops))
        if path.parent.name in evaluated or name in evaluated or name in listed:
            path.unlink()


# --- cutting ---


@dataclass(frozen=True)
class Noted:
    """What the journal says of a photo.

    Attributes:
        refused: why it gave no crop, if it gave none.
        look: how it looks at 16 x 16 pixels, in hex.
        faces: faces cut from a raw photo; 0 for a photo in a person's folder, which gives one crop.
        unread: its bytes could not be had; this is not kept.
    """

    refused: str
    look: str
    faces: int = 0
    unread: bool = False

    def crops_of(self, photo: str) -> list[str]:
        """The crops that were cut from a photo, given by its path from the folder of photos."""
        path = Path(photo)
        if path.parent == Path():
            return [f"{UNLABELLED}/{path.name}.{face}.jpg" for face in range(1, self.faces + 1)]
        # Another ending than .jpg stays in the name, so that 1.jpg and 1.png do not meet.
        return [str(path.parent / (path.name if path.suffix == ".jpg" else f"{path.name}.jpg"))]


def cut(photos: Path, crops: Path, store: ModelStore, *, threads: int) -> dict[str, Noted]:
    """Cut the crops of every photo that has not been worked on yet; gives what is noted of all photos."""
    if not photos.is_dir():
        raise DataError(f"there is no folder {photos}")
    of_people = [path for path in sorted(photos.glob("*/*")) if path.is_file()]
    raw = [path for path in sorted(photos.iterdir()) if path.is_file() and not path.name.startswith(".")]
    if of_people and raw:
        raise DataError(f"{photos} holds folders of people and, beside them, {len(raw)} files such as {raw[0].name}")
    files = of_people or raw
    if not files:
        raise DataError(f"{photos} holds no PERSON/PHOTO and no PHOTO")
    crops.mkdir(parents=True, exist_ok=True)
    journal = crops / ".done.jsonl"
    done = _read(journal)
    detector = Detector(engines.onnxruntime(store.file(store.manifest("yunet")), streams=threads))
    missing = [path for path in files if str(path.relative_to(photos)) not in done]
    try:
        with journal.open("a", encoding="utf-8") as notes, ThreadPoolExecutor(threads) as pool:
            results = pool.map(lambda path: _cut(path, str(path.relative_to(photos)), crops, detector), missing)
            for path, noted in zip(missing, tqdm(results, total=len(missing), unit="photo", disable=None), strict=True):
                name = str(path.relative_to(photos))
                done[name] = noted
                if noted.unread:
                    continue  # the next start tries again: a disk or a permission can be mended
                notes.write(json.dumps([name, noted.refused, noted.look, noted.faces]) + "\n")
                notes.flush()
    except OSError as error:
        raise DataError(f"the crops cannot be written, those that are there are kept: {error}") from error
    return done


def _read(journal: Path) -> dict[str, Noted]:
    """What is noted; a last line that a kill cut short does not count, and is taken away."""
    done: dict[str, Noted] = {}
    if journal.exists():
        whole = 0
        for line in journal.read_bytes().splitlines(keepends=True):
            try:
                name, refused, look, faces = json.loads(line)
            except ValueError:
                os.truncate(journal, whole)
                break
            whole += len(line)
            done[name] = Noted(refused, look, faces)
    return done


def _cut(path: Path, name: str, crops: Path, detector: Detector) -> Noted:
    """Write the crops of a photo."""
    try:
        data = path.read_bytes()
    except OSError as error:
        return Noted(f"cannot be read: {error.strerror}", "", unread=True)
    try:
        pixels = decode(data, **LIMITS).pixels
        faces = detector.detect(pixels)
        if not faces:
            return Noted("no face", "")
        if "/" in name:
            middle = np.array(pixels.shape[1::-1]) / 2
            faces = [min(faces, key=lambda each: float(np.linalg.norm(each.landmarks.mean(axis=0) - middle)))]
        aligned = [align(pixels, face.landmarks) for face in faces]
    except PhotoError as error:
        return Noted(error.detail, "")
    look = Image.fromarray(pixels).convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
    noted = Noted("", look.tobytes().hex(), 0 if "/" in name else len(faces))
    for crop, place in zip(aligned, noted.crops_of(name), strict=True):
        target = crops / place
        target.parent.mkdir(parents=True, exist_ok=True)
        encoded = io.BytesIO()  # Pillow does not notice that a file on a full disk was cut short
        Image.fromarray(crop).save(encoded, "JPEG", quality=95, subsampling=0)
        partial = target.with_suffix(".partial")
        partial.write_bytes(encoded.getvalue())
        partial.replace(target)
    return noted


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m training.prepare", description="Make crops to learn from.")
    parser.add_argument("photos", type=Path, help="the folder of people, or of raw photos")
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
        f"{found.crops} crops; {len(found.refused)} photos without a usable face, {len(found.shared)} that several "
        f"people have, {len(found.copies)} copies, {len(found.disagreeing)} that disagree with their person, "
        f"{len(found.evaluated)} of the evaluation set; see {asked.crops / 'report.json'}\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
