"""A real Milvus standalone server for the tests: a child process on free ports, with its files in a temporary folder.

The program comes inside the wheel `milvus` 2.3.5, which is downloaded like the models are, unpacked beside the virtual
environment's own files, and never installed or imported: stopping its wrapper leaves the server running.
"""

from __future__ import annotations

import lzma
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

import httpx

from service.artifact.fetch import fetch_wheel
from tests.ports import free_port

VERSION = "2.3.5"
DIGEST = "69515a0630ce29fd10e101fa442afea8ca1387b93a456cd9bd41fdf3deb93d04"
CACHE = Path(sys.prefix) / "share"
START_SECONDS = 60

ETCD = """
name: default
data-dir: {folder}/data/etcd
listen-client-urls: http://127.0.0.1:{client}
advertise-client-urls: http://127.0.0.1:{client}
listen-peer-urls: http://127.0.0.1:{peer}
initial-advertise-peer-urls: http://127.0.0.1:{peer}
initial-cluster: default=http://127.0.0.1:{peer}
"""


def unpacked() -> Path:
    """The folder of the server's programs.

    Raises:
        FetchError: the wheel cannot be had.
    """
    folder = CACHE / f"milvus-{VERSION}"
    if folder.is_dir():
        return folder
    wheel = fetch_wheel("milvus", VERSION, DIGEST, CACHE)
    fresh = CACHE / f"milvus-{VERSION}.{os.getpid()}"
    fresh.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.startswith("milvus/data/bin/"):
                program = fresh / Path(name).stem
                program.write_bytes(lzma.decompress(archive.read(name)))
                program.chmod(0o755)
            elif name.startswith("milvus/data/"):
                (fresh / Path(name).name).write_bytes(archive.read(name))
    wheel.unlink()
    fresh.rename(folder)
    return folder


@dataclass
class Milvus:
    """A server; `start` and `kill` may be called again and again, its ports and files stay the same."""

    programs: Path
    folder: Path
    port: int
    health: int
    process: subprocess.Popen[bytes] | None = None

    @classmethod
    def laid_out(cls, folder: Path) -> Milvus:
        """A server with its configuration; not started yet."""
        programs = unpacked()
        for part in ("configs", "logs", "data"):
            (folder / part).mkdir(parents=True)
        ports = {"proxy_port": free_port(), "etcd_port": free_port()}
        paths = {
            "etcd_log_path": folder / "logs/etcd.log",
            "system_log_path": folder / "logs",
            "etcd_data_dir": folder / "data/etcd",
            "local_storage_dir": folder / "data",
            "rocksmq_data_dir": folder / "data/rocksmq",
        }

        def filled(found: re.Match[str]) -> str:
            name, _, default = found.group(1).partition(":")
            name = name.partition("(")[0].strip()
            if name in paths:
                return str(paths[name])
            if name.endswith("_port"):
                return str(ports.setdefault(name, free_port()))
            return default.strip()

        text = re.sub(r"\{\{(.*?)\}\}", filled, (programs / "config.yaml.template").read_text())
        text = text.replace("endpoints: localhost:", "endpoints: 127.0.0.1:")
        text = re.sub(r"^  ip:.*$", "  ip: 127.0.0.1", text, flags=re.MULTILINE)
        own = f"  config:\n    path: {folder}/configs/etcd.yaml\n"
        text = text.replace("  use:\n    embed: true", f"{own}  use:\n    embed: true")
        (folder / "configs/milvus.yaml").write_text(text)
        etcd = ETCD.format(folder=folder, client=ports["etcd_port"], peer=free_port())
        (folder / "configs/etcd.yaml").write_text(etcd)
        shutil.copy(programs / "glog.conf", folder / "configs")
        return cls(programs, folder, ports["proxy_port"], free_port())

    @property
    def uri(self) -> str:
        """Where clients find it."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, and wait until it says that it is healthy."""
        environment = {
            **os.environ,
            "DEPLOY_MODE": "STANDALONE",
            "METRICS_PORT": str(self.health),
            "MILVUS_RUN_DIR": str(self.folder / "run"),
            "LD_LIBRARY_PATH": str(self.programs),
        }
        log = self.folder / "logs/output"
        with log.open("ab") as output:
            command = [self.programs / "milvus", "run", "standalone"]
            self.process = subprocess.Popen(command, cwd=self.folder, env=environment, stdout=output, stderr=output)
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                if httpx.get(f"http://127.0.0.1:{self.health}/healthz", timeout=5).text.strip('" \n') == "OK":
                    return
            except httpx.HTTPError:
                pass
            assert self.process.poll() is None, log.read_text()[-4000:]
            assert time.monotonic() < deadline, log.read_text()[-4000:]
            time.sleep(0.1)

    def kill(self) -> None:
        """End it as a power cut would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
