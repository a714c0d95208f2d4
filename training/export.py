"""A trained network as an artifact that the service loads: `python -m training.export RUN --name NAME ...`.

    checkpoint -> ONNX with preprocessing and L2 norm inside -> parity gate -> int8 and bf16 files, all measured
    -> models/NAME: graph, variants, card, and the manifest last

The gate compares the file, run by ONNX Runtime, with the network, run by PyTorch. A file that fails it is thrown away
before anything is in the models folder.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
import torch

from service.artifact.card import card
from service.artifact.files import write_atomic
from service.artifact.importing import Preprocessing, import_model
from service.artifact.manifest import FileEntry, Licence, Manifest, Provenance, Variant
from service.artifact.store import ModelStore
from service.errors import ModelExistsError, VultusError
from service.vision import choice, engines
from training import variants
from training.backbones import SIDE, Recogniser
from training.embed import of_network, of_onnx
from training.errors import DataError
from training.parity import Parity, Proof, check, compared, proof_of_pairs, proof_of_people, shown
from training.restore import Trained, restore
from training.sources import Source, open_source
from training.verification_sets import open_pairs

OPSET = 23
"""The newest that PyTorch's exporter vouches for."""


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
                opset_version=OPSET,
                input_names=["crops"],
                output_names=["embeddings"],
                dynamic_shapes=({0: torch.export.Dim("n")},),
                verbose=False,
            )
    finally:
        registry.setLevel(level)
    assert program is not None, "the exporter gives a program or raises"  # noqa: S101 - tells the type checker
    model = program.model_proto
    for each in (*model.graph.node, *model.graph.input, *model.graph.output, *model.graph.value_info, model.graph):
        del each.metadata_props[:]  # the exporter notes which line of which file of this machine each came from
    onnx.save(model, path)


def export(
    path: Path,
    store: ModelStore,
    *,
    name: str,
    licence: Licence,
    commit: str,
    proof: Proof | None = None,
    crops: Source | None = None,
    precisions: Sequence[variants.Precision] = ("int8", "bf16"),
) -> Manifest:
    """Export a checkpoint into the models folder.

    Args:
        path: a checkpoint or a run's folder.
        store: the models folder.
        name: of the new model.
        licence: what it may be used for; the licences of its training data decide.
        commit: what the training code was.
        proof: photos of people whom the network does not know, for the gate and for the measured figures; without
            them the gate tries training photos, and no accuracy is told.
        crops: what int8's ranges are observed on; the run's own training data by default.
        precisions: the variants to make.

    Raises:
        CheckpointError: there is no whole checkpoint.
        DataError: the training data is not there, and nothing was given in its place.
        ParityError: the file does not do what the network does; nothing is left.
        ModelExistsError: another model has the name.
    """
    if name in store.names():
        raise ModelExistsError(f"there is a model {name!r} already; choose another name or remove its folder")
    trained = restore(path)
    if crops is None and (proof is None or "int8" in precisions):
        crops = _training_crops(trained)
    if proof is None and crops is not None:
        proof = proof_of_people("training", crops, claimed=False, photos=512)
    assert proof is not None, "training crops stand in for a missing proof"  # noqa: S101 - tells the type checker
    with TemporaryDirectory() as folder:
        scratch = ModelStore(Path(folder, "models"))
        file = Path(folder, "model.onnx")
        to_onnx(trained.network, file)
        found = compared(of_network(trained.network), of_onnx(file), proof)
        check(found)
        manifest = import_model(
            scratch,
            file,
            name=name,
            licence=licence,
            accepted=True,
            preprocessing=Preprocessing(),
            run=engines.reference,
        ).model_copy(update={"provenance": Provenance(data=_data(trained), recipe=_recipe(trained), commit=commit)})
        ready = scratch.folder / name / manifest.file.name
        made = [variants.bf16(ready) if each == "bf16" else _int8(ready, crops) for each in precisions]
        manifest = _with_figures(manifest, scratch, made, proof, found)
        _place(store, scratch, manifest, made)
    return manifest


def _training_crops(trained: Trained) -> Source:
    """The first data set that the run learnt from.

    Raises:
        DataError: it is not there any more.
    """
    first = trained.config.data.train[0]
    if not first.exists():
        raise DataError(f"the training data {first} is not there; name real crops with --crops-from")
    return open_source(first)


def _int8(ready: Path, crops: Source | None) -> variants.Made:
    assert crops is not None, "opened because int8 is asked for"  # noqa: S101 - tells the type checker
    return variants.int8(ready, crops)


