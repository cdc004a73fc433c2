"""`ggufx merge --out`: files that appear whole and proved or not at all, in slices, beside nothing else."""

import json
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import load, one_thread, train, write_adapter
from checkpoints import write
from click.testing import CliRunner, Result
from exported import COMMAND, change_json
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny import make

from exporter.checkpoint.plan import Part, Shard, Tensor
from exporter.checkpoint.write import Reading, pieces, slices, write_shards
from exporter.cli import cli
from exporter.errors import GgufxError, OutputError, PlanError, ProofError, RunError, WeightError
from exporter.run import open_run

__all__ = ["one_thread"]


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return {name: make(name, folder / name) for name in ("llama",)}


def test_the_tokenizer_is_the_runs_and_the_template_stays(tmp_path: Path) -> None:
    base = make("llama", tmp_path / "base")
    change_json(base / "tokenizer_config.json", chat_template="{{ messages }}")
    run = write_adapter(tmp_path / "run", base, {})
    tokenizer = (base / "tokenizer.json").read_bytes() + b"\n"
    (run / "tokenizer.json").write_bytes(tokenizer)
    write(run, base, tmp_path / "out")
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == tokenizer
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == "{{ messages }}"
    (run / "additional_chat_templates").mkdir()
    (run / "additional_chat_templates" / "tool.jinja").write_text("tools")
    (run / "chat_template.jinja").write_text("mine")
    write(run, base, tmp_path / "two")
    files = {
        name: (tmp_path / "two" / name).read_text()
        for name in ("chat_template.jinja", "additional_chat_templates/tool.jinja")
    }
    assert list(files.values()) == ["mine", "tools"]
    with pytest.raises(OutputError, match="exists already"):
        write(run, base, tmp_path / "two")
    (tmp_path / "three").mkdir()
    tensors = load_file(base / "model.safetensors")
    tensors["model.norm.weight"][0] = float("inf")
    save_file(tensors, base / "model.safetensors")
    with pytest.raises(WeightError):
        write(run, base, tmp_path / "three")
    assert list((tmp_path / "three").iterdir()) == []


