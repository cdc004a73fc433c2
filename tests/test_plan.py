"""Plans: every decision before a weight is read, in agreement with the files that are then written."""

import json
import os
import re
import time
from pathlib import Path
from typing import Literal

import pytest
from exported import change_json, planned, written
from tiny import TINY, make

from exporter.errors import GgufxError, PlanError, SourceError
from exporter.plan import row_bytes
from exporter.profiles import profile_names

LEVELS = profile_names()
DTYPE: dict[str, Literal["float32", "float16", "bfloat16"]] = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def edit_weights(run: Path, removed: str | None = None, **changed: tuple[str, tuple[int, ...]]) -> None:
    """Remove a tensor, or put one of another shape (by any key: its name, its shape)."""
    import torch  # noqa: PLC0415
    from safetensors.torch import load_file, save_file  # noqa: PLC0415

    tensors = load_file(run / "model.safetensors")
    if removed is not None:
        del tensors[removed]
    tensors |= {name: torch.zeros(shape) for name, shape in changed.values()}
    save_file(tensors, run / "model.safetensors", {"format": "pt"})


# The reference that levels are measured against.


@pytest.mark.parametrize(
    ("stored", "levels", "reference"),
    [
        ("BF16", ("q4_k_m",), "bf16"),
        ("F32", ("q4_k_m",), "bf16"),
        ("F16", ("q4_k_m", "q8_0"), "f16"),
        ("F16", ("f16", "q8_0"), "f16"),
        ("F16", ("bf16",), "f16"),
        ("BF16", ("f16",), "bf16"),
        ("BF16", ("q8_0", "bf16"), "bf16"),
        ("F16", ("q8_0", "f32"), "f32"),
        ("BF16", ("f32", "bf16"), "f32"),
    ],
)
def test_the_reference_is_of_the_stored_type(
    stored: str, levels: tuple[str, ...], reference: str, tmp_path: Path
) -> None:
    run = make("qwen2", tmp_path / "run", dtype=DTYPE[stored])
    plan = planned(run, *levels, verify=True)
    assert plan.reference == reference
    assert [output.level for output in plan.outputs] == [*levels, *({reference} - set(levels))]
    assert plan.levels == len(levels)
    alone = planned(run, *levels)
    assert (alone.reference, [output.level for output in alone.outputs]) == (None, list(levels))


def test_one_weight_of_another_type_makes_the_reference_bf16(tmp_path: Path) -> None:
    run = make("qwen2", tmp_path / "run", dtype="float16")
    edit_weights(run, norm=("model.norm.weight", (64,)))
    assert planned(run, "q8_0", verify=True).reference == "bf16"


# Sizes and places.


