"""Photos in, unit vectors out, from a running service: what its users get, its detector and aligner included."""

from __future__ import annotations

import base64
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
from numpy.typing import NDArray

from training.embed import Photos, unit
from training.errors import EvaluationError

PATIENCE = 60.0
"""Seconds for which a service may say that it is too busy for a photo."""


class ServiceModel:
    """A model behind `POST /v1/faces/embed`.

    Of several faces in a photo the largest counts. A photo in which the service sees no face, or which it refuses, gets
    a vector of no length: it resembles nobody, and so counts as a miss, as such a visitor would.

    Args:
        url: of the service, such as http://127.0.0.1:8000.
        key: an API key with the scope `embed`; `vultus keys create` makes one.
        connections: photos asked about at once.

    Attributes:
        refused: (number of the photo, the service's reason) of those without a vector, of the last call.
    """

    def __init__(self, url: str, key: str = "", *, connections: int = 4) -> None:
        self._url, self._key, self._connections, self._digest = url, key, connections, ""
        self.refused: list[tuple[int, str]] = []

    def __call__(self, photos: Photos) -> NDArray[np.float32]:
        """(n, dim) embeddings of encoded photos.

        Raises:
            EvaluationError: the service does not answer, refuses the key, changes its model on the way, or sees no
                face in any photo.
        """
        self.refused = []
        embeddings: NDArray[np.float32] | None = None
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        client = httpx.Client(base_url=self._url, headers=headers, timeout=60)
        with client, ThreadPoolExecutor(self._connections) as pool:
            for start in range(0, len(photos), 256):
                numbers = range(start, min(start + 256, len(photos)))
                answers = pool.map(lambda each: self._ask(client, photos[each]), numbers)
                for number, found in zip(numbers, answers, strict=True):
                    if isinstance(found, str):
                        self.refused.append((number, found))
                        continue
                    if embeddings is None:
                        embeddings = np.zeros((len(photos), len(found)), np.float32)
                    embeddings[number] = found
        if embeddings is None:
            reason = self.refused[0][1] if self.refused else "there are none"
            raise EvaluationError(f"the service gave no embedding for any of {len(photos)} photos: {reason}")
        return unit(embeddings)

    def _ask(self, client: httpx.Client, photo: bytes) -> NDArray[np.float32] | str:
        """The vector of a photo's largest face, or why there is none."""
        give_up = time.monotonic() + PATIENCE
        while True:
            try:
                answer = client.post("/v1/faces/embed", files={"photo": photo})
            except httpx.HTTPError as error:
                raise EvaluationError(f"{self._url} does not answer: {error}") from error
            if answer.status_code not in {429, 503} or time.monotonic() > give_up:
                break
            time.sleep(float(answer.headers.get("Retry-After", "1")))
        if answer.status_code in {413, 415, 422}:
            return str(answer.json()["code"])
        if answer.status_code != 200:
            raise EvaluationError(f"{self._url} answers {answer.status_code}: {answer.text[:300]}")
        document = answer.json()
        self._digest = self._digest or document["model_digest"]
        if document["model_digest"] != self._digest:
            raise EvaluationError("the service changed its model while it was evaluated")
        if not document["faces"]:
            return "no_face"
        return np.frombuffer(base64.b64decode(document["faces"][0]["embedding"]), "<f4")
