"""Waiting for a run in the event loop, while the runner's thread moves it."""

import asyncio
from dataclasses import replace
from typing import Any, cast

import pytest

from hpc_bridge.journal import RunRow, RunStatus
from hpc_bridge.runner import FlowRunner
from iocs.record import ActionFailed
from iocs.workflow_runs import Runs

RUN = "run-1"
ENOUGH = 10


class Runner:
    """One run, as a runner would tell of it; asking again and again without letting the loop go on is an error."""

    def __init__(self) -> None:
        self.row = RunRow(RUN, "scan", "run", "Transfer", RunStatus.ACTIVE, 0.0, 0.0, None, "")
        self.asked = 0

    def move(self, status: RunStatus, message: str = "") -> None:
        self.row = replace(self.row, status=status, message=message)

    def snapshot(self) -> list[RunRow]:
        self.asked += 1
        assert self.asked < ENOUGH, "the loop spins"
        return [self.row]


async def _turns() -> None:
    """Let the loop do all that is due."""
    for _ in range(3):
        await asyncio.sleep(0)


def _waiting(check: Any) -> None:
    async def main() -> None:
        runner = Runner()
        runs = Runs(cast(FlowRunner, runner), asyncio.Event())
        put = asyncio.create_task(runs.finish(RUN))
        await _turns()
        await check(runner, runs, put)

    asyncio.run(main())


def test_a_run_that_is_at_work_again_when_its_failure_is_heard_is_waited_for() -> None:
    """The failure is told late: the run was retried before. The put waits on, and the loop goes on."""

    async def check(runner: Runner, runs: Runs, put: asyncio.Task[None]) -> None:
        runs.ended(RUN)
        await _turns()
        assert not put.done()
        runner.move(RunStatus.SUCCEEDED)
        runs.ended(RUN)
        await put

    _waiting(check)


def test_a_run_that_fails_fails_the_put_with_its_message() -> None:
    async def check(runner: Runner, runs: Runs, put: asyncio.Task[None]) -> None:
        runner.move(RunStatus.FAILED, "no such file")
        runs.ended(RUN)
        with pytest.raises(ActionFailed, match="run-1: no such file"):
            await put

    _waiting(check)
