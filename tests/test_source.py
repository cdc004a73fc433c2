"""Stored tensors: in whatever files, layout or type they lie, the same weights come out, or a message says why not."""

import json
import os
import pickle
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, get_args

import pytest
import torch
from adapters import finished, source_of, write_adapter
from tiny import TINY, make, weights
from tiny.values import Array

from converters.spec import EMBEDDING, HEAD
from exporter.errors import PlanError, SourceError
from exporter.plan.tensors import lay_out
from exporter.run import open_run
from exporter.source.files import open_file, open_model

Weights = Mapping[str, torch.Tensor]
Dtype = Literal["float32", "float16", "bfloat16"]
# Our spelling of the names that `tiny.weights` gives to Mixtral's experts.
EXPERTS = {".mlp.": ".block_sparse_moe.", ".gate_proj.": ".w1.", ".down_proj.": ".w2.", ".up_proj.": ".w3."}


def _load(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file  # noqa: PLC0415

    return load_file(folder / "model.safetensors")


def _save(tensors: Weights, folder: Path) -> Path:
    from safetensors.torch import save_file  # noqa: PLC0415

    save_file({name: tensor.clone() for name, tensor in tensors.items()}, folder / "model.safetensors")
    return folder


def _expected(name: str, dtype: str) -> dict[str, torch.Tensor]:
    """The weights of a tiny model as its generator gives them, rounded to a type, in our spelling."""
    kind: torch.dtype = getattr(torch, dtype)
    found = {}
    for key, array in weights(name).items():
        ours = key.removeprefix("language_model.")
        for old, new in EXPERTS.items() if TINY[name].config["model_type"] == "mixtral" and ".mlp." in key else ():
            ours = ours.replace(old, new)
        if TINY[name].layout == "turned" and ".experts." in key and array.ndim == 3:
            found |= {k: torch.from_numpy(v).to(kind).to(torch.float32) for k, v in _experts(key, array).items()}
        elif not key.startswith(("vision_tower.", "vision_model.", "multi_modal_projector.", "model.visual.")):
            found[ours] = torch.from_numpy(array).to(kind).to(torch.float32)
    return found


def _experts(key: str, array: Array) -> dict[str, Array]:
    """Each expert's matrices of a tensor (experts, inputs, outputs); gpt-oss has gate and up in turn."""
    stem, _, joined = key.rpartition(".")
    made = {}
    for e, matrix in enumerate(array.transpose(0, 2, 1)):
        half = len(matrix) // 2
        gate_up = (matrix[::2], matrix[1::2]) if ".mlp." in key else (matrix[:half], matrix[half:])
        parts = (matrix,) if joined == "down_proj" else gate_up
        made |= {f"{stem}.{e}.{p}_proj.weight": v.copy() for p, v in zip(joined[:-5].split("_"), parts, strict=True)}
    return made


def _equal(found: Weights, expected: Weights) -> bool:
    return found.keys() == expected.keys() and all(found[key].equal(expected[key]) for key in expected)


LEFT_OUT = {
    **{
        f"qwen{name}": {"vision tower"}
        for name in ("2vl", "2.5vl", "2.5vl-yarn", "3vl", "3vlmoe", "3vlmoe-v5", "35moe")
    },
    **{f"mistral3{kind}": {"vision tower", "vision projector"} for kind in ("", "-v5", "-ministral")},
    "qwen35": {"vision tower", "multi-token prediction"},
    "qwen3next": {"multi-token prediction"},
}


# Families whose generated names are not our spelling: their tensors are compared with llama.cpp's converter.
OTHERWISE = (
    "gemma3n-vision",
    "gemma4-moe",
    "gemma4-vision",
    "internlm2",
    "exaone",
    "exaone-untied",
    "gpt2",
    "gpt2-bare",
)
OTHERWISE += (
    "gpt2-head",
    "gptneox",
    "gptneox-pythia",
    "cohere2-bias",
    "granitemoe",
    "granitemoe-v5",
    "granitemoe-shared",
)
OTHERWISE += ("deepseek3-mtp",)  # the run says what is left out


@pytest.mark.parametrize("name", [name for name in TINY if name not in OTHERWISE])
def test_every_layout_gives_the_models_weights(name: str, tmp_path: Path) -> None:
    source = source_of(make(name, tmp_path, dtype="bfloat16"))
    expected = _expected(name, "bfloat16")
    assert _equal(finished(source, rows=1 << 20), expected)
    assert source.shapes() == {key: tuple(tensor.shape) for key, tensor in expected.items()}
    assert source.tied == (HEAD not in expected)
    assert source.dtypes() == {"BF16"}
    usual = {"vision tower", "vision projector"} if "vision" in name else set()
    assert set(source.left_out) == LEFT_OUT.get(name, usual)


@pytest.mark.parametrize("dtype", get_args(Dtype))
@pytest.mark.parametrize("name", ["llama", "mixtral-fused"])
def test_rows_equal_the_whole_in_every_type(name: str, dtype: Dtype, tmp_path: Path) -> None:
    source = source_of(make(name, tmp_path, dtype=dtype))
    expected = _expected(name, dtype)
    for rows in (1, 64, 100):
        assert _equal(finished(source, rows=rows), expected)
    assert all(source.read(key, 0, size[0]).dtype == torch.float32 for key, size in source.shapes().items())


@pytest.mark.parametrize("name", ["mixtral", "mixtral-experts", "mixtral-fused", "gemma3-vision"])
@pytest.mark.parametrize("indexed", [True, False])
def test_shards_equal_one_file(name: str, indexed: bool, tmp_path: Path) -> None:  # noqa: FBT001
    folder = make(name, tmp_path, dtype="float16", shards=3)
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    files = [{file for key, file in index.items() if f".layers.{i}." in key and ".experts." in key} for i in (0, 1)]
    assert name in {"gemma3-vision", "mixtral-fused"} or max(map(len, files)) > 1  # a layer's experts are apart
    if not indexed:
        (folder / "model.safetensors.index.json").unlink()
    source = source_of(folder)
    assert _equal(finished(source), _expected(name, "float16"))
    assert len([file for file in source.files() if file.suffix == ".safetensors"]) == 3


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
    assert _equal(finished(source_of(folder)), _expected("llama", "bfloat16"))


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


U8 = torch.zeros(64, 32, dtype=torch.uint8)
# What a stored model may hold over its tensors -> what the message must say.
STORED: tuple[tuple[dict[str, torch.Tensor], str], ...] = (
    ({"model.layers.0.self_attn.q_proj.weight": U8}, "q_proj.weight is stored as U8; only F32, F16, BF16.*--base"),
    ({"model.layers.0.self_attn.q_proj.weight_scale": torch.ones(1)}, r"q_proj.weight_scale \[1\] has no place"),
    ({"visual.patch_embed.weight": torch.ones(2, 2)}, r"visual.patch_embed.weight \[2, 2\] has no place"),
)


@pytest.mark.parametrize(("tensors", "message"), STORED)
def test_a_stored_tensor_without_use_is_refused(tensors: Weights, message: str, tmp_path: Path) -> None:
    make("llama", tmp_path)
    _save({**_load(tmp_path), **tensors}, tmp_path)
    with pytest.raises(SourceError, match=message):
        source_of(tmp_path)


def test_buffers_of_old_checkpoints_are_passed_over(tmp_path: Path) -> None:
    make("llama", tmp_path)
    _save({**_load(tmp_path), "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}, tmp_path)
    assert _equal(finished(source_of(tmp_path)), _expected("llama", "float32"))


def test_a_weight_stored_under_two_names_is_refused(tmp_path: Path) -> None:
    make("mixtral", tmp_path)
    stored = _load(tmp_path)
    gate = stored["model.layers.1.block_sparse_moe.gate.weight"]
    _save({**stored, "model.layers.1.mlp.gate.weight": gate}, tmp_path)
    with pytest.raises(SourceError, match=r"layers.1.block_sparse_moe.gate.weight is stored twice, as .* and as"):
        source_of(tmp_path)
    fused = _load(make("mixtral-fused", tmp_path / "fused"))["model.layers.0.mlp.experts.down_proj"]
    _save({**stored, "model.layers.0.mlp.experts.down_proj": fused}, tmp_path)
    with pytest.raises(SourceError, match=r"experts.\d.w2.weight is stored twice"):
        source_of(tmp_path)


@pytest.mark.parametrize("shape", [(4, 319, 64), (4, 0, 64), (10**9, 320, 0), (2**16 + 1, 2, 1)])
def test_fused_experts_of_another_shape_are_refused(shape: tuple[int, ...], tmp_path: Path) -> None:
    name = "model.layers.0.mlp.experts.gate_up_proj"
    _save({**_load(make("mixtral-fused", tmp_path)), name: torch.zeros(shape)}, tmp_path)
    found = re.escape(str(list(shape)))
    with pytest.raises(SourceError, match=rf"{name}: has shape {found}, expected \(experts, 2 x rows, columns\)"):
        source_of(tmp_path)


def test_a_folder_whose_name_is_not_in_utf_8_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"run\\xff/model\.safetensors: this path is not in UTF-8.* Rename"):
        source_of(make("llama", tmp_path / os.fsdecode(b"run\xff")))


def test_a_vocabulary_is_as_long_as_the_embedding(tmp_path: Path) -> None:
    make("llama-tied", tmp_path)
    stored = _load(tmp_path)
    _save({**stored, EMBEDDING: stored[EMBEDDING][:100]}, tmp_path)
    assert source_of(tmp_path).shapes()[EMBEDDING] == (100, 64)


def test_what_is_no_shard_or_no_file_is_named(tmp_path: Path) -> None:
    folder = make("llama", tmp_path)
    (folder / "model.safetensors").rename(folder / "model-best-of-all.safetensors")
    with pytest.raises(SourceError, match=r"holds no weights. Expected model.safetensors"):
        open_model(folder)
    os.mkfifo(folder / "model.safetensors")
    with pytest.raises(SourceError, match=r"model.safetensors: is no file, expected one of tensors"):
        open_model(folder)


@pytest.mark.parametrize(("name", "field"), [("llama", "num_hidden_layers"), ("mixtral", "num_local_experts")])
def test_more_layers_or_experts_than_weights_are_refused(name: str, field: str, tmp_path: Path) -> None:
    file = make(name, tmp_path) / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {field: 2**31 - 1}))
    run = open_run(tmp_path)
    with pytest.raises(PlanError, match=r"tells of .* the model has only \d+ weights"):
        lay_out(run.family, run.config, source_of(tmp_path).shapes())
