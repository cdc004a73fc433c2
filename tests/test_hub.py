"""Runs given by a Hub id: what they are called, and which part of a repository in the cache is enough. No network."""

import json
import shutil
from pathlib import Path

import pytest
from adapters import write_adapter
from tiny import make

from exporter import Options, export, load_profile
from exporter.errors import RunError
from exporter.run import open_run

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "hub"


def cached(cache: Path, name: str) -> Path:
    """The folder in the cache of a repository's newest commit."""
    repository = cache / f"models--{name.replace('/', '--')}"
    folder = repository / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    return folder


def test_a_run_of_the_hub_is_called_as_its_repository(cache: Path, tmp_path: Path) -> None:
    folder = make("llama", cached(cache, "org/My-Model-7B"))
    run = open_run("org/My-Model-7B")
    assert (run.name, str(run.path), run.folder, run.base_name) == (
        *("My-Model-7B", "org/My-Model-7B"),
        *(folder, "org/My-Model-7B"),
    )
    options = Options(verify=False)
    document, out = export(
        "org/My-Model-7B", [load_profile("q8_0")], None, options=options, progress=lambda _step, _done, _total: None
    )
    assert out == tmp_path / "My-Model-7B-gguf"
    assert document["levels"][0]["file"].startswith("My-Model-")
    assert COMMIT not in document["levels"][0]["file"]


def test_an_adapter_of_the_hub_is_called_as_its_repository(cache: Path, tmp_path: Path) -> None:
    base = make("llama", tmp_path / "Tiny-Llama")
    write_adapter(cached(cache, "org/My-LoRA"), base, {})
    write_adapter(cached(cache, "org/lora"), base, {})
    assert open_run("org/My-LoRA").name == "My-LoRA"
    assert open_run("org/lora").name == "org"  # as of a folder whose own name says nothing


@pytest.mark.parametrize(
    "missing", ["model.safetensors", "model-00002-of-00002.safetensors", "adapter_model.safetensors"]
)
def test_a_cache_that_holds_a_part_is_not_enough(missing: str, cache: Path, tmp_path: Path) -> None:
    base, folder = make("llama", tmp_path / "Tiny-Llama"), cached(cache, "org/part")
    if missing.startswith("adapter"):
        (write_adapter(folder, base, {}) / missing).unlink()
    else:
        shutil.copytree(base, folder, dirs_exist_ok=True)
        weights = folder / "model.safetensors"
        weights.rename(folder / "model-00001-of-00002.safetensors") if "00002" in missing else weights.unlink()
    with pytest.raises(RunError, match=rf"org/part: neither the Hub's cache .*{COMMIT}.*with all its weights"):
        open_run("org/part")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(RunError, match=r"org/part: neither the Hub's cache"):
        open_run("org/part")


def test_files_of_pytorch_in_the_cache_are_enough(cache: Path) -> None:
    import torch  # noqa: PLC0415
    from safetensors.torch import load_file  # noqa: PLC0415

    folder = make("llama", cached(cache, "org/old"))
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert open_run("org/old").folder == folder


def test_a_name_that_no_folder_can_have_is_refused() -> None:
    with pytest.raises(RunError, match=r"x: no folder can have this name \(File name too long\)"):
        open_run("x" * 300)
