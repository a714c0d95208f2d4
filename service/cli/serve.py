"""`vultus serve`: the service in the foreground, until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from service.cli.terminal import note, say
from service.errors import VultusError
from service.memory import give_back

if TYPE_CHECKING:
    from fastapi import FastAPI

    from service.settings import Settings

GRACE_SECONDS = 15
"""How long requests under way may take once the service was told to stop."""

KEEP_ALIVE_SECONDS = 30


class AddressError(VultusError):
    """The service cannot listen where it was told to."""

    status, code, title = 503, "address_unusable", "The address cannot be listened on"


def serve() -> None:
    """Run the service in the foreground; the settings are VULTUS_* variables. Ctrl-C or SIGTERM stops it."""
    from service.settings import load_settings  # noqa: PLC0415 - a fast start of the other commands

    settings = load_settings()
    logging.basicConfig(level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for name in ("uvicorn", "httpx", "faiss"):
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger().level))
    if settings.engine == "auto" and not (settings.data / "engines.json").exists():
        note("The first start finds out which engine is fastest here; this takes some seconds.")
    with _bound(settings.host, settings.port) as listener, contextlib.ExitStack() as stack:
        from service.vision.process import SEEING, Process  # noqa: PLC0415 - a fast start of the other commands

        # They load their libraries on one core while this process loads its own on another.
        seeing = [Process(SEEING) for _ in range(settings.streams)]
        for process in seeing:
            stack.callback(process.end)
        gc.disable()  # most of what is made now stays for good; see `_settle`

        from service.loading import load_ahead  # noqa: PLC0415 - as above

        # What can be loaded already need not wait for all the libraries that follow.
        ahead = load_ahead(settings)

        import uvloop  # noqa: PLC0415 - as above

        from service.app import create_app  # noqa: PLC0415 - loads every library there is

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(create_app(settings, seeing=seeing, ahead=ahead), settings, listener))


def _bound(host: str, port: int) -> socket.socket:
    """A socket at the address; it listens only once the service is ready, so that nobody waits in vain.

    Raises:
        AddressError: the port is taken or the address is not this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise AddressError(f"{host} cannot be listened on: {error.strerror}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise AddressError(
            f"port {port} of {host} cannot be taken: {error.strerror}; another service may run there already, "
            "VULTUS_PORT chooses another port"
        ) from error
    return listener


def _settle() -> None:
    """Tune the interpreter for a process that has loaded everything and now serves.

    What was loaded stays for good, so the garbage collector, which was off until now, need not walk it again and again.
    What loading took and freed, such as the models as they were read, goes back to the system.
    """
    gc.collect()
    gc.freeze()
    gc.enable()
    give_back()


async def _serve(app: FastAPI, settings: Settings, listener: socket.socket) -> None:
    import uvicorn  # noqa: PLC0415 - a fast start of the other commands

    from service.api.wire import Protocol  # noqa: PLC0415 - as above

    class Server(uvicorn.Server):
        """Stops on a signal and then returns, where uvicorn would raise the signal again and fail."""

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            if threading.current_thread() is not threading.main_thread():
                yield
                return
            before = {
                each: signal.signal(each, self.handle_exit) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
            }
            try:
                yield
            finally:
                for each, handler in before.items():
                    signal.signal(each, handler)

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            _announce(settings, listener.getsockname()[1])

    config = uvicorn.Config(
        app,
        http=Protocol,
        ws="none",
        lifespan="off",  # opened here, so that a start that fails says why in one line
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    async with app.router.lifespan_context(app):
        _settle()
        await Server(config).serve([listener])


def _announce(settings: Settings, port: int) -> None:
    host = "127.0.0.1" if settings.host in {"0.0.0.0", "::"} else settings.host  # noqa: S104 - compared, not bound
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    # It is typed at another terminal, which does not know this one's variables.
    here = "" if port == type(settings).model_fields["port"].default else f" --url {url}"
    say(
        f"Vultus is ready at [bold]{url}[/bold]\n\n"
        f"  look around   {url}/docs\n"
        f"  try it        {_command()} demo{here}\n"
        f"  ask it        curl {url}/health/ready\n"
        f"  stop it       Ctrl-C; everything enrolled is kept in {escape(str(settings.data))}\n"
    )


def _command() -> str:
    """What to type for `vultus` in this shell."""
    typed = sys.argv[0]
    found = shutil.which("vultus")
    if Path(typed).name != "vultus" or (found is not None and Path(found).samefile(typed)):
        return "vultus"
    return typed
