"""Work in the background is never lost in silence."""

import asyncio

import pytest

from iocs import background


def test_what_raises_is_told_and_called_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(background, "AGAIN_S", 0.01)
    calls, told = list[int](), list[str]()

    async def serve() -> None:
        calls.append(len(calls))
        if len(calls) < 3:
            raise OSError("the share is away")

    asyncio.run(background.kept_up(serve, told.append))
    assert len(calls) == 3
    assert told == ["interrupted by OSError: the share is away; it begins again in 0.01 s"] * 2
    assert "Traceback" in caplog.text


def test_it_ends_when_it_is_cancelled() -> None:
    async def cancelled() -> None:
        task = asyncio.create_task(background.kept_up(lambda: asyncio.sleep(3600), lambda text: None))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
