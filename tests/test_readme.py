"""The README is run: its blocks in their order, as one newcomer in one folder, against the service that it starts.

A block of `json` or `text` shows what the block before it prints. Numbers may differ a little (engines do), times and
random identifiers may differ wholly, and a line of three dots stands for any lines.
"""

import itertools
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from service.settings import CHECKOUT
from tests.cli.running import announced, environment
from tests.faces import orl
from tests.readme import README, TABLES, table_under

SECONDS = 240
PHOTOS = {
    "anna1.jpg": (10, 1),
    "anna2.jpg": (10, 2),
    "door.jpg": (10, 4),
    "bernd1.jpg": (5, 1),
    "bernd2.jpg": (5, 2),
    "stranger.jpg": (35, 1),
}
RUN = {"sh", "python"}
PROBLEM = "urn:vultus:error:"
RANDOM = re.compile(r"(f_|r_|vk_)?[0-9a-f]{16,}")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and its line."""

    kind: str
    text: str
    line: int


def blocks() -> list[Block]:
    text = README.read_text()
    found = re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [Block(each[1], each[2], text[: each.start()].count("\n") + 1) for each in found]


BLOCKS = blocks()
COMMANDS = [block for block in BLOCKS if block.kind in RUN]
SHOWN = [(before, after) for before, after in itertools.pairwise(BLOCKS) if after.kind in {"json", "text"}]


@dataclass(frozen=True)
class Outcome:
    """How a block ended."""

    code: int
    stdout: str
    stderr: str


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> dict[Block, Outcome]:
    """Every command block of the README, run in order."""
    folder = tmp_path_factory.mktemp("newcomer")
    for name, (person, number) in PHOTOS.items():
        with Image.open(orl() / f"s{person}" / f"{number}.pgm") as photo:
            photo.save(folder / name, quality=95)
    for name in ("anna1.jpg", "anna2.jpg", "bernd1.jpg"):
        archived = folder / "people" / name[:-5]
        archived.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / name, archived)
    shutil.copy(folder / "anna1.jpg", folder / "people" / "anna" / "copy.jpg")
    Image.new("RGB", (64, 48)).save(folder / "people" / "bernd" / "dark.jpg")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    variables = environment(folder / "data", port=port)
    # The demo's photos, so that they are not fetched again.
    shutil.copytree(orl(), folder / "data" / "demo" / orl().name)
    start, *others = COMMANDS
    log = (folder / "log").open("w")
    service = subprocess.Popen(
        ["sh", "-c", f"exec {adapted(start.text, port)}"],
        env=variables,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
    )
    try:
        said = announced(service)
        found = {}
        for block in others:
            command = [sys.executable, "-c"] if block.kind == "python" else ["sh", "-ec"]
            done = subprocess.run(
                [*command, adapted(block.text, port)],
                env=variables,
                cwd=folder,
                capture_output=True,
                text=True,
                timeout=SECONDS,
                check=False,
            )
            found[block] = Outcome(done.returncode, done.stdout, done.stderr)
        service.send_signal(signal.SIGINT)  # Ctrl-C, as the README says
        found[start] = Outcome(service.wait(SECONDS), said, (folder / "log").read_text())
    finally:
        service.kill()
        service.wait(SECONDS)
        service.stdout.close()
        log.close()
    return found


def adapted(text: str, port: int) -> str:
    """A block as it must be typed here: in another folder, with another port."""
    installed = Path(sys.executable).parent / "vultus"
    for there, here in {
        "deploy/": f"{CHECKOUT}/deploy/",
        ".venv/bin/vultus": str(installed),
        "127.0.0.1:8000": f"127.0.0.1:{port}",
    }.items():
        text = text.replace(there, here)
    return text


@pytest.mark.parametrize("block", COMMANDS, ids=lambda block: f"line {block.line}")
def test_every_command_of_the_readme_works(outcomes, block):
    outcome = outcomes[block]
    assert outcome.code == 0, outcome.stdout + outcome.stderr
    meant = [shown for command, shown in SHOWN if command == block and PROBLEM in shown.text]
    assert meant or PROBLEM not in outcome.stdout, outcome.stdout


@pytest.mark.parametrize(("command", "shown"), SHOWN, ids=lambda block: f"line {block.line}")
def test_the_readme_shows_what_its_commands_print(outcomes, command, shown):
    printed = outcomes[command].stdout
    if shown.kind == "json":
        assert_alike(json.loads(shown.text), json.loads(printed))
    else:
        assert text_pattern(shown.text).fullmatch(masked(printed)), printed


def test_the_service_says_what_to_open(outcomes):
    assert "/docs" in outcomes[COMMANDS[0]].stdout


def test_the_demo_leaves_a_contact_sheet(outcomes):
    demo = next(outcome for block, outcome in outcomes.items() if "vultus demo" in block.text)
    sheet = next(line for line in demo.stdout.splitlines() if line.startswith("Contact sheet: "))
    assert Path(sheet.removeprefix("Contact sheet: ")).is_file()


def test_the_picture_of_the_demo_is_what_it_prints(outcomes):
    demo = next(outcome for block, outcome in outcomes.items() if "vultus demo" in block.text)
    printed = re.findall(r"^s\d+/\d+\.pgm.* (\d\.\d\d) +\d\.\d{4} ", demo.stdout, re.MULTILINE)
    drawn = re.search(r"^    bar \[(.*)\]$", README.read_text(), re.MULTILINE)
    assert [float(each) for each in drawn[1].split(", ")] == pytest.approx([float(each) for each in printed], abs=0.05)


@pytest.mark.parametrize("heading", TABLES)
def test_a_table_of_the_readme_is_that_of_the_code(heading):
    assert table_under(heading) == TABLES[heading](), "`python -m tests.readme` writes the tables anew"


def test_links_of_the_readme_lead_somewhere():
    links = re.findall(r"\]\((?!http)([^)]+)\)", README.read_text())
    assert links
    assert [link for link in links if not (CHECKOUT / link).exists()] == []


def test_files_that_the_readme_names_are_there():
    names = re.findall(r"`(?:sh )?(deploy/[\w./]+|tests/[\w./]+)`", README.read_text())
    assert [name for name in names if not (CHECKOUT / name).exists()] == []


def assert_alike(shown, given):
    """Compare JSON: the same members, nearly the same numbers, the same words unless they are random."""
    if isinstance(shown, dict):
        assert given.keys() == shown.keys()
        for name in shown:
            assert_alike(shown[name], given[name])
    elif isinstance(shown, list):
        assert len(given) == len(shown)
        for one, other in zip(shown, given, strict=True):
            assert_alike(one, other)
    elif isinstance(shown, float):
        assert given == pytest.approx(shown, rel=0.05, abs=0.05)
    elif isinstance(shown, str) and RANDOM.fullmatch(shown):
        assert RANDOM.fullmatch(given)
    else:
        assert given == shown


def masked(text: str) -> str:
    """A text in which only the words that must not differ are left: decimals and times are `#`, blanks are single."""
    lines = [" ".join(line.split()) for line in text.strip().splitlines()]
    return "\n".join(re.sub(r"\b\d+\.\d+\b|\b\d+(?= ms)|(?<=\.\d{4} )\d+$", "#", line) for line in lines)


def text_pattern(shown: str) -> re.Pattern[str]:
    """What a printed text, masked, must match."""
    lines = [r"[\s\S]*" if line == "..." else re.escape(line) for line in masked(shown).splitlines()]
    return re.compile("\n".join(lines))


def test_extras_are_installed_from_the_checkout_and_exist():
    told = [*CHECKOUT.glob("*.md"), *CHECKOUT.glob("training/*.md"), *CHECKOUT.glob("service/**/*.py")]
    extras = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    installs = [found for file in told for found in re.findall(r"pip install (.*?)(\S+)\[([\w,]+)\]", file.read_text())]
    assert len(installs) >= 6
    for options, what, names in installs:
        assert (options, what) in {("-c deploy/constraints.txt -e ", "'."), ("-c deploy/constraints.txt ", "'.")}
        assert set(names.split(",")) <= extras.keys()
