"""The whole loop, small: real detector, transfer, pty-chi, PyTorch, registry, edge; foreign clients look on."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from harness import write_config

SETTINGS = """[train]
batch_size = 16
num_epochs = {epochs}
{more}
[reconstruct]
num_epochs = {retrieval}
batch_size = 50
"""
TIMEOUT_S = 1200
PATIENCE_S = 180


class Demo:
    """`phaseline demo` in a process of its own."""

    def __init__(
        self, folder: Path, prefix: str, *options: str, positions: int, epochs: int, retrieval: int, more: str = ""
    ) -> None:
        self.output = folder / "output"
        config = write_config(folder, prefix, SETTINGS.format(epochs=epochs, retrieval=retrieval, more=more))
        command = [
            sys.executable,
            "-m",
            "iocs",
            "demo",
            "--config",
            str(config),
            "--output",
            str(self.output),
            *options,
        ]
        self.process = subprocess.Popen(
            [*command, "--positions", str(positions)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.lines: list[str] = []
        self._stage = threading.Condition()
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def wait_stage(self, stage: str) -> None:
        with self._stage:
            reached = self._stage.wait_for(
                lambda: f"demo: {stage}" in self.lines or not self._thread.is_alive(), TIMEOUT_S
            )
        assert reached, "\n".join(self.lines)
        assert f"demo: {stage}" in self.lines, "\n".join(self.lines)

    def finish(self) -> tuple[int, dict[str, Any]]:
        try:
            status = self.process.wait(TIMEOUT_S)
        finally:
            self.process.kill()
            self._thread.join()
            assert self.process.stdout is not None
            self.process.stdout.close()
        return status, json.loads((self.output / "report.json").read_text())

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._stage:
                self.lines.append(line.rstrip())
                self._stage.notify_all()
        with self._stage:
            self._stage.notify_all()


def _command(*words: str) -> str:
    """What a command-line client prints."""
    environment = os.environ | {"CAPROTO_DEFAULT_TIMEOUT": f"{PATIENCE_S}"}
    done = subprocess.run(words, capture_output=True, text=True, timeout=2 * PATIENCE_S, check=False, env=environment)
    assert done.returncode == 0, f"{words}: {done.stderr}"
    return done.stdout


def _python(code: str) -> str:
    return _command(sys.executable, "-W", "ignore", "-c", code).strip()


def _look_on(prefix: str) -> None:
    """Read and write PVs with clients that this project did not write."""
    tools = Path(sys.executable).parent
    loss = f"{prefix}Train:Epochs"
    assert loss in _command(str(tools / "caproto-get"), "--no-repeater", loss)
    _command(str(tools / "caproto-put"), "--no-repeater", f"{prefix}Edge:MaxWait", "7")
    patient = f"timeout={PATIENCE_S}, connection_timeout={PATIENCE_S}"
    assert _python(f"import epics; print(epics.caget('{prefix}Edge:MaxWait', {patient}))") == "7.0"
    assert _python(f"import epics; print(epics.caput('{prefix}Edge:MaxWait', 6, wait=True, {patient}))") == "1"
    p4p = (sys.executable, "-W", "ignore", "-m", "p4p.client.cli", "-w", str(PATIENCE_S))
    assert "6" in _command(*p4p, "get", f"{prefix}Edge:MaxWait")
    patient = f"timeout={PATIENCE_S}"
    put = f"from p4p.client.thread import Context; c = Context('pva'); c.put('{prefix}Edge:MaxWait', 5, {patient})"
    assert _python(f"{put}; print(float(c.get('{prefix}Edge:MaxWait', {patient})))") == "5.0"
    count = f"{prefix}Workflow:Ioc:Heartbeat"
    monitored = f"import epics, time; s = []; p = epics.PV('{count}', callback=lambda value, **k: s.append(value))"
    patience = f"end = time.time() + {PATIENCE_S}\nwhile len(set(s)) < 2 and time.time() < end: epics.poll(0.05)"
    assert int(_python(f"{monitored}\n{patience}\nprint(len(set(s)))")) >= 2
    channel = f"import pvaccess; c = pvaccess.Channel('{prefix}Det:Pva1:Image'); c.setTimeout({PATIENCE_S}.0)"
    shape = f"{channel}; d = c.get('field(dimension)')['dimension']"
    assert _python(f"{shape}; print([x['size'] for x in d])") == "[64, 64]"


def test_the_whole_loop_runs_and_nothing_is_lost(tmp_path: Path) -> None:
    prefix = f"D{os.getpid()}:"
    demo = Demo(tmp_path, prefix, "--poison", positions=150, epochs=30, retrieval=20)
    demo.wait_stage("reconstruct 1")
    try:
        _look_on(prefix)
    finally:
        status, report = demo.finish()
    log = (demo.output / "iocs.log").read_text()
    assert status == 0, "\n".join(demo.lines) + log[-3000:]
    assert report["failed"] is None
    assert report["frames_sent"] == 150 * 4 + 900
    assert report["frames_predicted"] == report["frames_sent"] - 150
    assert report["frames_missed"] == report["frames_dropped"] == 0
    assert report["val_loss_v2"] <= report["val_loss_v1"]
    assert report["refused"].startswith("version 3 refused: validation loss")
    assert -1 <= report["map_correlation_v1"] <= 1
    # the IOC weighs by illumination, which does not travel with the pictures that the demo compares (0.035 measured)
    compared = [report[f"map_correlation_v{version}"] for version in (1, 2)]  # of the scan, or of its replay
    assert min(abs(report["live_correlation"] - one) for one in compared) < 0.07
    assert report["swap_gap_frames"] > 0
    assert {"start", "scan 3", "train 2", "total"} <= report["seconds"].keys()
    for picture in ("frame", "reconstruction", "live-maps", "losses"):
        assert (demo.output / f"{picture}.png").read_bytes().startswith(b"\x89PNG")
    assert "Traceback" not in log


def test_a_candidate_that_the_gate_refuses_ends_the_demo_with_the_reason(tmp_path: Path) -> None:
    demo = Demo(tmp_path, f"G{os.getpid()}:", positions=60, epochs=2, retrieval=4, more="gate_margin = 0.999")
    status, report = demo.finish()
    assert status == 1
    assert "version 2 never went live: refused" in report["failed"]
    assert any("refused" in line for line in demo.lines)


@pytest.mark.parametrize("scan", ["missing.h5", "text.h5"])
def test_a_scan_file_that_cannot_be_replayed_gives_one_line(tmp_path: Path, scan: str) -> None:
    (tmp_path / "text.h5").write_text("no scan")
    done = subprocess.run(
        [sys.executable, "-m", "iocs", "demo", "--scan", str(tmp_path / scan), "--output", str(tmp_path / "output")],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 1
    assert scan in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_folder_that_holds_something_else_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    done = subprocess.run(
        [sys.executable, "-m", "iocs", "demo", "--output", str(tmp_path)],
        capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "holds something else" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