@pytest.mark.parametrize(
    ("value", "dtype", "message"),
    [
        (70000.0, "f16", "q_proj.weight: holds 70000, and F16 ends at 65504. Merge with --dtype bf16"),
        (float("nan"), "bf16", "q_proj.weight: holds NaN or infinity"),
        (3.4e38, "bf16", "q_proj.weight: holds 3.4e.38, and BF16 ends at 3.38"),
    ],
)
def test_a_value_beyond_the_type_is_refused(value: float, dtype: str, message: str, tmp_path: Path) -> None:
    base = make("llama", tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    tensors["model.layers.1.self_attn.q_proj.weight"][3, 5] = value
    save_file(tensors, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(WeightError, match=message):
        write(write_adapter(tmp_path / "run", base, {}), base, tmp_path / "out", dtype=dtype)
    assert not (tmp_path / "out").exists()


OTHERS = (
    "adapter_config.json",
    "model-00001-of-00002.safetensors",
    "pytorch_model.bin",
    "model.safetensors.index.json",
    "added_tokens.json",
    "chat_template.jinja",
    "merges.txt",
    "preprocessor_config.json",
    "additional_chat_templates/tool.jinja",
)


@pytest.mark.parametrize("name", OTHERS)
def test_a_folder_with_another_model_is_refused(name: str, bases: dict[str, Path], tmp_path: Path) -> None:
    run, out = write_adapter(tmp_path / "run", bases["llama"], {}), tmp_path / "out"
    (out / name).parent.mkdir(parents=True)
    (out / name).write_text("{}")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match=rf"{name}: is of another model or adapter; readers .*\. Move it away"):
            write(run, bases["llama"], out, overwrite=overwrite)
    assert [file for file in out.glob("**/*") if file.is_file()] == [out / name]


def test_what_exists_is_replaced_only_if_asked(bases: dict[str, Path], tmp_path: Path) -> None:
    run, out = write_adapter(tmp_path / "run", bases["llama"], {}), tmp_path / "out"
    write(run, bases["llama"], out)
    before = (out / "model.safetensors").stat().st_ino
    with pytest.raises(OutputError, match="exists already, and 6 more"):
        write(run, bases["llama"], out)
    assert (out / "model.safetensors").stat().st_ino == before
    write(run, bases["llama"], out, overwrite=True)
    assert (out / "model.safetensors").stat().st_ino != before
    for read in (run, bases["llama"]):
        with pytest.raises(OutputError, match="the run is read from this folder"):
            write(run, bases["llama"], read, overwrite=True)


def test_a_wrong_file_is_not_named(bases: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_adapter(tmp_path / "run", bases["llama"], {})
    right = Reading.__init__

    def wrong(self: Reading, finished: Any, stored: Any) -> None:  # noqa: ANN401
        right(self, lambda *rows: finished(*rows) + 0.01, stored)

    monkeypatch.setattr(Reading, "__init__", wrong)
    with pytest.raises(ProofError, match="of the merged checkpoint are not the finished ones, rounded to BF16"):
        write(run, bases["llama"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_interrupted_merge_leaves_nothing(tmp_path: Path) -> None:
    base = make("llama", tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    for layer in (0, 1):
        for part in ("gate_proj", "up_proj"):
            tensors[f"model.layers.{layer}.mlp.{part}.weight"] = torch.zeros(262_144, 64)
        tensors[f"model.layers.{layer}.mlp.down_proj.weight"] = torch.zeros(64, 262_144)
    save_file(tensors, base / "model.safetensors", {"format": "pt"})
    change_json(base / "config.json", intermediate_size=262_144)
    run, out = write_adapter(tmp_path / "run", base, {}), tmp_path / "out"
    command = [*COMMAND, "merge", str(run), "--base", str(base), "--out", str(out), "--dtype", "f32"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stderr is not None
        assert child.stderr.readline().startswith("write: ")
        assert [file.name for file in out.glob("*.partial")] == ["model.safetensors.partial"]
        child.send_signal(signal.SIGINT)
        printed, rest = child.communicate(timeout=60)
    assert (child.returncode, printed) == (130, "")
    assert "Traceback" not in rest
    assert not out.exists()


def test_no_more_than_a_slice_is_read(tmp_path: Path) -> None:
    """A matrix of 80 MB in float32 is asked for in slices of about eight."""
    asked: list[tuple[str, int]] = []

    def read(name: str, start: int, stop: int) -> torch.Tensor:
        asked.append((name, (stop - start) * 1000))
        return torch.full((stop - start, 1000), float(start % 7))

    whole = Tensor("a", (20_000, 1000), "BF16", (Part("a", 0, 20_000),))
    fused = Tensor("b", (3, 400, 1000), "BF16", tuple(Part(f"b.{k}", 200 * k, 200) for k in range(6)))
    shard = Shard("model.safetensors", (whole, fused))
    write_shards([shard], [tmp_path / shard.file], Reading(read, read), lambda *_: None)
    assert max(size for _, size in asked) <= 2_200_000
    assert sum(size for _, size in asked) == 21_200_000
    assert (tmp_path / shard.file).stat().st_size == shard.bytes
    assert load_file(tmp_path / shard.file)["b"].shape == fused.shape


@pytest.mark.parametrize(("rows", "columns"), [(1, 5), (63, 5), (64, 40_000), (200, 40_000), (130, 1 << 22), (7, 1)])
def test_slices_cover_every_row_once(rows: int, columns: int) -> None:
    parts = list(slices(rows, columns))
    assert [row for start, stop in parts for row in range(start, stop)] == list(range(rows))
    assert all(stop - start >= min(64, rows) for start, stop in parts)


def test_a_file_is_aligned_and_read_by_safetensors(tmp_path: Path) -> None:
    wide = Tensor("wide", (3, 2), "F32", (Part("wide", 0, 3),))
    odd = Tensor("odd", (5,), "U8")
    values = {"wide": torch.arange(6.0).reshape(3, 2), "odd": torch.arange(5, dtype=torch.uint8)}
    reading = Reading(*2 * (lambda name, start, stop: values[name][start:stop],))
    write_shards([Shard("x", (wide, odd))], [tmp_path / "x"], reading, lambda *_: None)
    with safe_open(tmp_path / "x", framework="pt") as opened:
        assert opened.metadata() == {"format": "pt"}
        assert all(opened.get_tensor(name).equal(tensor) for name, tensor in values.items())
    assert int.from_bytes((tmp_path / "x").read_bytes()[:8], "little") % 8 == 0
    assert [piece.dtype for piece in pieces(wide, reading)] == [torch.float32]


def command(*words: object) -> Result:
    return CliRunner().invoke(cli, ["merge", *map(str, words)])


def test_the_command(bases: dict[str, Path], tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    train(load(bases["llama"]), run, target_modules=["q_proj"])
    run_and_base = (run, "--base", bases["llama"], "--quiet")
    checked = command(*run_and_base, "--check")
    assert checked.exit_code == 0
    assert checked.stdout.splitlines()[0] == "merge: pass"
    lines = [line.split() for line in checked.stdout.splitlines()]
    assert ["self_attn.q_proj", "2", "of", "2", "2", "of", "2"] in [line[:7] for line in lines]
    assert json.loads(command(*run_and_base, "--check", "--json").stdout)["status"] == "pass"
    told = command(*run_and_base, "--out", tmp_path / "told").stdout
    assert re.search(r"^\d+ of 21 weights read back from the new files \(first and last rows\)", told, re.MULTILINE)
    made = command(*run_and_base, "--out", out, "--json")
    assert json.loads(made.stdout)["folder"] == str(out)
    assert command(*run_and_base, "--out", out, "--overwrite").stdout.splitlines()[-1] == str(out)
    for words in ((), ("--out", out, "--check")):
        refused = command(*run_and_base, *words)
        assert refused.exit_code == 2
        assert "Give either --out DIR or --check, one of the two." in refused.stderr
    assert isinstance(command(tmp_path / "nothing", "--check").exception, GgufxError)
    with pytest.raises(RunError):
        open_run(out, base=str(bases["llama"]))


def test_weights_that_config_json_denies_are_refused(tmp_path: Path) -> None:
    base = make("llama", tmp_path / "base")
    run = train(load(base), tmp_path / "run", target_modules=["q_proj"])
    change_json(base / "config.json", intermediate_size=96)
    for words in (("--out", tmp_path / "out"), ("--check",)):
        refused = command(run, "--base", base, "--quiet", *words)
        assert isinstance(refused.exception, PlanError)
        assert "(160, 64)" in str(refused.exception) or "[160, 64]" in str(refused.exception)
    assert not (tmp_path / "out").exists()
