"""A trained network as an artifact that the service loads: `python -m training.export RUN --name NAME ...`.

    checkpoint -> ONNX with preprocessing and L2 norm inside -> parity gate -> models/NAME: graph, manifest, card

The gate compares the file, run by ONNX Runtime, with the network, run by PyTorch, on drawn crops and on the photos of a
verification set if one is given, one at a time and 64 at a time. A file that fails it is thrown away.
"""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray

from service.artifact import sample
from service.artifact.files import write_atomic
from service.artifact.importing import Preprocessing, import_model
from service.artifact.manifest import Licence, Manifest, Provenance
from service.artifact.store import ModelStore
from service.errors import VultusError
from service.vision import engines
from training.backbones import SIDE, Recogniser
from training.data import decode
from training.embed import Embedder, of_network, of_onnx, unit
from training.errors import ParityError
from training.records import PackedPairs, read_bin
from training.restore import Trained, restore
from training.verification import paired_accuracy

LARGEST_DIFFERENCE = 1e-4
LEAST_COSINE = 0.99999
LARGEST_LOSS = 0.1
"""How much less accurate, in points of a verification set, the file may be than the network."""


@dataclass(frozen=True)
class Parity:
    """How near the exported file is to the network.

    Attributes:
        difference: largest difference of any number of any embedding.
        cosine: least cosine between two embeddings of one crop.
        accuracy: accuracy of the file on the verification set, in percent; None without one.
        loss: by how many points the network is better there.
    """

    difference: float
    cosine: float
    accuracy: float | None = None
    loss: float = 0.0


def to_onnx(network: Recogniser, path: Path) -> None:
    """Write a network as ONNX: `crops` (n, 112, 112, 3) uint8 in, `embeddings` (n, dim) out, any n."""
    crops = torch.zeros(2, SIDE, SIDE, 3, dtype=torch.uint8)
    registry = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registry.level
    registry.setLevel(logging.ERROR)  # it says of each operator of torchvision that torchvision is not there
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter uses what PyTorch itself deprecates
            program = torch.onnx.export(
                network,
                (crops,),
                dynamo=True,
                input_names=["crops"],
                output_names=["embeddings"],
                dynamic_shapes=({0: torch.export.Dim("n")},),
                verbose=False,
            )
    finally:
        registry.setLevel(level)
    assert program is not None, "the exporter gives a program or raises"  # noqa: S101 - tells the type checker
    program.save(path)


def parity(network: Embedder, exported: Embedder, pairs: PackedPairs | None = None) -> Parity:
    """Compare two embedders on the drawn crops, and on a verification set's photos."""
    crops = sample.crops()
    if pairs is not None:
        crops = np.concatenate([crops, np.stack([np.array(decode(photo)) for photo in pairs.photos])])
    expected = _embedded(network, crops, 64)
    given = _embedded(exported, crops, 64)
    singly = _embedded(exported, crops[:64], 1)
    differences = [np.abs(given - expected).max(), np.abs(singly - expected[: len(singly)]).max()]
    cosines = [(unit(given) * unit(expected)).sum(axis=1).min(), (singly * expected[: len(singly)]).sum(axis=1).min()]
    accuracy = None
    loss = 0.0
    if pairs is not None:
        trained, accuracy = (paired_accuracy(each[len(sample.crops()) :], pairs.same) for each in (expected, given))
        loss = trained - accuracy
    return Parity(float(np.max(differences)), float(np.min(cosines)), accuracy, loss)


def _embedded(embedder: Embedder, crops: NDArray[np.uint8], batch: int) -> NDArray[np.float32]:
    return np.concatenate([embedder(crops[start : start + batch]) for start in range(0, len(crops), batch)])


def check(found: Parity) -> None:
    """The gate.

    Raises:
        ParityError: the file is too far from the network.
    """
    if not (found.difference <= LARGEST_DIFFERENCE and found.cosine >= LEAST_COSINE and found.loss <= LARGEST_LOSS):
        raise ParityError(
            f"the exported file differs by {found.difference:.2g} (at most {LARGEST_DIFFERENCE:g}), its least cosine "
            f"is {found.cosine:.6f} (at least {LEAST_COSINE:g}), it loses {found.loss:.2f} points "
            f"(at most {LARGEST_LOSS:g})"
        )


