"""Files of tensors: whole, in shards, or PyTorch's own; damaged ones, and those that disagree, are refused."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from adapters import finished, source_of, write_adapter
from stored import equal_weights, expected_weights
from tiny import make

from converters.spec import HEAD
from exporter.errors import SourceError
from exporter.source.files import open_file, open_model


@pytest.mark.parametrize("shards", [1, 2])
def test_bin_files_equal_safetensors(shards: int, tmp_path: Path) -> None:
    from safetensors.torch import load_file  # noqa: PLC0415

    folder = make("llama", tmp_path, dtype="bfloat16", shards=shards)
    for file in list(folder.glob("model*.safetensors")):
        name = file.name.replace("model", "pytorch_model").replace(".safetensors", ".bin")
        torch.save(load_file(file), folder / name, _use_new_zipfile_serialization=shards == 1)
        file.unlink()
    if shards == 2:
        index = (folder / "model.safetensors.index.json").read_text()
        (folder / "model.safetensors.index.json").unlink()
        renamed = index.replace('"model-', '"pytorch_model-').replace(".safetensors", ".bin")
        (folder / "pytorch_model.bin.index.json").write_text(renamed)
    assert equal_weights(finished(source_of(folder)), expected_weights("llama", "bfloat16"))


class Trap:
    """An object that would write a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return (Path.touch, (self._file,))


@pytest.mark.parametrize("way", ["torch.save", "old torch.save", "pickle"])
@pytest.mark.parametrize("where", ["model", "adapter"])
def test_a_pickle_that_runs_code_is_refused_and_does_not(where: str, way: str, tmp_path: Path) -> None:
    base, sprung = make("llama", tmp_path / "base"), tmp_path / "sprung"
    value = {"model.embed_tokens.weight": torch.zeros(2, 2), "trap": Trap(sprung)}
    run = write_adapter(tmp_path / "run", base, {}) if where == "adapter" else base
    (run / f"{where}{'_model' if where == 'adapter' else ''}.safetensors").unlink()
    file = run / ("adapter_model.bin" if where == "adapter" else "pytorch_model.bin")
    if way == "pickle":
        file.write_bytes(pickle.dumps(value, protocol=2))
    else:
        torch.save(value, file, _use_new_zipfile_serialization=way == "torch.save")
    with pytest.raises(SourceError, match=r"_model.bin: cannot be read as tensors alone.*safetensors"):
        source_of(run)
    assert not sprung.exists()


@pytest.mark.parametrize("content", [b"", b"no pickle", b"PK\x03\x04 no zip", pickle.dumps([1, 2], protocol=2)])
def test_a_broken_bin_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(SourceError, match=r"pytorch_model.bin: (cannot be read|holds something else).*safetensors"):
        open_model(tmp_path)


def test_a_bin_of_something_else_than_tensors_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": torch.zeros(1)}}, tmp_path / "pytorch_model.bin")
    with pytest.raises(SourceError, match=r"holds something else than named tensors"):
        open_model(tmp_path)
    torch.save({"a": torch.zeros(3, dtype=torch.complex64)}, tmp_path / "adapter_model.bin")
    with pytest.raises(SourceError, match=r"a is stored as torch.complex64; only F32, F16, BF16"):
        open_file(tmp_path / "adapter_model.bin")


def _shards(folder: Path) -> tuple[Path, dict[str, str]]:
    """A model in two shards, and the map of its index."""
    make("llama", folder, shards=2)
    index = folder / "model.safetensors.index.json"
    return index, json.loads(index.read_text())["weight_map"]


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    index, _ = _shards(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(SourceError, match=r"names model-00002-of-00002.safetensors, which is not in the folder"):
        source_of(tmp_path)
    index.unlink()
    with pytest.raises(SourceError, match=r"1 of 2 shards are there .*model-00001-of-00002.*Copy the missing"):
        source_of(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model.norm.weight": None}, "model.norm.weight is in a shard, but not in the index.*another save"),
        ({"model.norm.bias": "model-00001-of-00002.safetensors"}, "model.norm.bias is not in the shard"),
        ({"model.norm.weight": "model-00001-of-00002.safetensors"}, "model.norm.weight is not in the shard"),
        ({"model.norm.weight": 7}, "(names 7|is no index|not in the folder)"),
    ],
)
def test_an_index_that_disagrees_with_its_shards_is_refused(
    change: dict[str, str | None], message: str, tmp_path: Path
) -> None:
    index, places = _shards(tmp_path)
    assert places["model.norm.weight"] == "model-00002-of-00002.safetensors"
    changed = {name: file for name, file in (places | change).items() if file is not None}
    index.write_text(json.dumps({"weight_map": changed}))
    with pytest.raises(SourceError, match=message):
        source_of(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"weight_map": 3}', '{"metadata": {}}', '{"weight_map": {}}'])
def test_an_index_that_is_none_is_refused(text: str, tmp_path: Path) -> None:
    index, _ = _shards(tmp_path)
    index.write_text(text)
    with pytest.raises(SourceError, match=r"index.json: is no index|holds no model.embed_tokens.weight"):
        source_of(tmp_path)


def test_a_name_in_two_shards_is_refused(tmp_path: Path) -> None:
    index, _ = _shards(tmp_path)
    index.unlink()
    shutil.copy(tmp_path / "model-00001-of-00002.safetensors", tmp_path / "model-00002-of-00002.safetensors")
    with pytest.raises(SourceError, match=r"is stored in model-00001-of-00002.safetensors too. Remove the stray"):
        source_of(tmp_path)


def test_two_saves_in_one_folder_are_refused(tmp_path: Path) -> None:
    index, places = _shards(tmp_path)
    make("llama-tied", tmp_path)
    with pytest.raises(SourceError, match=r"model.safetensors.index.json that names other files: two saves"):
        source_of(tmp_path)
    index.write_text(json.dumps({"weight_map": {name: "model.safetensors" for name in places if name != HEAD}}))
    assert source_of(tmp_path, None).tied


@pytest.mark.parametrize("kept", [0, 5, 300, -1])
def test_a_truncated_file_is_refused(kept: int, tmp_path: Path) -> None:
    file = make("llama", tmp_path) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(SourceError, match=rf"is no whole safetensors file.*\({file.stat().st_size:,} bytes\). Copy it"):
        source_of(tmp_path)
