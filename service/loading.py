"""The models that the settings name, each on the engine that runs it."""

from __future__ import annotations

import logging
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from service.artifact.manifest import Manifest
from service.artifact.store import ModelStore
from service.errors import VultusError
from service.settings import Settings
from service.vision.choice import Chosen, choose, known

Ahead: TypeAlias = Future[dict[str, Chosen]]
"""Engines by the names of their models, as far as they could be loaded ahead."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Loaded:
    """A model that is loaded."""

    manifest: Manifest
    chosen: Chosen


def load_ahead(settings: Settings) -> Ahead:
    """Begin to load the engines in a thread, while others load libraries and open the catalog.

    Only those that are told or remembered: who measures needs the processor for itself. What fails is left out, and
    fails again where it is asked for.
    """

    def ahead() -> dict[str, Chosen]:
        found: dict[str, Chosen] = {}
        for name, wanted in _models(settings):
            try:
                store = ModelStore(settings.models)
                chosen = known(
                    store, store.manifest(name), wanted=wanted, streams=settings.streams, memory=_memory(settings)
                )
            except VultusError:
                continue
            if chosen is not None:
                found[name] = chosen
        return found

    pool = ThreadPoolExecutor(1, thread_name_prefix="loading")
    loading = pool.submit(ahead)
    pool.shutdown(wait=False)
    return loading


def load_models(settings: Settings, ahead: Ahead | None = None) -> tuple[Loaded, Loaded]:
    """The models for recognition and detection; blocks until both are loaded, those that were begun ahead included.

    Raises:
        EngineError: no engine runs a model, or not the one that is wanted.
        ModelError: a file is missing or damaged.
    """
    store, begun = ModelStore(settings.models), {} if ahead is None else ahead.result()
    manifests = [store.manifest(name) for name, _ in _models(settings)]
    for manifest in manifests:
        if not manifest.licence.commercial:
            log.warning(
                "model %s is under %s: NO COMMERCIAL USE (%s)",
                manifest.name,
                manifest.licence.spdx,
                manifest.licence.source,
            )
    recognition, detection = (
        Loaded(
            manifest,
            begun.get(name)
            or choose(store, manifest, wanted=wanted, streams=settings.streams, memory=_memory(settings)),
        )
        for manifest, (name, wanted) in zip(manifests, _models(settings), strict=True)
    )
    return recognition, detection


def _memory(settings: Settings) -> Path:
    """The file that remembers which engines were chosen."""
    return settings.data / "engines.json"


def _models(settings: Settings) -> tuple[tuple[str, str], tuple[str, str]]:
    """Names of the models, and the engine that is wanted for each."""
    # The detector has no variants and is always chosen by measuring; `engine` is about recognition.
    return (settings.recognition_model, settings.engine), (settings.detection_model, "auto")
