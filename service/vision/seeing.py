"""The process that sees photos: decodes them and cuts faces out; its argument is the descriptor of a socket.

It loads as little as it can, for the service waits for it at a start: nothing that knows manifests.

It is a process of its own for two reasons: a decoder that a hostile photo brings down takes no service with it, and it
shares no interpreter lock. Photos come one after the other and are answered in that order; it ends with the socket.
"""

from __future__ import annotations

import gc
import logging
import sys
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from service.errors import VultusError
from service.vision.engines import load
from service.vision.see import Limits, SeenPhoto, see

log = logging.getLogger(__name__)

Answer = SeenPhoto | VultusError
"""To a photo; to the set-up, None or why it failed."""


@dataclass(frozen=True)
class Setup:
    """What a process that sees photos needs to know.

    Attributes:
        detector: name of the engine that runs the detector, and the file that it runs, whose digest was checked.
        limits: what is taken.
    """

    detector: tuple[str, Path]
    limits: Limits


def main() -> None:
    """Serve one socket until it closes."""
    channel = Connection(int(sys.argv[1]))
    try:
        setup: Setup = channel.recv()
        detector = load(*setup.detector)
        channel.send(None)
    except VultusError as error:
        channel.send(error)
        return
    except (EOFError, OSError):
        return
    gc.collect()
    gc.freeze()
    while True:
        try:
            photo = channel.recv_bytes()
        except (EOFError, OSError):
            return
        try:
            answer: Answer = see(photo, detector, setup.limits)
        except VultusError as error:
            answer = error
        except Exception:
            log.exception("a photo could not be seen")
            answer = VultusError("the photo could not be looked at; the log says why")
        try:
            channel.send(answer)
        except OSError:
            return
