"""The benchmarks still find what they measure."""

import json
import subprocess
import sys
from pathlib import Path

from adapters import load, train
from tiny import make

ROOT = Path(__file__).resolve().parents[1]


def test_every_step_of_the_writer_is_timed(tmp_path: Path) -> None:
    base = make("llama", tmp_path / "base")
    run = train(load(base), tmp_path / "run", target_modules=["q_proj"])
    out = tmp_path / "out"
    out.mkdir()
    command = [sys.executable, "-m", "benchmarks.write", run, out, "q8_0", "--threads", "1", "--steps"]
    told = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    figures = json.loads(told.stdout)
    assert all(seconds > 0 for seconds in figures["steps_cpu_s"].values())
    assert figures["output_bytes"] == sum(file.stat().st_size for file in out.iterdir())
