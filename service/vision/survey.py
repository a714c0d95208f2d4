"""Every engine held to an artifact's sample and timed on it: what `vultus models check` shows."""

from __future__ import annotations

from dataclasses import dataclass

from service.artifact.manifest import Manifest
from service.artifact.store import ModelStore
from service.errors import EngineAbsentError, ModelError
from service.vision import choice
from service.vision.choice import Candidate, Probe


@dataclass(frozen=True)
class Surveyed:
    """What became of one engine.

    Attributes:
        engine: its name; `reference` is ONNX Runtime over the unchanged file.
        precision: float32, bf16 or int8.
        parity: least cosine to the manifest's sample, None where the engine did not get so far.
        rate: sample items per second.
        fault: why it may not run the model.
        absent: whether that is only because the engine is not available on this machine.
    """

    engine: str
    precision: str
    parity: float | None = None
    rate: float | None = None
    fault: str | None = None
    absent: bool = False

    @property
    def wrong(self) -> bool:
        """Whether an operator has to do something."""
        return self.fault is not None and not self.absent


def survey(store: ModelStore, manifest: Manifest, *, streams: int) -> list[Surveyed]:
    """Try the reference and every engine on a whole artifact.

    Args:
        store: where the artifact's files are.
        manifest: the artifact.
        streams: calls that an engine shall run at once.

    Raises:
        ModelError: a file is missing or damaged, so nothing can be tried.
    """
    path = store.file(manifest)
    reference = Candidate("reference", "float32", lambda: path, streams)
    probe = Probe(store, manifest)
    found = [reference, *choice.candidates(store, manifest, streams).values()]
    return [_surveyed(probe, candidate, streams) for candidate in found]


def _surveyed(probe: Probe, candidate: Candidate, streams: int) -> Surveyed:
    try:
        engine, parity = probe.check(candidate)
    except ModelError as error:
        absent = isinstance(error, EngineAbsentError)
        return Surveyed(candidate.name, candidate.precision, fault=error.detail, absent=absent)
    return Surveyed(candidate.name, candidate.precision, parity, choice.rate(engine, probe.batch, streams))
