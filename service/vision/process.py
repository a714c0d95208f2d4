"""A process of the service's own: started with a socket, told what it needs, and ended with that socket.

It never outlives the service: when the service dies, however it dies, the socket closes, and that is the end of both.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

from service.errors import EngineError, VultusError

STOP_SECONDS: Final = 10.0

SEEING: Final = "service.vision.seeing"
"""The module of processes that see photos."""

HOME: Final = Path(__file__).resolve().parent.parent.parent
"""Where the package lies, so that a process finds it from any working folder."""


class Process:
    """One process, started; `begin` tells it what it needs.

    Args:
        module: its function `main` is what the process does; it finds the descriptor of its socket in `sys.argv[1]`.
    """

    def __init__(self, module: str) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            # Not as `-m`: what it sends would then be of a module `__main__` that nobody else can import. A session of
            # its own: Ctrl-C at the terminal is for the service, which then ends its processes.
            start = f"import sys; sys.path.insert(0, {str(HOME)!r}); from {module} import main; main()"
            self._process = subprocess.Popen(  # noqa: S603 - this interpreter, this package
                [sys.executable, "-P", "-c", start, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self.channel = Connection(ours.detach())

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def begin(self, setup: object) -> Any:
        """Tell it what it needs; what it answers. Blocks until it is ready to work.

        Raises:
            VultusError: it could not begin its work.
        """
        try:
            self.channel.send(setup)
            answer = self.channel.recv()
        except (EOFError, OSError) as error:
            self.end()
            raise EngineError("a process that looks at photos ended before it began") from error
        if isinstance(answer, VultusError):
            self.end()
            raise answer
        return answer

    def take_socket(self) -> socket.socket:
        """The socket itself, for those who speak over it in a way of their own; the channel is of no use any more."""
        with self.channel:
            return socket.socket(fileno=os.dup(self.channel.fileno()))

    def end(self) -> None:
        """Let it end, or end it."""
        self.channel.close()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