def export(
    path: Path, store: ModelStore, *, name: str, licence: Licence, commit: str, pairs: PackedPairs | None = None
) -> Manifest:
    """Export a checkpoint into the models folder.

    Args:
        path: a checkpoint or a run's folder.
        store: the models folder.
        name: of the new model.
        licence: what it may be used for; the licences of its training data decide.
        commit: what the training code was.
        pairs: a verification set that the gate and the manifest measure.

    Raises:
        CheckpointError: there is no whole checkpoint.
        ParityError: the file does not do what the network does; nothing is left.
        ModelExistsError: another model has the name.
    """
    trained = restore(path)
    with TemporaryDirectory() as folder:
        file = Path(folder, "model.onnx")
        to_onnx(trained.network, file)
        found = parity(of_network(trained.network), of_onnx(file), pairs)
        check(found)
        placed = import_model(
            store,
            file,
            name=name,
            licence=licence,
            accepted=True,
            preprocessing=Preprocessing(),
            run=engines.reference,
        )
    measured = {"parity_difference": found.difference, "parity_cosine": found.cosine}
    if found.accuracy is not None:
        measured["verification_accuracy"] = round(found.accuracy, 3)
    manifest = placed.model_copy(
        update={
            "provenance": Provenance(data=_data(trained), recipe=_recipe(trained), commit=commit),
            "measured": measured,
        }
    )
    store.add(manifest, (store.folder / name / manifest.file.name).read_bytes())
    write_atomic(store.folder / name / "card.md", card(manifest).encode())
    return manifest


def _data(trained: Trained) -> str:
    names = ", ".join(path.name for path in trained.config.data.train)
    return f"{names}: {trained.people} people"


def _recipe(trained: Trained) -> str:
    config = trained.config
    head = "no labels" if config.teacher.alone else f"{config.head.margin} {config.head.options}"
    teacher = "" if config.teacher.model is None else f", taught by {config.teacher.model}"
    return f"{config.network.name}, {head}{teacher}, {trained.step} steps of {config.run.batch} photos"


def card(manifest: Manifest) -> str:
    """A model card in Markdown, from the manifest alone."""
    measured = "".join(f"| {name} | {value:g} |\n" for name, value in manifest.measured.items())
    use = "allowed" if manifest.licence.commercial else "not allowed"
    calibrated = "yes" if manifest.calibration is not None else "not yet: `vultus calibrate`"
    return (
        f"# {manifest.name} {manifest.version}\n\n"
        f"Turns aligned faces into embeddings of {manifest.dim} numbers.\n\n"
        f"| | |\n|---|---|\n"
        f"| input | {manifest.input.name}: {manifest.input.shape} {manifest.input.dtype}, {manifest.input.meaning} |\n"
        f"| output | {manifest.outputs[0].name}: {manifest.outputs[0].shape} {manifest.outputs[0].dtype} |\n"
        f"| licence | {manifest.licence.spdx}, commercial use {use} ({manifest.licence.source}) |\n"
        f"| trained on | {manifest.provenance.data} |\n"
        f"| by | {manifest.provenance.recipe} |\n"
        f"| code | {manifest.provenance.commit} |\n"
        f"| calibrated | {calibrated} |\n"
        f"| SHA-256 | `{manifest.file.sha256}` |\n\n"
        f"| measured | |\n|---|---|\n{measured}"
    )


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m training.export", description="Export a trained network.")
    parser.add_argument("run", type=Path, help="a run's folder, or one of its checkpoints")
    parser.add_argument("--name", required=True, help="of the new model")
    parser.add_argument("--models", type=Path, default=Path("models"), help="the models folder")
    parser.add_argument("--license", required=True, metavar="SPDX", help="what the model may be used for")
    parser.add_argument("--source", required=True, metavar="URL", help="where it comes from")
    parser.add_argument("--non-commercial", action="store_true", help="the licence forbids commercial use")
    parser.add_argument("--commit", default="unknown", help="what the training code was")
    parser.add_argument("--pairs", type=Path, help="a verification set (.bin) for the gate and the manifest")
    asked = parser.parse_args()
    licence = Licence(spdx=asked.license, commercial=not asked.non_commercial, source=asked.source)
    try:
        pairs = None if asked.pairs is None else read_bin(asked.pairs)
        store = ModelStore(asked.models)
        manifest = export(asked.run, store, name=asked.name, licence=licence, commit=asked.commit, pairs=pairs)
    except VultusError as error:
        sys.stderr.write(f"{error.title}: {error.detail}\n")
        return 1
    sys.stdout.write(f"{asked.models / asked.name}: {manifest.measured}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
