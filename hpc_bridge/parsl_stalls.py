"""Managers that were given tasks and do not begin them: parts of them can die while they go on saying they live."""

import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

ASK_S = 2.0


class Stalls:
    """Compares what one executor's interchange has handed to each block with what has begun there."""

    def __init__(self, control: Path, stall_s: float) -> None:
        """``control`` is where workers write which task they have begun, and in which block."""
        self._control, self._stall_s = control, stall_s
        self._asked_s = 0.0
        self._since_s: dict[str, float] = {}

    def look(self, tasks: Iterable[str], managers: Callable[[], list[dict[str, Any]]]) -> list[str]:
        """Return the blocks that have held a task for ``stall_s`` without beginning it; ``managers`` asks Parsl."""
        now_s = time.monotonic()
        if now_s < self._asked_s + ASK_S:
            return []
        self._asked_s = now_s
        running = Counter(block for name in tasks if (block := self._block(name)) is not None)
        held = Counter[str]()
        for manager in managers():
            held[str(manager["block_id"])] += int(manager["tasks"])
        behind = {block for block, number in held.items() if number > running[block]}
        self._since_s = {block: self._since_s.get(block, now_s) for block in behind}
        stalled = [block for block, since_s in self._since_s.items() if now_s > since_s + self._stall_s]
        for block in stalled:
            del self._since_s[block]
        return stalled

    def _block(self, name: str) -> str | None:
        try:
            return (self._control / f"{name}.begun").read_text(encoding="ascii")
        except OSError:
            return None
