"""An export that is interrupted: status 130, and nothing that is unfinished."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from exported import COMMAND, change_json
from tiny import make


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 52 million weights: all levels at once take it many seconds."""
    import torch  # noqa: PLC0415
    from safetensors.torch import load_file, save_file  # noqa: PLC0415

    run = make("llama", tmp_path_factory.mktemp("wide") / "run")
    weights = {name: tensor.to(torch.bfloat16) for name, tensor in load_file(run / "model.safetensors").items()}
    wide = torch.randn((64, 131_072), generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    for layer in (0, 1):
        for name, tensor in (("gate_proj", wide.T), ("up_proj", wide.T), ("down_proj", wide)):
            weights[f"model.layers.{layer}.mlp.{name}.weight"] = tensor.clone(memory_format=torch.contiguous_format)
    save_file(weights, run / "model.safetensors", {"format": "pt"})
    change_json(run / "config.json", intermediate_size=131_072)
    return run


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_while_writing_leaves_nothing(sent: signal.Signals, wide: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    levels = "q2_k,q3_k_m,q4_0,q4_k_m,q5_0,q5_k_m,q6_k"
    command = [*COMMAND, "export", str(wide), "--quant", levels, "--threads", "1", "--out", str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stderr is not None
        first = child.stderr.readline()
        assert len(list(out.glob("*.partial"))) == 7
        begin = time.monotonic()
        child.send_signal(sent)
        printed, rest = child.communicate(timeout=60)
    assert first.startswith("write: ")
    assert (child.returncode, printed) == (130, "")
    assert rest.splitlines()[-1] == "interrupted: what was finished and has its name is kept, what was not is removed"
    assert "Traceback" not in rest
    assert not out.exists()
    assert time.monotonic() - begin < 30


@pytest.mark.parametrize("step", ["prove", "measure"])
def test_an_interrupt_later_keeps_what_is_finished(step: str, tmp_path: Path) -> None:
    run, out = make("llama", tmp_path / "run"), tmp_path / "out"
    command = [*COMMAND, "export", str(run), "--quant", "q8_0,q4_0", "--threads", "1", "--out", str(out)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as child:
        assert child.stderr is not None
        while not child.stderr.readline().startswith(f"{step}: "):
            pass
        os.killpg(child.pid, signal.SIGINT)  # as a terminal does: llama.cpp's processes are told too
        printed, rest = child.communicate(timeout=60)
    assert (child.returncode, printed) == (130, "")
    assert rest.splitlines()[-1] == "interrupted: what was finished and has its name is kept, what was not is removed"
    finished = {"run-139K-Q8_0.gguf", "run-139K-Q4_0.gguf", "report.json", "report.md", "report.html"}
    assert {file.name for file in out.glob("*")} == (finished if step == "measure" else set())
