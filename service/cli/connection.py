"""The service that a command speaks to: a running one, or one opened inside the command over the same data folder.

async with connect(url) as service:
    answer = await service.get("/v1/galleries")
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar
from urllib.parse import quote

import typer

from service.errors import InvalidRequestError, VultusError

Url = Annotated[
    str | None,
    typer.Option(help="A running service; without it the one of the settings, or none: then the command is its own."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]

Result = TypeVar("Result")

PROBE_SECONDS = 1.0
"""How long a service on the settings' port may take to say that it is one."""

ANSWER_SECONDS = 300.0


class UnreachableError(VultusError):
    """The service that was named does not answer."""

    status, code, title = 503, "unreachable", "The service does not answer"


class AnsweredError(VultusError):
    """The service answered with an error; code and detail are its own."""

    def __init__(self, document: dict[str, Any]) -> None:
        known = {"type", "title", "status", "code", "detail"}
        super().__init__(
            str(document.get("detail", "the service answered with an error that says nothing")),
            **{name: value for name, value in document.items() if name not in known},
        )
        self.code = str(document.get("code", "internal"))  # type: ignore[misc]
        self.status = int(document.get("status", 500))  # type: ignore[misc]


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """Run a command's work to its end."""
    return asyncio.run(work)


def path(*parts: str) -> str:
    """A path under `/v1`, each part quoted."""
    # Dots too: `..` as it is means the part before it, which httpx then leaves out.
    return "/v1/" + "/".join(quote(part, safe="").replace(".", "%2E") for part in parts)


def json_object(text: str, what: str) -> dict[str, Any]:
    """An object that was typed as JSON.

    Raises:
        InvalidRequestError: it is none.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise InvalidRequestError(f"{what} is not a JSON object: {text}")
    return found


@dataclass(frozen=True)
class Connection:
    """A service that can be asked.

    Attributes:
        where: its address, or "inside this command".
        running: whether it is a process of its own.
    """

    client: Any
    where: str
    running: bool

    async def get(self, path: str, **query: Any) -> dict[str, Any]:
        """Ask for something.

        Raises:
            AnsweredError: the service answered with an error.
            UnreachableError: it did not answer.
        """
        return await self.send("GET", path, params={name: value for name, value in query.items() if value is not None})

    async def send(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        """Send a request, with `json`, `files`, `data` or `params` as httpx takes them.

        Raises:
            AnsweredError: the service answered with an error.
            UnreachableError: it did not answer.
        """
        import httpx  # noqa: PLC0415 - a fast start of commands that send nothing

        try:
            answer = await self.client.request(method, path, **request)
            document = answer.json()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise UnreachableError(f"{self.where}: {str(error) or type(error).__name__}") from error
        except ValueError as error:
            raise UnreachableError(f"what answers at {self.where} is no Vultus service") from error
        if not isinstance(document, dict) or answer.status_code >= 400:
            raise AnsweredError(document if isinstance(document, dict) else {})
        return document

    async def download(self, path: str, target: Path) -> None:
        """Write what is at a path to a file.

        Raises:
            AnsweredError: the service answered with an error.
            UnreachableError: it did not answer.
        """
        import httpx  # noqa: PLC0415 - a fast start of commands that send nothing

        try:
            async with self.client.stream("GET", path) as answer:
                if answer.status_code >= 400:
                    await answer.aread()
                    raise AnsweredError(answer.json())
                with target.open("wb") as file:
                    async for part in answer.aiter_bytes():
                        file.write(part)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise UnreachableError(f"{self.where}: {str(error) or type(error).__name__}") from error

    async def every(self, path: str, member: str) -> AsyncIterator[dict[str, Any]]:
        """All items of a listing, page by page."""
        cursor: str | None = None
        while True:
            page = await self.get(path, cursor=cursor)
            for item in page[member]:
                yield item
            cursor = page["next"]
            if cursor is None:
                return


@asynccontextmanager
async def connect(url: str | None, **own: Any) -> AsyncIterator[Connection]:
    """Find the service.

    Args:
        url: of a running service. Without it, one that answers at the settings' address is taken; where none does,
            the application runs inside this process, over the settings' data folder.
        own: settings of an application that runs inside this process.

    Raises:
        UnreachableError: nothing answers at the URL.
        VultusError: the application could not be opened in this process.
    """
    import httpx  # noqa: PLC0415 - a fast start of commands that send nothing

    from service.settings import load_settings  # noqa: PLC0415 - the same

    settings = load_settings()
    headers = {"Authorization": f"Bearer {settings.key}"} if settings.key else {}
    found = url or await _running(settings.host, settings.port)
    if found is not None:
        if not found.startswith(("http://", "https://")):
            raise InvalidRequestError(f"a service's URL begins with http:// or https://, not {found!r}")
        # Proxies of the environment are for the service that was named, not for one on this machine.
        proxies = url is not None
        async with httpx.AsyncClient(
            base_url=found, headers=headers, timeout=ANSWER_SECONDS, trust_env=proxies
        ) as client:
            yield Connection(client, found, running=True)
        return

    from service.app import create_app  # noqa: PLC0415 - loads every library there is

    # Nothing listens, so the address does not matter; who can read the data folder needs no key.
    app = create_app(settings.model_copy(update={"host": "127.0.0.1", **own}))
    async with app.router.lifespan_context(app):
        app.state.access = _Owner()
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=None) as client:  # noqa: S113 - nothing to wait for
            yield Connection(client, "inside this command", running=False)


class _Owner:
    """Access for whoever has the data folder itself."""

    async def caller(self, authorization: str, scope: str) -> str:  # noqa: ARG002 - the interface of Access
        """The caller's name."""
        return "owner"

    async def admit(self, caller: str) -> None:
        """Nobody counts what the owner does."""


async def _running(host: str, port: int) -> str | None:
    """The address of the service that the settings describe, if it runs."""
    import httpx  # noqa: PLC0415 - a fast start of commands that send nothing

    if port == 0:
        return None
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    url = f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"
    try:
        async with httpx.AsyncClient(timeout=PROBE_SECONDS, trust_env=False) as client:
            answer = await client.get(f"{url}/health/live")
            return url if answer.json() == {"status": "live"} else None
    except (httpx.HTTPError, ValueError):
        return None
