"""What an edge device has: no p4p, no PyTorch. The edge IOC serves its controls over Channel Access alone."""

import os
import subprocess
import sys
from pathlib import Path

from harness import Process, write_config

WITHOUT = (
    "import sys; sys.modules.update(dict.fromkeys({missing!r})); from iocs.cli import main; sys.exit(main({words!r}))"
)
PATIENCE_S = 600.0
HEAVY = ("torch", "torchvision", "ptychi", "onnx", "openvino", "matplotlib", "pebble")


def _python(code: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == status, done.stderr
    return done


def test_the_edge_serves_without_p4p_and_pytorch(tmp_path: Path) -> None:
    prefix = f"L{os.getpid()}:"
    words = ["ioc", "edge", "--config", str(write_config(tmp_path, prefix))]
    code = WITHOUT.format(missing=("p4p", *HEAVY), words=words)
    edge = Process([sys.executable, "-c", code], tmp_path / "edge.log")
    try:
        edge.wait_line(lambda line: "serving" in line)
        patient = "patient = {'timeout': 45, 'connection_timeout': 45}"
        read = f"print(epics.caget('{prefix}Edge:State', as_string=True, **patient))"
        put = f"name = '{prefix}Edge:BatchSize'; print(epics.caput(name, 4, wait=True, **patient))"
        again = "print(epics.caget(name, use_monitor=False, **patient))"
        done = _python(f"import epics; {patient}\n{read}\n{put}\n{again}")
    finally:
        status = edge.stop()
    assert done.stdout.split("\n")[:3] == ["No model", "1", "4"]
    assert status == 0


def test_a_missing_library_is_one_line_that_names_the_extra(tmp_path: Path) -> None:
    words = ["status", "--config", str(write_config(tmp_path, f"M{os.getpid()}:"))]
    code = WITHOUT.format(missing=("p4p", "p4p.client", "p4p.client.thread"), words=words)
    done = _python(code, status=1)
    assert done.stderr.strip() == "phaseline: p4p is not installed: pip install 'phaseline[pva]'"


def test_the_iocs_load_no_heavy_library_of_their_own() -> None:
    code = (
        f"import sys, iocs.edge, iocs.detector, iocs.workflow; print([m for m in {HEAVY[:-1]!r} if m in sys.modules])"
    )
    done = _python(code)
    assert done.stdout.strip() == "[]"
