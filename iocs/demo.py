"""The demo: all three IOCs on this machine, driven through PVs alone, as a scan script would."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from iocs.client import Client
from iocs.config import Config, load
from iocs.demo_display import Display
from iocs.demo_pictures import Pictures
from iocs.demo_plan import Plan, ScanPlan, configuration, marked_folder, replay_plan, simulated_plan
from iocs.demo_poison import poison
from iocs.demo_streams import Prediction, Predictions, Snapshots
from iocs.suite import Suite
from phasing.compare import map_correlation
from phasing.errors import PhaselineError
from phasing.stitch import StitchedMap
from pvdb import detector, edge, workflow

CLIENT_PATIENCE_S = 600.0
SETTLE_S = 120.0
_LOST = (edge.FRAMES_MISSED, edge.FRAMES_DROPPED, edge.FRAMES_REJECTED, edge.FRAMES_EMPTY)


class DemoFailed(PhaselineError):
    """What the demo shows did not come true."""


@dataclass
class Findings:
    """What the demo measured, by the report's keys."""

    frames_sent: int = 0
    frames_predicted: int = 0
    frames_missed: int = 0
    frames_dropped: int = 0
    swap_gap_frames: float | None = None
    detector_gap_frames: float | None = None
    val_loss_v1: float | None = None
    val_loss_v2: float | None = None
    map_correlation_v1: float | None = None
    map_correlation_v2: float | None = None
    live_correlation: float | None = None
    correlations_are: str = "unseen"
    refused: str | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    failed: str | None = None


def run(
    config: Path | None, output: Path, scan: Path | None, *, positions: int | None = None, poisoned: bool = False
) -> int:
    """Run the whole loop and leave report and pictures in `output`; returns the exit status.

    poisoned: end with a round whose training labels are shuffled, which the gate has to refuse.
    """
    marked_folder(output)
    plan = replay_plan(scan) if scan else simulated_plan(positions)
    settings = load(config) if config else configuration(scan)
    settings = settings.model_copy(update={"root": output / "data"})
    settings.apply_environment()
    file = output / "demo.toml"
    file.write_text(_toml(settings))
    findings = Findings(correlations_are="seen" if scan else "unseen")
    began = time.monotonic()
    display = Display(settings)
    try:
        with display, Suite(file, verbose=True, log=output / "iocs.log") as suite:
            findings.seconds["start"] = time.monotonic() - began
            Demo(settings, plan, output, findings, display, suite, poisoned=poisoned).run()
    except PhaselineError as error:
        findings.failed = str(error)
    except KeyboardInterrupt:
        findings.failed = "interrupted"
    findings.seconds["total"] = time.monotonic() - began
    (output / "report.json").write_text(json.dumps(vars(findings), indent=2) + "\n")
    display.conclude(vars(findings), output)
    return 1 if findings.failed else 0


