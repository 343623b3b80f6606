"""The example pipeline runs up to the engine on a machine without a GPU."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from onnxprune import model as models
from onnxprune.sparse.eligibility import layers

EXAMPLE = Path(__file__).parents[2] / "examples" / "tensorrt" / "pipeline.sh"


@pytest.mark.skipif(shutil.which("bash") is None, reason="the example is a bash script")
def test_the_pipeline_prunes_judges_and_builds(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="pip install 'onnxprune[tensorrt-rtx]'")
    if shutil.which("nvidia-smi"):
        pytest.skip("with a GPU the example goes on, and needs its whole stack")
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [str(shutil.which("bash")), str(EXAMPLE), str(tmp_path)],
        check=False,  # what it said is shown below
        capture_output=True,
        text=True,
        env=os.environ | {"PATH": tools, "QUICK": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert "no NVIDIA GPU here" in done.stdout
    sparse = models.load(tmp_path / "sparse.onnx")
    states = [each.state for each in layers(sparse)]
    assert states.count("eligible") >= 10
    assert states.count("dense") == 0
    small, large = (tmp_path / f"{name}.engine" for name in ("sparse", "dense"))
    assert 0 < small.stat().st_size < large.stat().st_size