def _with_figures(
    manifest: Manifest, scratch: ModelStore, made: list[variants.Made], proof: Proof, found: Parity
) -> Manifest:
    """The manifest with what was measured of each file; a variant that is too far from the float32 file is left out."""
    folder = scratch.folder / manifest.name
    jobs: list[variants.Job] = [(folder / manifest.file.name, "float32")]
    for each in made:
        jobs.append((folder / f"model.{each.precision}.onnx", each.precision))
        jobs[-1][0].write_bytes(each.data)
    whole, *others = variants.measured(jobs, proof.photos)
    listed = []
    for each, seen in zip(made, others, strict=True):
        if not seen.parity >= choice.PARITY[each.precision]:
            sys.stderr.write(
                f"{each.precision} is left out: the artifact's sample comes out at a cosine of {seen.parity:.4f}\n"
            )
            continue
        cosines = (seen.vectors * whole.vectors).sum(axis=1)
        figures = {
            "cosine_to_float32_mean": float(cosines.mean()),
            "cosine_to_float32_least": float(cosines.min()),
            **_shown(proof, seen),
        }
        entry = FileEntry(
            name=f"model.{each.precision}.onnx", sha256=hashlib.sha256(each.data).hexdigest(), bytes=len(each.data)
        )
        ranges = None if each.ranges is None else f"{each.precision}.json"
        listed.append(Variant(precision=each.precision, file=entry, ranges=ranges, measured=_rounded(figures)))
    parity = {
        "parity_difference": found.difference,
        "parity_cosine": found.cosine,
        "parity_accuracy_loss": found.loss,
        "parity_tar_difference": found.tar_difference,
    }
    figures = _rounded({**parity, **_shown(proof, whole)})
    return manifest.model_copy(update={"measured": figures, "variants": tuple(listed)})


def _shown(proof: Proof, seen: variants.Measured) -> dict[str, float]:
    """What a file is worth on the proof, if that may be told, and how fast it is."""
    rates = {f"{engine}_crops_per_second": rate for engine, rate in seen.rates.items()}
    if not proof.claimed:
        return rates
    worth = shown(proof, seen.vectors)
    figures = {f"{proof.name}_accuracy": worth.accuracy}
    if worth.tar is not None:
        figures[f"{proof.name}_tar_at_far_{worth.tar.far:.0e}"] = worth.tar.tar
    return {**figures, **rates}


def _rounded(figures: dict[str, float]) -> dict[str, float]:
    """Six digits after the point, or of a small number its first three."""
    return {name: float(f"{value:.3g}") if abs(value) < 1e-3 else round(value, 6) for name, value in figures.items()}


def _place(store: ModelStore, scratch: ModelStore, manifest: Manifest, made: list[variants.Made]) -> None:
    """Bring everything into the models folder; the manifest comes last, so that a kill leaves no half artifact."""
    source, target = scratch.folder / manifest.name, store.folder / manifest.name
    kept = {each.precision for each in manifest.variants}
    for each in made:
        if each.precision in kept:
            write_atomic(target / f"model.{each.precision}.onnx", each.data)
        if each.precision in kept and each.ranges is not None:
            write_atomic(target / f"{each.precision}.json", each.ranges.encode())
    write_atomic(target / "card.md", card(manifest).encode())
    store.add(manifest, (source / manifest.file.name).read_bytes())


def _data(trained: Trained) -> str:
    names = ", ".join(path.name for path in trained.config.data.train)
    return f"{names}: {trained.people} people"


def _recipe(trained: Trained) -> str:
    config = trained.config
    head = "no labels" if config.teacher.alone else f"{config.head.margin} {config.head.options}"
    # Where it lay is of no use to whoever reads the card, and may say more of its maker's machine than it should.
    teacher = "" if config.teacher.model is None else f", taught by {'/'.join(config.teacher.model.parts[-2:])}"
    return f"{config.network.name}, {head}{teacher}, {trained.step} steps of {config.run.batch} photos"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m training.export", description="Export a trained network.")
    parser.add_argument("run", type=Path, help="a run's folder, or one of its checkpoints")
    parser.add_argument("--name", required=True, help="of the new model")
    parser.add_argument("--models", type=Path, default=Path("models"), help="the models folder")
    parser.add_argument("--license", required=True, metavar="SPDX", help="what the model may be used for")
    parser.add_argument("--source", required=True, metavar="URL", help="where it comes from")
    parser.add_argument("--non-commercial", action="store_true", help="the licence forbids commercial use")
    parser.add_argument("--commit", default="unknown", help="what the training code was")
    proof = parser.add_mutually_exclusive_group()
    proof.add_argument("--pairs", type=Path, help="a verification set (.bin, or LFW's list) to measure the files on")
    proof.add_argument("--people", type=Path, help="crops of people whom the network does not know, for the same")
    parser.add_argument("--crops", type=Path, help="the crops that a list of pairs names, PERSON/PHOTO.jpg")
    parser.add_argument("--crops-from", type=Path, help="what int8 is fitted to; the training data by default")
    parser.add_argument(
        "--variants", nargs="*", choices=["int8", "bf16"], default=["int8", "bf16"], help="further files to make"
    )
    asked = parser.parse_args(arguments)
    licence = Licence(spdx=asked.license, commercial=not asked.non_commercial, source=asked.source)
    try:
        manifest = export(
            asked.run,
            ModelStore(asked.models),
            name=asked.name,
            licence=licence,
            commit=asked.commit,
            proof=_proof(asked),
            crops=None if asked.crops_from is None else open_source(asked.crops_from),
            precisions=asked.variants,
        )
    except VultusError as error:
        sys.stderr.write(f"{error.title}: {error.detail}\n")
        return 1
    sys.stdout.write(card(manifest))
    return 0


def _proof(asked: argparse.Namespace) -> Proof | None:
    if asked.pairs is not None:
        return proof_of_pairs(asked.pairs.stem, open_pairs(asked.pairs, asked.crops))
    return None if asked.people is None else proof_of_people(asked.people.stem, open_source(asked.people))


if __name__ == "__main__":
    sys.exit(main())
