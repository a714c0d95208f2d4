"""Visitors who were asked for digits or another photo: their probes, kept for a moment, and how often one may guess.

Both are shared by all replicas: an answer may come back to another one, and nobody has more guesses for asking around.

Guesses are counted by whom they are about: the person whom the face resembles most, which no caller chooses freely. A
new photo, another device or none leave that count as it is. The device counts too, where one is named, but a name is
all that it is.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from service.errors import AnswerNotFoundError, DigitsLockedError
from service.recognition.expectations import Context
from service.shared.store import Shared
from service.vision.detect import Box, Face
from service.vision.quality import Quality
from service.vision.see import SeenFace

WAIT_SECONDS: Final = 120.0
"""How long an answer can be come back to."""

TRIES: Final = 5
"""Tries without success after which no digits are taken any more, about a person or from a device,"""

LOCKED_SECONDS: Final = 300.0
"""until this long after the last of them."""

NO_CROP: Final[NDArray[np.uint8]] = np.empty((0, 0, 3), np.uint8)
"""Nobody needs the picture of a face again that is encoded already, so it is not kept."""


@dataclass(frozen=True, eq=False)
class Pending:
    """A probe whose visitor was asked for digits, or may be photographed again.

    Attributes:
        gallery: where it was asked for.
        seen: the face, where it is known.
        probe: what was compared.
        context: of the first request.
        rate: the false-positive rate of all looks together; None where the caller named none,
        looks: and among how many it is shared.
        taken: the embedding and the quality of every photo so far.
        asks: whether the visitor was asked for digits.
        key: the id of the answer, once it is kept.
    """

    gallery: str
    seen: SeenFace | None
    probe: NDArray[np.float32]
    context: Context
    rate: float | None
    looks: int
    taken: tuple[tuple[NDArray[np.float32], float], ...]
    asks: bool
    key: str = ""


@dataclass(frozen=True)
class Guess:
    """By what tries are counted: the key of the person they are about, or the name of the device they come from."""

    kind: Literal["person", "device"]
    name: int | str


class Asked:
    """The probes that wait for digits, and the tries of late; safe to use from threads. Blocks.

    Args:
        shared: where replicas tell one another.
    """

    def __init__(self, shared: Shared) -> None:
        self._shared = shared

    def keep(self, pending: Pending) -> str:
        """Keep a probe; returns the id of the answer that asks."""
        answer = f"a_{secrets.token_hex(12)}"
        self._shared.put(f"answer:{answer}", _packed(pending), WAIT_SECONDS)
        return answer

    def take(self, gallery: str, answer: str) -> Pending:
        """Give a probe back; it stays until it is spent or its time is over.

        Raises:
            AnswerNotFoundError: no such answer of this gallery waits.
        """
        found = self._shared.get(f"answer:{answer}")
        pending = None if found is None else _unpacked(found, answer)
        if pending is None or pending.gallery != gallery:
            raise AnswerNotFoundError("no such answer waits for digits or a photo; identify again")
        return pending

    def spend(self, pending: Pending) -> None:
        """Take a probe out for good, because digits were given for it or another photo was taken on top of it.

        Raises:
            AnswerNotFoundError: that was done before.
        """
        if self._shared.spend(f"spent:{pending.key}", 1, WAIT_SECONDS) is not None:
            raise AnswerNotFoundError("that answer was come back to already; identify again")
        self._shared.drop(f"answer:{pending.key}")

    def admit(self, gallery: str, guess: Guess) -> None:
        """Let digits be tried; they count as wrong until `succeeded` says otherwise.

        Raises:
            DigitsLockedError: they were wrong too often of late.
        """
        left = self._shared.spend(_tries(gallery, guess), TRIES, LOCKED_SECONDS, renew=True)
        if left is not None:
            raise DigitsLockedError(f"digits were wrong {TRIES} times; try again later", retry_after=int(left) + 1)

    def succeeded(self, gallery: str, guess: Guess) -> None:
        """Note that the digits were right: what was tried before is forgiven."""
        self._shared.drop(_tries(gallery, guess))


def _tries(gallery: str, guess: Guess) -> str:
    return f"digits:{gallery} {guess.kind} {guess.name}"


def _packed(pending: Pending) -> bytes:
    context = dataclasses.asdict(pending.context)
    if pending.context.at is not None:
        context["at"] = pending.context.at.isoformat()
    document: dict[str, Any] = {
        "gallery": pending.gallery,
        "probe": _text(pending.probe),
        "context": context,
        "rate": pending.rate,
        "looks": pending.looks,
        "asks": pending.asks,
        "taken": [(_text(embedding), quality) for embedding, quality in pending.taken],
    }
    if pending.seen is not None:
        face = pending.seen.face
        document["face"] = [dataclasses.astuple(face.box), face.landmarks.tolist(), face.score]
        document["quality"] = dataclasses.astuple(pending.seen.quality)
    return json.dumps(document).encode()


def _text(embedding: NDArray[np.float32]) -> str:
    return base64.b64encode(embedding.astype("<f4").tobytes()).decode()


def _vector(text: str) -> NDArray[np.float32]:
    return np.frombuffer(base64.b64decode(text), "<f4").astype(np.float32)


def _unpacked(packed: bytes, key: str) -> Pending:
    document = json.loads(packed)
    context = document["context"]
    if context["at"] is not None:
        context["at"] = datetime.fromisoformat(context["at"])
    seen = None
    if "face" in document:
        box, landmarks, score = document["face"]
        face = Face(Box(*box), np.array(landmarks, np.float32), score)
        seen = SeenFace(face, NO_CROP, Quality(*document["quality"]))
    return Pending(
        document["gallery"],
        seen,
        _vector(document["probe"]),
        Context(**context),
        document["rate"],
        document["looks"],
        tuple((_vector(embedding), quality) for embedding, quality in document["taken"]),
        document["asks"],
        key,
    )
