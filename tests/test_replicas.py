"""Several replicas: what deploy/README.md says is done, and nothing is lost when one of them is killed."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from PIL import Image

from service.settings import CHECKOUT
from tests.bench.replicas import under_fire
from tests.bench.server import is_ready
from tests.cli.running import environment
from tests.faces import orl
from tests.ports import free_port


def test_replicas_that_are_killed_lose_nothing_and_agree_in_the_end(tmp_path):
    outcome = under_fire(tmp_path, 5, every=4)
    assert outcome.acknowledged > 0
    assert outcome.forgotten_checked > 0
    assert outcome.kills == 1
    assert (outcome.lost, outcome.twice, outcome.forgotten_answered) == (0, 0, 0)
    assert (outcome.differing, outcome.never_acknowledged) == (0, 0)


def test_two_replicas_serve_one_gallery_as_the_operators_guide_says(postgres_server, redis_session, tmp_path):
    ports = free_port(), free_port()
    there = {
        "127.0.0.1:5432": f"127.0.0.1:{postgres_server.port}",
        "redis://:choose-another@127.0.0.1:6379/0": redis_session.url,
        "8001": str(ports[0]),
        "8002": str(ports[1]),
        ".venv/bin/vultus": f"{Path(sys.executable).parent}/vultus",
    }
    guide = (CHECKOUT / "deploy" / "README.md").read_text()
    section = guide.partition("## Several replicas\n")[2].partition("\n## ")[0]
    statements, started, asked = (
        adapted(text, there) for text in re.findall(r"^```\w+\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
    )
    postgres_server.run(*(line.rstrip(";") for line in statements.splitlines()))
    for name, number in (("anna1", 1), ("door", 4)):
        with Image.open(orl() / "s10" / f"{number}.pgm") as photo:
            photo.save(tmp_path / f"{name}.jpg", quality=95)
    variables = environment(tmp_path)
    del variables["VULTUS_DATA"], variables["VULTUS_PORT"]
    with (tmp_path / "log").open("w") as log:
        command = ["sh", "-ec", f"{started}wait"]
        shell = subprocess.Popen(command, cwd=tmp_path, env=variables, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 60
        while not all(map(is_ready, ports)):
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.1)
        command = ["sh", "-ec", asked]
        done = subprocess.run(
            command, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=60, check=True
        )
    finally:
        os.killpg(shell.pid, signal.SIGTERM)
        shell.wait(60)
    _, enrolled, identified, ready = documents(done.stdout)
    assert identified["faces"][0]["person"] == "anna"
    assert identified["revision"] == enrolled["revision"] == 1
    assert (ready["catalog"], ready["shared"]) == ("postgresql", "up")


def adapted(text, there):
    """A block as it must be typed here."""
    for theirs, ours in there.items():
        text = text.replace(theirs, ours)
    return text


def documents(text):
    """The JSON documents that were printed one after the other."""
    decoder, place = json.JSONDecoder(), 0
    while place < len(text.rstrip()):
        document, place = decoder.raw_decode(text, place)
        yield document
