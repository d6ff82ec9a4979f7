"""What the demo prints: stages with progress bars from PVs, the names to look at, the findings."""

import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from iocs.client import Client
from iocs.config import Config
from pvdb import Pv, detector, edge, workflow

REFRESH_S = 0.5
_SHOWN = (
    (detector.NUM_IMAGES_COUNTER, "frames taken"),
    (edge.FRAMES_OUT, "frames predicted"),
    (edge.MODEL, "version of the live model"),
    (workflow.FLOW_STATE, "what the workflow does"),
    (workflow.VAL_LOSS, "loss on held-out frames"),
    (workflow.ANNOUNCED, "model announced to the edge"),
)


class Display:
    """Progress on the terminal; lines where there is none."""

    pvs: tuple[Pv, ...] = (
        detector.NUM_IMAGES_COUNTER,
        detector.NUM_IMAGES,
        edge.FRAMES_OUT,
        edge.MODEL,
        edge.MODEL_STATE,
        workflow.FLOW_STATE,
        workflow.FLOW_STEP,
        workflow.FLOW_PROGRESS,
        workflow.SUCCEEDED_RUNS,
        workflow.TRAIN_STATE,
        workflow.EPOCH,
        workflow.VAL_LOSS,
        workflow.CANDIDATE,
        workflow.VERDICT,
    )

    def __init__(self, config: Config) -> None:
        self._config = config
        self._console = Console(emoji=False)  # a PV name such as PTY:Train:Loss is no emoji
        self._progress = Progress(
            TextColumn("{task.description:<38}"),
            BarColumn(),
            TextColumn("{task.fields[text]}"),
            TimeElapsedColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._client: Client | None = None
        self._task: TaskID | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._refresh, name="display", daemon=True)

    def __enter__(self) -> Self:
        self._console.print("[bold]phaseline demo[/bold]: three IOCs on this machine, acting only through PVs.")
        self._console.print('In another terminal:  eval "$(phaseline env)"  and then camonitor or pvmonitor')
        for pv, text in _SHOWN:
            self._console.print(f"  {self._config.prefix}{pv.name:<24} {text}", highlight=False)
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()
        self._progress.stop()

    def attach(self, client: Client) -> None:
        """Begin to show what the PVs say."""
        self._client = client
        self._thread.start()

    def stage(self, name: str) -> None:
        """A stage begins."""
        if self._task is not None:
            self._progress.stop_task(self._task)
        self._task = self._progress.add_task(name, total=100.0, text="")
        if not self._console.is_terminal:
            print(f"demo: {name}", flush=True)

    def conclude(self, findings: dict[str, Any], output: Path) -> None:
        """Print the findings and where the report and the pictures are."""
        for key, value in findings.items():
            if key not in ("seconds", "failed"):
                self._console.print(f"  {key:<22} {value}", highlight=False)
        self._console.print(f"  {'seconds':<22} {findings['seconds']['total']:.0f}", highlight=False)
        self._console.print(f"report and pictures: {output}", highlight=False)
        if findings["failed"]:
            self._console.print(f"[bold red]failed:[/bold red] {findings['failed']}")

    def _refresh(self) -> None:
        while not self._closing.wait(REFRESH_S):
            if self._task is not None and self._client is not None:
                text, share = self._text(self._client)
                self._progress.update(self._task, completed=100.0 * share, text=text)

    def _text(self, client: Client) -> tuple[str, float]:
        """What the running stage is at, and the share that is done."""
        name = self._progress.tasks[-1].description
        value = client.value
        if name.startswith("scan"):
            taken, wanted = value(detector.NUM_IMAGES_COUNTER) or 0, value(detector.NUM_IMAGES) or 1
            return f"{taken} taken, {value(edge.FRAMES_OUT)} predicted, v{value(edge.MODEL)}", taken / wanted
        share = (value(workflow.FLOW_PROGRESS) or 0.0) / 100.0
        if name.startswith("train"):
            return f"epoch {value(workflow.EPOCH)}, held-out loss {value(workflow.VAL_LOSS) or 0.0:.3f} rad", share
        return f"{value(workflow.FLOW_STEP)}", share
