import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "torchvision", "ptychi", "onnx", "onnxruntime", "openvino", "matplotlib", "tike", "tensorrt")


def python(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_pvdb_needs_nothing_but_the_standard_library() -> None:
    """-I and -S hide every installed package and the working directory."""
    code = f"import sys; sys.path.append({str(ROOT)!r}); import pvdb, pvdb.reference; print(len(pvdb.IOCS))"
    assert python("-I", "-S", "-c", code).strip() == "3"


@pytest.mark.parametrize("module", ["pvdb", "iocs.config", "hpc_bridge", "phasing", "opi.main_screen"])
def test_a_light_module_imports_no_heavy_library(module: str) -> None:
    code = f"import sys, {module}; print(*sorted(set({HEAVY!r}) & set(sys.modules)))"
    assert python("-c", code).split() == []


def test_the_reference_is_printed_or_written(tmp_path: Path) -> None:
    path = tmp_path / "pvs.md"
    assert python("-m", "pvdb", str(path)) == ""
    assert python("-m", "pvdb") == path.read_text(encoding="utf-8")
