"""Models that are published quantized, exported: FP8 (DeepSeek V3), MXFP4 (gpt-oss)."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from exported import change_json, planned, written
from gguf import GGMLQuantizationType, GGUFReader, dequantize
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from tiny import TINY, make
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from exporter.errors import RunError
from exporter.llamacpp import Engine, Shape
from exporter.quantize import quantize

BLOCK = 32
Tensors = dict[str, torch.Tensor]


def store(run: Path, tensors: Tensors, settings: dict[str, object] | None = None) -> Path:
    """Write a run's weights anew, and how they are quantized."""
    save_file(tensors, run / "model.safetensors", {"format": "pt"})
    change_json(run / "config.json", quantization_config=settings)
    return run


def contents(file: Path) -> dict[str, tuple[str, NDArray[np.float32]]]:
    """The type and the numbers of each tensor."""
    found = GGUFReader(file).tensors
    return {t.name: (t.tensor_type.name, np.array(dequantize(t.data, t.tensor_type))) for t in found}


def test_fp8_in_blocks_is_exported_as_what_it_dequantizes_to(tmp_path: Path) -> None:
    one, other = make("deepseek3", tmp_path / "fp8" / "run"), make("deepseek3", tmp_path / "plain" / "run")
    stored, plain = load_file(one / "model.safetensors"), Tensors()
    for name, weight in list(stored.items()):
        if not re.search(r"(?<!embed_tokens)(?<!lm_head)(?<!gate)\.weight$", name) or weight.dim() == 1:
            continue
        rows, columns = weight.shape
        scales = torch.rand(-(-rows // 16), -(-columns // 16)) + 0.5
        small = (weight * 100).to(torch.float8_e4m3fn)
        wide = scales.repeat_interleave(16, 0).repeat_interleave(16, 1)[:rows, :columns]
        plain[name] = small.float() * wide
        stored |= {name: small, f"{name}_scale_inv": scales}
    assert len(plain) > 20
    store(one, stored, {"quant_method": "fp8", "weight_block_size": [16, 16], "fmt": "e4m3"})
    store(other, load_file(other / "model.safetensors") | plain)
    made = [written(run, run.parent)[1]["f32"].read_bytes() for run in (one, other)]
    assert made[0] == made[1]


def mxfp4_experts(run: Path) -> tuple[Tensors, Tensors]:
    """A gpt-oss checkpoint whose experts are random blocks of MXFP4, and the same in float32 as transformers has it."""
    generator = torch.Generator().manual_seed(3)
    packed, plain = Tensors(), load_file(run / "model.safetensors")
    for name, weight in plain.items():
        if not name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            packed[name] = weight
            continue
        experts, inputs, outputs = weight.shape
        blocks = torch.randint(0, 256, (experts, outputs, inputs // BLOCK, 16), generator=generator, dtype=torch.uint8)
        scales = torch.randint(118, 124, (experts, outputs, inputs // BLOCK), generator=generator, dtype=torch.uint8)
        blocks[0, :3] &= 0x11  # blocks of small numbers, and of zeros alone
        blocks[0, 0] = 0
        packed |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
        plain[name] = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32).contiguous()
    return packed, plain


SETTINGS: dict[str, object] = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn"]}


def test_mxfp4_experts_keep_their_values(tmp_path: Path) -> None:
    run, other = make("gptoss", tmp_path / "packed" / "run"), make("gptoss", tmp_path / "plain" / "run")
    packed, plain = mxfp4_experts(run)
    store(run, packed, SETTINGS)
    store(other, plain)
    _, files = written(run, run.parent, ("f32", "mxfp4_moe"))
    assert files["f32"].read_bytes() == written(other, other.parent)[1]["f32"].read_bytes()
    whole, kept = contents(files["f32"]), contents(files["mxfp4_moe"])
    experts = [name for name in kept if "_exps.weight" in name]
    assert len(experts) == 3 * TINY["gptoss"].config["num_hidden_layers"]
    for name in experts:
        assert kept[name][0] == "MXFP4"
        assert np.array_equal(kept[name][1], whole[name][1])
    for layer in range(2):  # in the checkpoint's own numbers
        of_layer = f"model.layers.{layer}.mlp.experts"
        both = plain[f"{of_layer}.gate_up_proj"].transpose(1, 2).numpy()
        assert np.array_equal(kept[f"blk.{layer}.ffn_gate_exps.weight"][1], both[:, ::2])
        assert np.array_equal(kept[f"blk.{layer}.ffn_up_exps.weight"][1], both[:, 1::2])
        down = plain[f"{of_layer}.down_proj"].transpose(1, 2).numpy()
        assert np.array_equal(kept[f"blk.{layer}.ffn_down_exps.weight"][1], down)
    types = {kind for name, (kind, _) in kept.items() if name not in experts}
    assert types == {"F32", "Q8_0"}
    with Engine(files["mxfp4_moe"]) as engine:
        engine.start(Shape(8, 8, 8, 1))
        assert engine.decode(np.arange(8, dtype=np.int32), 0) == 8


def test_every_block_of_mxfp4_keeps_its_values() -> None:
    """Whatever its exponent and its largest number: where that is small, a smaller exponent holds the same."""
    generator = np.random.default_rng(5)
    numbers = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
    rows = [
        np.ldexp(numbers[generator.integers(0, largest + 1, BLOCK)] * generator.choice([-1, 1], BLOCK), exponent)
        for exponent in range(-120, 120)
        for largest in range(8)
    ]
    blocks = np.array(rows, np.float32)
    back = dequantize(quantize("MXFP4", blocks).reshape(len(blocks), -1), GGMLQuantizationType.MXFP4)
    assert np.array_equal(back, blocks)


def test_published_yarn_of_gpt_oss_is_a_warning(tmp_path: Path) -> None:
    run = make("gptoss", tmp_path / "run")
    rounds = "llama.cpp rounds the two dimensions"
    assert not any(rounds in warning for warning in planned(run, "f32").warnings)
    scaling = json.loads((run / "config.json").read_text())["rope_scaling"]
    change_json(run / "config.json", rope_scaling=scaling | {"truncate": False})
    assert any(rounds in warning for warning in planned(run, "f32").warnings)


@pytest.mark.parametrize("level", ["f32", "q8_0"])
def test_deepseek_v2_with_groups_of_experts_is_refused(level: str, tmp_path: Path) -> None:
    run = make("deepseek2", tmp_path / "run")
    change_json(run / "config.json", n_group=2, topk_group=1, topk_method="group_limited_greedy")
    with pytest.raises(RunError, match=r"n_group is 2; llama\.cpp computes deepseek2 only with 1"):
        planned(run, level)