class Demo:
    """The script, step by step."""

    def __init__(
        self,
        config: Config,
        plan: Plan,
        output: Path,
        findings: Findings,
        display: Display,
        suite: Suite,
        *,
        poisoned: bool,
    ) -> None:
        self._root, self._poisoned = config.root, poisoned
        self._plan, self._findings, self._display, self._suite = plan, findings, display, suite
        self._client = Client(config.prefix, config.detector.renames)
        self._predictions = Predictions(self._client.name(edge.PHASE))
        self._snapshots = Snapshots(self._client)
        self._pictures = Pictures(output)

    def run(self) -> None:
        """Scan 1 makes v1; scan 2 runs under v1 and makes v2; v2 comes during scan 3; scan 4 runs wholly under v2."""
        client = self._client
        client.watch(*self._display.pvs, workflow.FLOW_MESSAGE, edge.FRAMES_NO_MODEL, *_LOST, detector.CAPTURE)
        self._display.attach(client)
        try:
            self._first_and_second()
            third = self._swap_while_streaming()
            self._fourth()
            if self._poisoned:
                self._poisoned_round()
            self._check(third)
        finally:
            self._predictions.close()
            client.close()

    # the acts

    def _first_and_second(self) -> None:
        first, second = self._plan.scans[:2]
        with self._timed("scan 1"):
            path = self._scan(first, predicted=False)
        self._pictures.frame(self._snapshots.image(detector.IMAGE))
        with self._timed("reconstruct 1"):
            self._reconstruct(path)
        with self._timed("train 1"):
            self._until_live(1)
        self._pictures.losses("round 1", *self._loss_curves())
        with self._timed("scan 2"):
            path = self._scan(second, predicted=True)
        with self._timed("reconstruct 2"):
            self._reconstruct(path)

    def _swap_while_streaming(self) -> list[Prediction]:
        """Scan 3 starts with the last epoch of training, so that the second model arrives while frames stream."""
        value = self._client.value
        last = int(self._client.get(workflow.EPOCHS)) - 1

        def training() -> bool:
            return bool(value(workflow.TRAIN_STATE) == "Training")

        with self._timed("train 2"):
            self._wait_for_stage(lambda: training() or value(workflow.CANDIDATE) == 2, "round 2 trains")
            self._wait_for_stage(
                lambda: not training() or (value(workflow.EPOCH) or 0) >= last, "round 2 is in its last epoch"
            )
        third = self._plan.scans[2]
        with self._timed("scan 3"):
            self._scan(third, predicted=True)
            self._until_live(2)
        self._findings.val_loss_v1 = float(self._client.get(workflow.ACTIVE_VAL_LOSS))
        self._findings.val_loss_v2 = float(self._client.get(workflow.CANDIDATE_VAL_LOSS))
        self._pictures.losses("round 2", *self._loss_curves())
        predictions = self._predictions.of_last_scan()
        versions = {p.model_version for p in predictions}
        if versions != {1, 2}:
            raise DemoFailed(f"the second model did not go live while scan 3 streamed: it was predicted by {versions}")
        period_s = max(1.0 / third.rate_hz, 1.0 / float(self._client.get(detector.ARRAY_RATE)))
        neighbours = list(pairwise(predictions))
        self._findings.swap_gap_frames = round(max(b.arrival_s - a.arrival_s for a, b in neighbours) / period_s, 2)
        self._findings.detector_gap_frames = round(max(b.frame_s - a.frame_s for a, b in neighbours) / period_s, 2)
        return predictions

    def _fourth(self) -> None:
        """Scan 4 under the second model, its reconstruction, and the same frames again under the first."""
        client, fourth = self._client, self._plan.scans[3]
        client.put(workflow.STANDBY, "On")  # nothing is to be learned from scan 4: it judges
        with self._timed("scan 4"):
            path = self._scan(fourth, predicted=True)
        live = self._stitched()
        self._check_versions({2})
        with self._timed("reconstruct 4 and replay under v1"):
            client.put(workflow.FILE, str(path))
            reconstructing = client.put_aside(workflow.RUN, 1)
            client.put(workflow.SELECT, 1, timeout_s=120.0)
            self._scan(replace(fourth, replay=path, part="Whole", saved=False), predicted=True)
            former = self._stitched()
            self._check_versions({1})
            client.put(workflow.SELECT, 2, timeout_s=120.0)
            reconstructing.wait()
        reconstruction = self._snapshots.placed_map(workflow.RECON_IMAGE)
        self._findings.map_correlation_v2 = round(map_correlation(live, reconstruction), 4)
        self._findings.map_correlation_v1 = round(map_correlation(former, reconstruction), 4)
        self._findings.live_correlation = round(float(client.get(workflow.LIVE_CORRELATION)), 4)
        self._pictures.maps(former, live, reconstruction, self._findings.correlations_are)
        self._pictures.reconstruction(reconstruction)

    def _poisoned_round(self) -> None:
        """Train once more, on labels that belong to other frames: the gate must refuse what comes of it."""
        client, former = self._client, self._client.value(workflow.CANDIDATE)
        with self._timed("poisoned round"):
            poison(self._root / "compute")
            client.put(workflow.START, 1, timeout_s=CLIENT_PATIENCE_S)
            self._wait_for_stage(lambda: client.value(workflow.CANDIDATE) > former, "its candidate is there")
        verdict = str(client.get(workflow.VERDICT))
        if not verdict.startswith("refused") or client.get(edge.MODEL) != former:
            raise DemoFailed(f"a poisoned model was not refused: {verdict}")
        self._findings.refused = f"version {client.value(workflow.CANDIDATE)} {verdict}"

    def _check(self, third: list[Prediction]) -> None:
        findings = self._findings
        sent = findings.frames_sent - self._plan.unpredicted
        if findings.frames_missed or findings.frames_dropped:
            raise DemoFailed(f"frames lost: {findings.frames_missed} missed, {findings.frames_dropped} dropped")
        if findings.frames_predicted != sent:
            raise DemoFailed(f"{findings.frames_predicted} of {sent} frames after v1 were predicted")
        if [p.unique_id for p in third] != sorted(p.unique_id for p in third):
            raise DemoFailed("predictions of scan 3 came out of order")

    # what a scan script does

    def _scan(self, scan: ScanPlan, *, predicted: bool) -> Path:
        """One scan: set up, reset the edge's counters, capture and acquire, wait until every frame is accounted for."""
        client = self._client
        for pv, value in scan.setpoints().items():
            client.put(pv, value)
        client.put(edge.RESET, 1)
        self._predictions.begin()
        capture = client.put_aside(detector.CAPTURE, 1) if scan.saved else None
        if capture is not None:
            client.wait(
                lambda: capture.done or client.value(detector.CAPTURE) == "Capture",
                "the file writer captures",
                SETTLE_S,
            )
            if capture.done:  # refused at once: this raises the reason
                capture.wait()
        client.put(detector.ACQUIRE, 1, timeout_s=CLIENT_PATIENCE_S)
        sent = int(client.get(detector.NUM_IMAGES_COUNTER))
        if capture is not None:
            capture.wait()
        self._account(sent, predicted=predicted)
        return Path(_text(client.get(detector.FULL_FILE_NAME)))

    def _account(self, sent: int, *, predicted: bool) -> None:
        """Wait until the edge has accounted for every frame, then add up what became of them."""
        client, findings = self._client, self._findings

        def accounted() -> bool:
            self._suite.check()
            counts = [client.value(pv) for pv in (edge.FRAMES_OUT, edge.FRAMES_NO_MODEL, *_LOST)]
            return None not in counts and sum(counts) >= sent

        client.wait(accounted, f"{sent} frames accounted for by the edge", SETTLE_S)
        findings.frames_sent += sent
        findings.frames_missed += client.value(edge.FRAMES_MISSED)
        findings.frames_dropped += client.value(edge.FRAMES_DROPPED)
        if predicted:
            self._predictions.wait_for(sent, SETTLE_S)
            findings.frames_predicted += self._predictions.num_distinct()

    def _reconstruct(self, path: Path) -> None:
        """Submit a scan and wait until its training pairs are there."""
        client = self._client
        done = client.value(workflow.SUCCEEDED_RUNS)
        client.put(workflow.FILE, str(path))
        client.put(workflow.SUBMIT, 1)
        self._wait_for_stage(lambda: client.value(workflow.SUCCEEDED_RUNS) > done, f"{path.name} is reconstructed")

    def _until_live(self, version: int) -> None:
        """Wait until the edge runs a version; DemoFailed with the gate's reason when it is refused."""
        client = self._client

        def decided() -> bool:
            refused = client.value(workflow.CANDIDATE) == version and client.value(workflow.VERDICT).startswith(
                "refused"
            )
            return bool(client.value(edge.MODEL) == version or refused or client.value(edge.MODEL_STATE) == "Refused")

        self._wait_for_stage(decided, f"version {version} is live")
        if client.value(edge.MODEL) != version:
            raise DemoFailed(f"version {version} never went live: {client.get(workflow.VERDICT)}")

    def _wait_for_stage(self, condition: Any, what: str) -> None:
        """Wait for a condition; DemoFailed at once when a stage fails or an IOC dies."""
        client = self._client

        def failed() -> bool:
            self._suite.check()
            return "Failed" in (client.value(workflow.FLOW_STATE), client.value(workflow.TRAIN_STATE))

        client.wait(lambda: condition() or failed(), what, CLIENT_PATIENCE_S)
        if not condition():
            raise DemoFailed(f"a stage failed: {client.value(workflow.FLOW_MESSAGE)}")

    def _stitched(self) -> StitchedMap:
        """The edge's map once it holds every prediction of the scan."""
        return self._snapshots.placed_map(edge.STITCHED, at_least_id=self._client.value(edge.FRAMES_OUT))

    def _check_versions(self, wanted: set[int]) -> None:
        versions = {p.model_version for p in self._predictions.of_last_scan()}
        if versions != wanted:
            raise DemoFailed(f"the scan was predicted by versions {versions}, not {wanted}")

    def _loss_curves(self) -> tuple[list[float], list[float]]:
        return list(self._client.get(workflow.LOSS_HISTORY)), list(self._client.get(workflow.VAL_LOSS_HISTORY))

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        began = time.monotonic()
        self._display.stage(stage)
        yield
        self._findings.seconds[stage] = round(time.monotonic() - began, 2)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else bytes(value).decode()


def _toml(config: Config) -> str:
    """The configuration as TOML that `--config` reads."""
    return "\n".join(_table(config.model_dump(mode="json", exclude_none=True), "")) + "\n"


def _table(values: Mapping[str, Any], path: str) -> list[str]:
    """Lines of a table, those of the tables within it behind its own keys."""
    lines = [f"{key} = {json.dumps(value)}" for key, value in values.items() if not isinstance(value, dict)]
    for key, value in values.items():
        if isinstance(value, dict):
            lines += ["", f"[{path}{key}]", *_table(value, f"{path}{key}.")]
    return lines
