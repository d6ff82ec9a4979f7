"""A cluster that is not there: jobs that only take their time, on a number of slots, first in first out."""

import heapq
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from hpc_bridge.ports import ActionState, ActionStatus, Json


def durations_s(number: int, *, shortest_s: float, longest_s: float, seed: int) -> list[float]:
    """How long the jobs take, in the order in which they are submitted: uniform, the same for a seed."""
    generator = random.Random(seed)
    return [generator.uniform(shortest_s, longest_s) for _ in range(number)]


def ideal_makespan_s(jobs_s: Sequence[float], slots: int) -> float:
    """When the last job ends if each begins, in order, as soon as a slot is free."""
    free_s = [0.0] * min(slots, len(jobs_s))
    for job_s in jobs_s:
        heapq.heapreplace(free_s, free_s[0] + job_s)
    return max(free_s)


class Pool:
    """An action provider whose bodies say how many ``seconds`` they take; 0 ends at once."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._lock = threading.Condition()
        self._waiting: deque[tuple[str, float]] = deque()
        self._running: list[tuple[float, str]] = []
        self._ended: set[str] = set()
        self._stopping = False
        self._notify: Callable[[], None] = lambda: None
        self.begun: list[str] = []
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def run(self, request_id: str, body: Json) -> str:
        with self._lock:
            if body["seconds"] == 0.0:
                self._ended.add(request_id)
            else:
                self._waiting.append((request_id, body["seconds"]))
                self._lock.notify_all()
        return request_id

    def status(self, action_id: str) -> ActionStatus:
        with self._lock:
            return ActionStatus(ActionState.SUCCEEDED if action_id in self._ended else ActionState.ACTIVE)

    def cancel(self, action_id: str) -> None:
        with self._lock:
            self._ended.add(action_id)

    def release(self, action_id: str) -> None:
        with self._lock:
            self._ended.discard(action_id)

    def notify(self, callback: Callable[[], None]) -> None:
        self._notify = callback

    def stop(self) -> None:
        with self._lock:
            self._stopping = True
            self._lock.notify_all()
        self._thread.join()

    def _work(self) -> None:
        with self._lock:
            while not self._stopping:
                now_s = time.monotonic()
                while self._running and self._running[0][0] <= now_s:
                    self._ended.add(heapq.heappop(self._running)[1])
                    self._notify()
                while self._waiting and len(self._running) < self._slots:
                    name, seconds = self._waiting.popleft()
                    self.begun.append(name)
                    heapq.heappush(self._running, (now_s + seconds, name))
                left_s = self._running[0][0] - time.monotonic() if self._running else None
                self._lock.wait(None if left_s is None else max(left_s, 0.0))
