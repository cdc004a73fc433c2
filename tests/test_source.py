"""Stored tensors: in whatever layout or type they lie, the same weights come out, or a message says why not."""

import json
import os
import re
from pathlib import Path
from typing import get_args

import pytest
import torch
from adapters import finished, source_of
from stored import Dtype, Weights, equal_weights, expected_weights, load_stored, save_stored
from tiny import TINY, make

from converters.spec import EMBEDDING, HEAD
from exporter.errors import PlanError, SourceError
from exporter.plan.tensors import lay_out
from exporter.run import open_run
from exporter.source.files import open_model

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
    expected = expected_weights(name, "bfloat16")
    assert equal_weights(finished(source, rows=1 << 20), expected)
    assert source.shapes() == {key: tuple(tensor.shape) for key, tensor in expected.items()}
    assert source.tied == (HEAD not in expected)
    assert source.dtypes() == {"BF16"}
    usual = {"vision tower", "vision projector"} if "vision" in name else set()
    assert set(source.left_out) == LEFT_OUT.get(name, usual)


@pytest.mark.parametrize("dtype", get_args(Dtype))
@pytest.mark.parametrize("name", ["llama", "mixtral-fused"])
def test_rows_equal_the_whole_in_every_type(name: str, dtype: Dtype, tmp_path: Path) -> None:
    source = source_of(make(name, tmp_path, dtype=dtype))
    expected = expected_weights(name, dtype)
    for rows in (1, 64, 100):
        assert equal_weights(finished(source, rows=rows), expected)
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
    assert equal_weights(finished(source), expected_weights(name, "float16"))
    assert len([file for file in source.files() if file.suffix == ".safetensors"]) == 3


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
    save_stored({**load_stored(tmp_path), **tensors}, tmp_path)
    with pytest.raises(SourceError, match=message):
        source_of(tmp_path)


def test_buffers_of_old_checkpoints_are_passed_over(tmp_path: Path) -> None:
    make("llama", tmp_path)
    save_stored({**load_stored(tmp_path), "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}, tmp_path)
    assert equal_weights(finished(source_of(tmp_path)), expected_weights("llama", "float32"))


def test_a_weight_stored_under_two_names_is_refused(tmp_path: Path) -> None:
    make("mixtral", tmp_path)
    stored = load_stored(tmp_path)
    gate = stored["model.layers.1.block_sparse_moe.gate.weight"]
    save_stored({**stored, "model.layers.1.mlp.gate.weight": gate}, tmp_path)
    with pytest.raises(SourceError, match=r"layers.1.block_sparse_moe.gate.weight is stored twice, as .* and as"):
        source_of(tmp_path)
    fused = load_stored(make("mixtral-fused", tmp_path / "fused"))["model.layers.0.mlp.experts.down_proj"]
    save_stored({**stored, "model.layers.0.mlp.experts.down_proj": fused}, tmp_path)
    with pytest.raises(SourceError, match=r"experts.\d.w2.weight is stored twice"):
        source_of(tmp_path)


@pytest.mark.parametrize("shape", [(4, 319, 64), (4, 0, 64), (10**9, 320, 0), (2**16 + 1, 2, 1)])
def test_fused_experts_of_another_shape_are_refused(shape: tuple[int, ...], tmp_path: Path) -> None:
    name = "model.layers.0.mlp.experts.gate_up_proj"
    save_stored({**load_stored(make("mixtral-fused", tmp_path)), name: torch.zeros(shape)}, tmp_path)
    found = re.escape(str(list(shape)))
    with pytest.raises(SourceError, match=rf"{name}: has shape {found}, expected \(experts, 2 x rows, columns\)"):
        source_of(tmp_path)


def test_a_folder_whose_name_is_not_in_utf_8_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"run\\xff/model\.safetensors: this path is not in UTF-8.* Rename"):
        source_of(make("llama", tmp_path / os.fsdecode(b"run\xff")))


def test_a_vocabulary_is_as_long_as_the_embedding(tmp_path: Path) -> None:
    make("llama-tied", tmp_path)
    stored = load_stored(tmp_path)
    save_stored({**stored, EMBEDDING: stored[EMBEDDING][:100]}, tmp_path)
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
