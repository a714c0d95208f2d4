"""The gate lets a few in, keeps the others in line by urgency, and refuses when the line is full."""

import asyncio

import pytest

from service.errors import OverloadedError
from service.vision.batching import Priority
from service.vision.gate import Gate


async def pass_through(gate: Gate, log: list[str], name: str, priority=Priority.INTERACTIVE, hold=None):
    async with gate.passing(priority):
        log.append(name)
        if hold is not None:
            await hold.wait()


async def settle():
    for _ in range(5):
        await asyncio.sleep(0)


def run(work):
    asyncio.run(asyncio.wait_for(work, 5))


def test_no_more_are_inside_than_allowed():
    async def work():
        gate, hold, log = Gate(inside=2, waiting=10, name="photos"), asyncio.Event(), []
        tasks = [asyncio.create_task(pass_through(gate, log, str(n), hold=hold)) for n in range(5)]
        await settle()
        assert (log, gate.waiting) == (["0", "1"], 3)
        hold.set()
        await asyncio.gather(*tasks)
        assert log == ["0", "1", "2", "3", "4"]
        assert gate.waiting == 0

    run(work())


def test_the_urgent_go_first():
    async def work():
        gate, hold, log = Gate(inside=1, waiting=10, name="photos"), asyncio.Event(), []
        tasks = [asyncio.create_task(pass_through(gate, log, "first", hold=hold))]
        await settle()
        for name, priority in (("bulk", Priority.BULK), ("urgent", Priority.INTERACTIVE), ("bulk2", Priority.BULK)):
            tasks.append(asyncio.create_task(pass_through(gate, log, name, priority)))
            await settle()
        hold.set()
        await asyncio.gather(*tasks)
        assert log == ["first", "urgent", "bulk", "bulk2"]

    run(work())


def test_a_full_line_refuses_and_says_when_to_come_back():
    async def work():
        gate, hold, log = Gate(inside=1, waiting=1, name="photos"), asyncio.Event(), []
        tasks = [asyncio.create_task(pass_through(gate, log, str(n), hold=hold)) for n in range(2)]
        await settle()
        with pytest.raises(OverloadedError) as refused:
            await pass_through(gate, log, "third")
        assert refused.value.retry_after >= 1
        hold.set()
        await asyncio.gather(*tasks)
        assert log == ["0", "1"]

    run(work())


def test_who_leaves_the_line_takes_no_turn_with_them():
    async def work():
        gate, hold, log = Gate(inside=1, waiting=2, name="photos"), asyncio.Event(), []
        first = asyncio.create_task(pass_through(gate, log, "first", hold=hold))
        await settle()
        gone = asyncio.create_task(pass_through(gate, log, "gone"))
        left = asyncio.create_task(pass_through(gate, log, "left"))
        await settle()
        gone.cancel()
        await settle()
        assert gate.waiting == 1
        hold.set()
        await asyncio.gather(first, left)
        assert log == ["first", "left"]

    run(work())


def test_a_turn_given_to_somebody_who_leaves_at_that_moment_goes_on():
    async def work():
        gate, hold, log = Gate(inside=1, waiting=2, name="photos"), asyncio.Event(), []
        first = asyncio.create_task(pass_through(gate, log, "first", hold=hold))
        await settle()
        gone = asyncio.create_task(pass_through(gate, log, "gone"))
        left = asyncio.create_task(pass_through(gate, log, "left"))
        await settle()
        hold.set()
        await first  # its turn is given, and "gone" has not run yet
        gone.cancel()
        await left
        assert "left" in log
        await pass_through(gate, log, "later")
        assert log[-1] == "later"

    run(work())


def test_an_error_inside_frees_the_place():
    async def work():
        gate = Gate(inside=1, waiting=1, name="photos")
        with pytest.raises(ValueError, match="inside"):
            async with gate.passing(Priority.INTERACTIVE):
                raise ValueError("inside")
        log = []
        await pass_through(gate, log, "next")
        assert log == ["next"]

    run(work())
