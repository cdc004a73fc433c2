"""A run whose files change while it is read: nothing is made of two states of it, and no hash is of another file."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from adapters import write_adapter
from checkpoints import opened
from exported import COMMAND, change_json
from safetensors.torch import load_file, save_file
from tiny import make

from exporter import Options, export, load_profile
from exporter.checkpoint import write_checkpoint
from exporter.cli import cli, main
from exporter.errors import OutputError, RunError
from exporter.inputs import hash_inputs

ADAPTER = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, and an adapter over it."""
    folder = tmp_path_factory.mktemp("made")
    write_adapter(folder / "run", make("llama", folder / "base"), {})
    return folder


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    change_json(tmp_path / "run" / "adapter_config.json", base_model_name_or_path=str(tmp_path / "base"))
    return tmp_path / "run"


def replace(file: Path) -> None:
    """Save other tensors, as trainers do: beside the file, then under its name."""
    other = file.with_name("other")
    save_file({name: tensor * 5 for name, tensor in load_file(file).items()}, other, {"format": "pt"})
    other.replace(file)


CHANGES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "the adapter": (f"run/{ADAPTER}", replace),
    "its settings": ("run/adapter_config.json", lambda file: change_json(file, lora_alpha=80)),
    "the base": ("base/model.safetensors", replace),
    "the base's settings": ("base/config.json", lambda file: change_json(file, rms_norm_eps=1e-3)),
    "a file that was not there": ("run/tokenizer_config.json", lambda file: file.write_text("{}")),
    "a time alone": ("base/config.json", os.utime),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_hashed_is_what_was_opened(change: str, run: Path) -> None:
    name, apply = CHANGES[change]
    one, source = opened(run, run.parent / "base")
    assert hash_inputs(one, source).keys() == {run, run.parent / "base"}
    apply(run.parent / name)
    with pytest.raises(RunError, match=f"{name}: changed while it was read, .*; nothing was written. Run again when"):
        hash_inputs(one, source)
    hash_inputs(*opened(run, run.parent / "base"))


def test_a_file_that_is_gone_is_named(run: Path) -> None:
    one, source = opened(run, run.parent / "base")
    (run / ADAPTER).unlink()
    with pytest.raises(OutputError, match=rf"{ADAPTER}: cannot be read any more, to hash it \(No such file"):
        hash_inputs(one, source)


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_while_writing_ends_a_merge(change: str, run: Path, tmp_path: Path) -> None:
    name, apply = CHANGES[change]
    one, source = opened(run, tmp_path / "base")

    def progress(done: int, total: int) -> None:
        if done == total:
            apply(tmp_path / name)

    with pytest.raises(RunError, match=f"{name}: changed while it was read"):
        write_checkpoint(one, source, tmp_path / "out", progress=progress)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_while_writing_ends_an_export(change: str, run: Path, tmp_path: Path) -> None:
    name, apply = CHANGES[change]

    def progress(step: str, done: int, total: int) -> None:
        if step == "write" and done == total:
            apply(tmp_path / name)

    with pytest.raises(RunError, match=f"{name}: changed while it was read"):
        export(str(run), [load_profile("f32")], tmp_path / "out", options=Options(verify=False), progress=progress)
    assert not (tmp_path / "out").exists()


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A command that fails at a file, or at what has no name."""

    def fails(file: str) -> None:
        if file:
            Path(file).read_bytes()
        raise OSError(12, "Cannot allocate memory")

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setitem(
        cli.commands, "fails", type(cli.commands["plan"])("fails", callback=fails, params=[click.Argument(["file"])])
    )
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("failing")
@pytest.mark.parametrize(("file", "shown"), [("nowhere", "nowhere"), ("", "a file")])
def test_a_file_that_fails_is_not_taken_for_stdout(
    file: str, shown: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["ggufx", "fails", file])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: {shown}: cannot be read or written (")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("words", [("profiles",), ("profiles", "--json"), ("--help",), ("report", "--help")])
def test_a_stdout_that_is_full_is_named(words: tuple[str, ...]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*COMMAND, *words], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "error: stdout: No space left on device. What was made is made.\n")
