"""Processes that see photos: what becomes of photos when one dies."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import uvloop

from service.errors import EngineError, NotReadyError, PhotoDamagedError
from service.settings import CHECKOUT
from service.vision.process import SEEING, Process
from service.vision.see import Limits
from service.vision.seeing import Setup
from service.vision.seers import Seers
from tests.faces import crowd, orl_photo

SETUP = Setup(("openvino", CHECKOUT / "models" / "yunet" / "model.onnx"), Limits(1 << 24, 1 << 24, 50))


def run(scenario, setup=SETUP, **options):
    """Runs a coroutine function of seers."""

    async def main():
        async with asyncio.timeout(60), Seers(setup, **{"count": 1, "capacity": 64} | options) as seers:
            return await scenario(seers)

    return on_uvloop(main())


def on_uvloop(coroutine):
    """Runs it as the service would."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(coroutine)


def children(pid=None):
    """The process ids of a process' own that see photos."""
    parent, found = pid or os.getpid(), []
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            facts, command = status.read_text(), (status.parent / "cmdline").read_bytes()
        except OSError:
            continue
        if f"PPid:\t{parent}\n" in facts and b"service.vision.seeing" in command:
            found.append(int(status.parent.name))
    return found


def alive(pid):
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_there_are_as_many_as_asked_for_and_none_is_left_behind():
    before = set(children())

    async def count(seers):
        await seers.see(orl_photo(1, 1))
        return set(children()) - before

    assert len(run(count, count=2)) == 2
    assert set(children()) == before


def test_processes_started_beforehand_are_used_and_those_too_many_end():
    before = set(children())
    started = [Process(SEEING) for _ in range(3)]

    async def look(seers):
        await seers.see(orl_photo(1, 1))
        return set(children()) - before

    used = run(look, count=2, started=started)
    assert len(used) == 2
    assert used < {process.pid for process in started}
    assert set(children()) == before


def test_photos_of_a_process_that_is_killed_are_seen_all_the_same_and_it_is_replaced():
    before = set(children())

    async def kill(seers):
        asked = [asyncio.create_task(seers.see(orl_photo(1 + number % 9, 1))) for number in range(40)]
        await asked[3]
        (victim, *_) = set(children()) - before
        os.kill(victim, signal.SIGKILL)
        seen = await asyncio.gather(*asked)
        while len(now := set(children()) - before) < 2 or victim in now:  # noqa: ASYNC110 - of the system, not of tasks
            await asyncio.sleep(0.05)
        return seen

    assert all(len(photo.faces) == 1 for photo in run(kill, count=2))


def test_a_photo_that_brings_every_process_down_is_refused_and_its_neighbours_are_seen():
    """Whichever process has it first in line is killed, as a decoder that crashes would be."""
    deadly, deaths = crowd(20), []

    async def strike(seers):
        while True:
            for seer in seers._seers:
                if seer.under_way and seer.under_way[0].photo is deadly and seer.process.pid not in deaths:
                    deaths.append(seer.process.pid)
                    os.kill(seer.process.pid, signal.SIGKILL)
            await asyncio.sleep(0)

    async def among_others(seers):
        striker = asyncio.create_task(strike(seers))
        photos = [orl_photo(1, 1), deadly, orl_photo(2, 1), orl_photo(3, 1)]
        found = await asyncio.gather(*(seers.see(photo) for photo in photos), return_exceptions=True)
        striker.cancel()
        return found, await seers.see(orl_photo(4, 1))

    found, later = run(among_others)
    assert [type(each) for each in found if isinstance(each, Exception)] == [PhotoDamagedError]
    assert isinstance(found[1], PhotoDamagedError)
    assert len(deaths) == 2
    assert len(later.faces) == 1


def test_a_process_that_cannot_begin_says_why(tmp_path):
    before = children()
    setup = replace(SETUP, detector=("openvino", tmp_path / "gone.onnx"))
    with pytest.raises(EngineError, match="cannot load the model"):
        run(lambda seers: seers.see(orl_photo(1, 1)), setup, count=2)
    assert children() == before


def test_models_are_found_from_the_folder_that_the_service_works_in(tmp_path, monkeypatch):
    (tmp_path / "here").symlink_to(CHECKOUT / "models")
    monkeypatch.chdir(tmp_path)
    setup = replace(SETUP, detector=("openvino", Path("here") / "yunet" / "model.onnx"))
    assert len(run(lambda seers: seers.see(orl_photo(1, 1)), setup).faces) == 1


def test_whoever_waits_is_told_why_no_process_follows_and_one_does_once_it_can(tmp_path):
    (models := tmp_path / "models").symlink_to(CHECKOUT / "models")
    before = set(children())

    async def away(seers):
        models.unlink()
        (pid,) = set(children()) - before
        asked = [asyncio.create_task(seers.see(orl_photo(1, 1))) for _ in range(4)]
        os.kill(pid, signal.SIGKILL)
        told = await asyncio.gather(*asked, return_exceptions=True)
        with pytest.raises(EngineError):
            await seers.see(orl_photo(1, 1))
        models.symlink_to(CHECKOUT / "models")
        while True:
            try:
                return told, await seers.see(orl_photo(1, 1))
            except EngineError:
                await asyncio.sleep(0.05)

    told, later = run(away, replace(SETUP, detector=("openvino", models / "yunet" / "model.onnx")), retry=0.2)
    assert isinstance(told[-1], EngineError)
    assert len(later.faces) == 1


def test_photos_that_wait_when_the_service_stops_are_answered():
    async def leave(seers):
        asked = [asyncio.create_task(seers.see(orl_photo(1, 1))) for _ in range(40)]
        await asked[0]
        return asked

    async def main():
        async with asyncio.timeout(60):
            async with Seers(SETUP, count=1, capacity=64) as seers:
                asked = await leave(seers)
            return await asyncio.gather(*asked, return_exceptions=True)

    kinds = {type(each) for each in on_uvloop(main()) if isinstance(each, Exception)}
    assert kinds == {NotReadyError}


def test_none_outlives_a_service_that_is_killed():
    script = (
        "import asyncio\n"
        "from tests.vision.test_seers import run\n"
        "async def wait(seers):\n"
        "    print('ready', flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "run(wait, count=2)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], cwd=CHECKOUT, stdout=subprocess.PIPE) as service:
        assert service.stdout.readline() == b"ready\n"
        orphans = children(service.pid)
        service.kill()
    assert len(orphans) == 2
    ended = time.monotonic() + 10
    while any(alive(pid) for pid in orphans) and time.monotonic() < ended:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in orphans)