@pytest.mark.parametrize("name", ["llama", "llama-256", "llama3", "mixtral-fused", "gemma3-vision"])
def test_sizes_are_those_of_the_files(name: str, tmp_path: Path) -> None:
    plan, files = written(make(name, tmp_path / "run"), tmp_path / "out", LEVELS)
    for k, (output, file) in enumerate(zip(plan.outputs, files.values(), strict=True)):
        assert output.bytes == file.stat().st_size, output.level
        assert output.header_bytes % 32 == 0
        ends = [0]
        for job in plan.jobs:
            assert job.offsets[k] == -(-ends[-1] // 32) * 32
            ends.append(job.offsets[k] + job.weights // job.shape[-1] * row_bytes(job.types[k], job.shape[-1]))
        assert output.data_bytes == -(-ends[-1] // 32) * 32
        assert plan.types(k) == {kind: plan.types(k)[kind] for kind in {job.types[k] for job in plan.jobs}}
        assert sum(plan.types(k).values()) == sum(job.weights for job in plan.jobs)
    assert plan.bits_per_weight(LEVELS.index("f32")) == 32.0


def test_files_are_named_by_the_convention(tmp_path: Path) -> None:
    plan = planned(make("llama", tmp_path / "SmolLM2 chat"), "q4_k_m", "bf16")
    assert [output.file for output in plan.outputs] == ["SmolLM2-chat-139K-Q4_K_M.gguf", "SmolLM2-chat-139K-BF16.gguf"]
    # https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, "Validating Above Naming Convention"
    convention = re.compile(
        r"^(?P<BaseName>[A-Za-z0-9\s]*(?:(?:-(?:(?:[A-Za-z\s][A-Za-z0-9\s]*)|(?:[0-9\s]*)))*))-"
        r"(?:(?P<SizeLabel>(?:\d+x)?(?:\d+\.)?\d+[A-Za-z](?:-[A-Za-z]+(\d+\.)?\d+[A-Za-z]+)?)"
        r"(?:-(?P<FineTune>[A-Za-z0-9\s-]+))?)?-(?:(?P<Version>v\d+(?:\.\d+)*))(?:-(?P<Encoding>(?!LoRA|vocab)[\w_]+))?"
        r"(?:-(?P<Type>LoRA|vocab))?(?:-(?P<Shard>\d{5}-of-\d{5}))?\.gguf$"
    )
    file = planned(make("llama", tmp_path / "Tiny-7B-Chat-v0.1"), "q4_k_m").outputs[0].file
    found = convention.match(file)
    assert found is not None
    assert (found["BaseName"], found["SizeLabel"], found["Version"], found["Encoding"]) == (
        *("Tiny", "139K", "v0.1", "Q4_K_M"),
    )


# Substitutions.


def test_substitutes_are_listed_and_can_be_refused(tmp_path: Path) -> None:
    run = make("llama", tmp_path / "run")
    plan = planned(run, "q4_k_m", "q8_0")
    listed = {one.tensor: (one.wanted, one.got, one.why) for one in plan.fallbacks(0)}
    assert listed["blk.0.attn_q.weight"] == ("Q4_K", "Q5_0", "row of 64")
    assert listed["blk.0.ffn_down.weight"] == ("Q4_K", "Q5_0", "row of 160")
    assert listed["output.weight"] == ("Q6_K", "Q8_0", "row of 64")
    kinds = {job.tensor: job.types for job in plan.jobs}
    assert all(kinds[tensor][0] == got for tensor, (_, got, _) in listed.items())
    assert plan.fallbacks(1) == ()
    with pytest.raises(PlanError, match=r"q4_k_m: .* cannot be \w+ \(row of \d+\) .* --no-fallback"):
        planned(run, "q8_0", "q4_k_m", fallbacks=False)
    assert planned(run, "q8_0", fallbacks=False) == planned(run, "q8_0")
    whole = make("llama-256", tmp_path / "whole")
    assert planned(whole, "q4_k_m", fallbacks=False).fallbacks(0) == ()


# What does not fit is refused by name.

WRONG: dict[str, tuple[str, dict[str, object], str]] = {
    "a layer too many": ("llama", {"num_hidden_layers": 1}, r"model\.layers\.1\.\S+ .* not in a llama of 1 layers"),
    "a layer too few": ("llama", {"num_hidden_layers": 3}, r"model\.layers\.2\.\S+ is missing"),
    "an expert too many": ("qwen3moe", {"num_experts": 3}, r"experts\.3\.\S+ .* is in the model, but not in"),
    "an expert too few": ("qwen3moe", {"num_experts": 5}, r"experts\.4\.\S+ is missing"),
    "inner width": ("llama", {"intermediate_size": 128}, r"mlp\.\w+\.weight is \[\d+, \d+\], config\.json makes it"),
    "width": ("llama", {"hidden_size": 128}, r"is \[\d+, 64\], config\.json makes it \[\d+, 128\]"),
    "heads": ("llama", {"num_attention_heads": 8}, r"q_proj\.weight is \[64, 64\], config\.json makes it \[128, 64\]"),
    "key heads": ("qwen2", {"num_key_value_heads": 4}, r"k_proj\.\w+ is \[32.*\], config\.json makes it \[64"),
    "head width": ("llama", {"head_dim": 32}, r"q_proj\.weight is \[64, 64\], config\.json makes it \[128, 64\]"),
    "expert width": ("mixtral-fused", {"intermediate_size": 96}, r"experts\.0\.w\d\.weight is \[4, \d+, \d+\]"),
    "shared width": (
        "qwen2moe",
        {"shared_expert_intermediate_size": 96},
        r"shared_expert\.\w+\.weight is \[\d+, \d+\]",
    ),
    "norm width": ("gemma3", {"head_dim": 64, "query_pre_attn_scalar": 64}, r"is \[\d+, 64\], config\.json makes it"),
    "a vocabulary beyond the rows": ("llama-linear", {}, r"embedding has 300 rows"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_config_of_another_model_is_refused(name: str, tmp_path: Path) -> None:
    tiny, changes, message = WRONG[name]
    run = make(tiny, tmp_path / "run")
    change_json(run / "config.json", **changes)
    if not changes:
        edit_weights(run, e=("model.embed_tokens.weight", (300, 64)), h=("lm_head.weight", (300, 64)))
    with pytest.raises(GgufxError, match=message):
        planned(run, "q4_k_m")


@pytest.mark.parametrize(
    ("name", "weight"),
    [
        ("llama", "model.layers.1.self_attn.v_proj.weight"),
        ("llama-bias", "model.layers.1.self_attn.k_proj.bias"),
        ("qwen2", "model.layers.0.self_attn.q_proj.bias"),
        ("qwen3", "model.layers.0.self_attn.q_norm.weight"),
        ("gemma3", "model.layers.6.pre_feedforward_layernorm.weight"),
        ("mixtral", "model.layers.0.block_sparse_moe.experts.2.w3.weight"),
        ("qwen2moe-fused", "model.layers.1.mlp.experts.down_proj"),
        ("llama", "model.norm.weight"),
        ("llama", "lm_head.weight"),
        ("llama", "model.embed_tokens.weight"),
    ],
)
def test_a_missing_weight_is_refused_by_name(name: str, weight: str, tmp_path: Path) -> None:
    run = make(name, tmp_path / "run")
    edit_weights(run, removed=weight)
    named = re.escape(weight) + (r"|experts\.0\.down_proj\.weight" if weight.endswith("experts.down_proj") else "")
    with pytest.raises(GgufxError, match=named):
        planned(run, "q4_k_m")


NOT_AS_LARGE = r"(is|are) \[.*, (config\.json makes it|the other experts are) \["
NOT_AS_LARGE += r"|expected one of the last two axes to be"
NOT_AS_LARGE += r"|heads.* make \d+ rows\. config\.json is another model's"
NOT_AS_LARGE += r"|equal parts\. config\.json is another model's"


@pytest.mark.parametrize("name", TINY)
def test_each_tensors_shape_is_compared_with_the_config(name: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file  # noqa: PLC0415

    run = make(name, tmp_path / "run")
    stored = load_file(run / "model.safetensors")
    left_out = ("vision_tower.", "multi_modal_projector.", "model.vision_tower.", "model.multi_modal_projector.")
    left_out += ("model.embed_vision.", "model.embed_audio.", "model.audio_tower.")
    left_out += ("visual.", "model.visual.", "mtp.", "model.mtp.", "vision_model.")
    kinds = {re.sub(r"\d+", "#", key): key for key in sorted(stored, reverse=True)}  # the first of each
    for weight in [key for key in kinds.values() if not key.startswith(left_out)]:
        if weight.endswith(("embed_tokens.weight", "lm_head.weight")) or ".layers.3." in weight:
            continue  # compared with each other; a layer behind the last is left out
        if weight.endswith(".attn.bias"):
            continue  # a mask that GPT-2's checkpoints hold
        if name == "cohere2-bias" and weight.endswith(".bias"):
            continue  # zeros, which are not written
        cut = 2 if stored[weight].shape[-1] > 2 else 1  # two, as some are two weights in turn
        short = stored | {weight: stored[weight][..., :-cut].contiguous()}
        save_file(short, run / "model.safetensors", {"format": "pt"})
        with pytest.raises((PlanError, SourceError), match=NOT_AS_LARGE):
            planned(run, "q8_0")


def test_experts_of_different_shapes_are_refused(tmp_path: Path) -> None:
    run = make("mixtral", tmp_path / "run")
    edit_weights(run, expert=("model.layers.0.block_sparse_moe.experts.2.w1.weight", (80, 64)))
    with pytest.raises(PlanError, match=r"experts\.2\.w1\.weight is \[80, 64\], the other experts are \[160, 64\]"):
        planned(run, "q4_k_m")


# No tensor is read.

SHAPES_70B = {
    "self_attn.q_proj.weight": (8192, 8192),
    "self_attn.k_proj.weight": (1024, 8192),
    "self_attn.v_proj.weight": (1024, 8192),
    "self_attn.o_proj.weight": (8192, 8192),
    "mlp.gate_proj.weight": (28672, 8192),
    "mlp.up_proj.weight": (28672, 8192),
    "mlp.down_proj.weight": (8192, 28672),
    "input_layernorm.weight": (8192,),
    "post_attention_layernorm.weight": (8192,),
}


def write_holes(file: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """A safetensors file in bf16 with nothing on the disk but its header."""
    head, end = {}, 0
    for name, shape in shapes.items():
        size = 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        head[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(head).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text)
    os.truncate(file, 8 + len(text) + end)


def test_a_plan_of_70_billion_weights_reads_none_of_them(tmp_path: Path) -> None:
    run = make("llama3", tmp_path / "run")
    (run / "model.safetensors").unlink()
    sizes = {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "head_dim": 128}
    change_json(run / "config.json", **sizes, num_attention_heads=64, num_key_value_heads=8, tie_word_embeddings=False)
    ends = {"model.embed_tokens.weight": (312, 8192), "model.norm.weight": (8192,), "lm_head.weight": (312, 8192)}
    layers = [{f"model.layers.{i}.{name}": shape for name, shape in SHAPES_70B.items()} for i in range(80)]
    for k in range(10):
        shapes = {name: shape for layer in layers[8 * k : 8 * k + 8] for name, shape in layer.items()}
        write_holes(run / f"model-{k + 1:05}-of-00010.safetensors", shapes | (ends if k == 0 else {}))
    planned(run, "q8_0")  # what is imported is not counted
    begin = time.perf_counter()
    plan = planned(run, "q4_k_m", "q8_0", verify=True)
    took = time.perf_counter() - begin
    assert plan.parameters == pytest.approx(68.45e9, rel=1e-3)
    assert [output.level for output in plan.outputs] == ["q4_k_m", "q8_0", "bf16"]
    assert plan.outputs[0].bytes == pytest.approx(41.2e9, rel=0.02)
    # The 70B rule of llama.cpp's profile: values shared by eight queries are worth another type.
    assert next(job.types[0] for job in plan.jobs if job.tensor == "blk.20.attn_v.weight") == "Q5_K"
    assert took < 2
