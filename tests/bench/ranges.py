"""Observe what `models/sface/int8.json` holds: `python -m tests.bench.ranges [--write]`.

The int8 variant needs to know between which values its activations lie. They are observed on LFW photos that no pair of
the View 2 protocol shows, so that the accuracy measured there is of unseen photos. How much of the extremes is kept is
decided by the cosine to the float32 network on further photos outside of the protocol. With `--write` the best ranges
are written, and the digest of the variant that they lead to.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path

import numpy as np

from service.artifact import graph
from service.artifact.files import write_atomic
from service.artifact.manifest import FileEntry, Manifest, manifest_text
from service.artifact.quantise import observe, quantise
from service.artifact.store import ModelStore
from service.settings import CHECKOUT
from service.vision import engines
from tests.bench.lfw_data import load_lfw
from tests.bench.loop import Loop
from tests.bench.report import Report, fresh_settings, parser

OBSERVED, JUDGED = 384, 400
BATCH = 16
QUANTILES = (1.0, 0.99, 0.9, 0.8, 0.7, 0.6)
QUICK_QUANTILES = (1.0, 0.9)


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--write", action="store_true", help="write the ranges and the variant's digest")
    asked = options.parse_args()
    lfw = load_lfw(asked.data)
    shown = {name for pair in lfw.pairs for name in (pair.a, pair.b)}
    unseen = np.random.default_rng(1).permutation(sorted(set(lfw.photos) - shown))
    observed = unseen[:OBSERVED]
    judged = unseen[OBSERVED:][: JUDGED // 4 if asked.quick else JUDGED]
    report = Report("ranges")
    store = ModelStore(CHECKOUT / "models")
    manifest = store.manifest("sface")
    with fresh_settings() as folder:
        loop = Loop(engine="onnxruntime", memory=folder / "engines.json")
        crops = {name: loop.crops(lfw.photos[name])[0] for name in [*observed, *judged]}
    model = graph.load(store.file(manifest))
    batches = [
        np.stack([crops[name] for name in observed[place : place + BATCH]]) for place in range(0, OBSERVED, BATCH)
    ]
    probes = np.stack([crops[name] for name in judged])
    expected = loop.encoder(list(probes))
    best, kept = 0.0, (1.0, {}, b"")
    quantiles = QUICK_QUANTILES if asked.quick else QUANTILES
    for quantile, observed_ranges in zip(quantiles, observe(model, batches, quantiles=quantiles), strict=True):
        ranges = {name: (round(low, 4), round(high, 4)) for name, (low, high) in observed_ranges.items()}
        variant = graph.serialise(quantise(model, ranges))
        with tempfile.TemporaryDirectory() as temporary:
            path = Path(temporary) / "int8.onnx"
            path.write_bytes(variant)
            given = engines.openvino(path)(probes)["embeddings"]
        cosines = np.sum(given * expected, axis=1)
        report.figure(
            "cosine_to_float32",
            round(float(cosines.mean()), 5),
            "mean",
            least=round(float(cosines.min()), 5),
            quantile=quantile,
        )
        if cosines.mean() > best:
            best, kept = float(cosines.mean()), (quantile, ranges, variant)
    if asked.write:
        keep(store, manifest, *kept)
    report.table()


def keep(
    store: ModelStore, manifest: Manifest, quantile: float, ranges: dict[str, tuple[float, float]], variant: bytes
) -> None:
    """Write the ranges, and the new digest into the manifest."""
    folder = store.folder / manifest.name
    document = {
        "observed_on": f"{OBSERVED} aligned crops of LFW photos that no View 2 pair shows",
        "quantile": quantile,
        "ranges": ranges,
    }
    write_atomic(folder / "int8.json", (json.dumps(document, indent=1) + "\n").encode())
    entry = FileEntry(name="model.int8.onnx", sha256=hashlib.sha256(variant).hexdigest(), bytes=len(variant))
    variants = tuple(item.model_copy(update={"file": entry}) for item in manifest.variants)
    write_atomic(folder / "manifest.json", manifest_text(manifest.model_copy(update={"variants": variants})).encode())


if __name__ == "__main__":
    main()
