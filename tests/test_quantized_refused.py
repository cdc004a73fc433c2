"""Stored quantized weights whose settings, parts or values are not known are refused by name."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from quantized_files import GOLDEN, Settings, case_of, random, stored

from exporter.errors import SourceError

Parts = Mapping[str, torch.Tensor | None]


def refused(
    name: str, folder: Path, message: str, *, settings: Settings | None = None, parts: Parts | None = None
) -> None:
    """A golden file is refused with other settings, or other parts (None takes one away)."""
    tensors, case = case_of(name)
    there = {part: tensor for part, tensor in {**tensors, **(parts or {})}.items() if tensor is not None}
    with pytest.raises(SourceError, match=message):
        stored(there, case["settings"] | (settings or {}), folder)


REFUSED: list[tuple[str, Settings, str]] = [
    ("gptq_4", {"quant_method": "hqq"}, r"quant_method is 'hqq'; read are: bitsandbytes, fp8"),
    ("gptq_4", {"quant_method": None}, r"quant_method is None; read are"),
    ("gptq_4", {"hadamard": True}, r"hadamard is an unknown field \(its value: True\)"),
    ("gptq_4", {"bits": 5}, r"quantization_config\.bits is 5; read are: 2, 3, 4, 8"),
    ("gptq_4", {"bits": True}, r"quantization_config\.bits is True"),
    ("gptq_4", {"bits": None}, r"quantization_config\.bits is None, expected a whole number"),
    ("gptq_4", {"checkpoint_format": "marlin"}, r"checkpoint_format is 'marlin'; read are: 'gptq', 'gptq_v2'"),
    ("gptq_4", {"is_marlin_format": True}, r"is_marlin_format is True"),
    ("gptq_4", {"dynamic": {r"+:.*down.*": {"bits": 8}}}, r"dynamic gives some modules settings of their own"),
    ("gptq_4", {"bits": 4.0}, r"quantization_config\.bits is 4\.0"),
    ("gptq_4", {"group_size": 64}, r"x\.scales is F32 \[3, 64\], expected F16 or BF16 or F32 \[2, 64\]"),
    ("gptq_4", {"group_size": 0}, r"x\.qweight is \[12, 64\], which is no 4-bit weight in groups of 0"),
    ("awq", {"version": "gemv"}, r"version is 'gemv'; read are: 'gemm'"),
    ("awq", {"backend": "llm-awq"}, r"backend is 'llm-awq'"),
    ("awq", {"bits": 8}, r"bits is 8; read are: 4"),
    ("awq", {"group_size": 48}, r"x\.qweight is \[64, 5\], which is no weight in groups of 48"),
    ("ct_int4", {"format": "marlin-24"}, r"format is 'marlin-24'"),
    ("ct_int4", {"quantization_status": "initialized"}, r"quantization_status is 'initialized'"),
    ("ct_int4", {"sparsity_config": {"format": "sparse-24-bitmask"}}, r"sparsity_config is "),
    ("ct_int4", {"transform_config": {"config_groups": {"u": {"type": "hadamard"}}}}, r"transform_config is "),
    ("ct_int4", {"config_groups": None}, r"config_groups is None"),
    ("bnb_nf4", {"blocks": 32}, r"blocks is an unknown field"),
]


@pytest.mark.parametrize(("name", "change", "message"), REFUSED, ids=[f"{one[0]}-{one[1]}" for one in REFUSED])
def test_settings_that_are_not_read(name: str, change: Settings, message: str, tmp_path: Path) -> None:
    refused(name, tmp_path, f"^base: .*{message}.*--base DIR_OR_ID", settings=change)


SCHEMES = [
    ({"num_bits": 16}, r"weights\.num_bits is 16"),
    ({"num_bits": 4, "type": "float"}, r"weights is float of 4 bits"),
    ({"strategy": "tensor_group"}, r"weights\.strategy is 'tensor_group'"),
    ({"strategy": "channel"}, r"x\.weight_scale has shape \[40, 3\], expected one for each 1 x 96"),
    ({"group_size": 16}, r"x\.weight_scale has shape \[40, 3\], expected one for each 1 x 16"),
    ({"symmetric": False}, r"x\.weight_zero_point is missing"),
    ({"num_bits": 8}, r"x\.weight_packed is I32 \[40, 12\], expected I32 \[40, 24\]"),
    ({"dynamic": True}, r"weights\.dynamic is True"),
    ({"rotation": 1}, r"weights\.rotation is an unknown field"),
    ({"group_size": "32"}, r"group_0 has no known targets, group_size or block_structure"),
    ({"block_structure": "axb"}, r"group_0 has no known targets, group_size or block_structure"),
    ({"strategy": "block"}, r"x\.weight_scale has scales by block without a size"),
    (
        {"strategy": "block", "block_structure": "8x32"},
        r"x\.weight_scale has shape \[40, 3\], expected one for each 8 x",
    ),
]


@pytest.mark.parametrize(("change", "message"), SCHEMES, ids=[str(one[0]) for one in SCHEMES])
def test_schemes_that_are_not_read(change: Settings, message: str, tmp_path: Path) -> None:
    groups = case_of("ct_int4")[1]["settings"]["config_groups"]
    groups["group_0"]["weights"] |= change
    refused("ct_int4", tmp_path, message, settings={"config_groups": groups})


def test_a_target_that_is_no_pattern(tmp_path: Path) -> None:
    groups = case_of("ct_int4")[1]["settings"]["config_groups"]
    groups["group_0"]["targets"] = ["re:("]
    refused("ct_int4", tmp_path, r"targets holds 're:\(', no regular expression", settings={"config_groups": groups})


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    for file in GOLDEN:
        tensors, case = case_of(file.stem)
        for part in tensors:
            if case["settings"].get("desc_act") or part not in {"x.g_idx", "x.weight_format"}:
                refused(file.stem, tmp_path, r"^base: x\.", parts={part: None})


def test_a_part_of_another_shape_is_named(tmp_path: Path) -> None:
    for file in GOLDEN:
        tensors, _ = case_of(file.stem)
        for part in set(tensors) - {"x.weight_format"}:
            refused(file.stem, tmp_path, r"^base: x\.", parts={part: tensors[part].flatten()[:-1]})


def test_an_extra_part_is_named(tmp_path: Path) -> None:
    for name, extra in (("gptq_4", "y.qzeros"), ("bnb_nf4", "y.weight.absmax"), ("ct_int4", "y.weight_packed")):
        message = rf"^base: {extra} is stored as I32, and without the parts"
        refused(name, tmp_path, message, parts={extra: torch.zeros(4, dtype=torch.int32)})
    message = r"x\.weight is stored twice, plain and as x\.qweight"
    refused("gptq_4", tmp_path, message, parts={"x.weight": torch.zeros(64, 96)})
    message = r"y\.weight is stored as I8, and without the parts"
    refused("bnb_int8", tmp_path, message, parts={"y.weight": case_of("bnb_int8")[0]["x.weight"]})


def test_values_that_mean_something_else(tmp_path: Path) -> None:
    turned = case_of("bnb_nf4")[0]["x.weight"].T
    for part, value, message in (
        ("x.weight.quant_map", torch.linspace(-1, 1, 16), r"x\.weight\.quant_map is not the table of nf4"),
        ("x.weight.quant_state.bitsandbytes__nf4", torch.zeros(9, dtype=torch.uint8), r"is no known state"),
        ("x.weight", turned, r"x\.weight is U8 \[1, 1440\], expected 4 bits for each of 2,880"),
    ):
        refused("bnb_nf4", tmp_path, message, parts={part: value})
    for form in (torch.tensor(2, dtype=torch.uint8), torch.tensor([])):
        refused("bnb_int8", tmp_path, r"x\.weight_format is not 0", parts={"x.weight_format": form})
    for group, message in (
        (3, r"x\.g_idx names groups 3 to 3; there are 3"),
        (-1, r"x\.g_idx names groups -1 to -1; there are 3"),
        (0, r"x\.g_idx names not all groups, but .*desc_act"),
    ):
        order = torch.full((96,), group, dtype=torch.int32)
        refused("gptq_4_desc_act", tmp_path, message, parts={"x.g_idx": order})
    refused("gptq_4_desc_act", tmp_path, r"x\.g_idx is missing, but .*desc_act", parts={"x.g_idx": None})


def test_states_that_make_no_sense(tmp_path: Path) -> None:
    name = "x.weight.quant_state.bitsandbytes__nf4"
    state = json.loads(bytes(case_of("bnb_nf4_nested")[0][name].tolist()))
    changes: tuple[Settings, ...] = (
        {"blocksize": 0},
        {"blocksize": 12},
        {"shape": []},
        {"shape": [96, -200]},
        {"shape": "ab"},
        {"nested_blocksize": 0},
        {"nested_offset": "1"},
        {"nested_dtype": "bfloat16"},
        {"quant_type": "fp4"},
        {"rotated": True},
    )
    states = [json.dumps(state | change).encode() for change in changes]
    for octets in (*states, b"[1]", b"\xff", b"[" * 100_000, b""):
        changed = torch.tensor(list(octets), dtype=torch.uint8)
        message = r"says b'.*which is no known state of a 4-bit weight"
        refused("bnb_nf4_nested", tmp_path, message, parts={name: changed})


def test_gptq_zero_points_that_libraries_read_differently(tmp_path: Path) -> None:
    # AutoGPTQ 0.7.1: 15 + 1 is 0 in qlinear_cuda_old, and 16 in qlinear_cuda, marlin and triton.
    tensors, case = case_of("gptq_4")
    tensors["x.qzeros"][1, 2] = 0x000F0000
    files = stored(tensors, case["settings"], tmp_path)
    with pytest.raises(SourceError, match=r"^base: x\.qzeros holds a zero point of all ones.*some 16.*--base"):
        files.read("x.weight", (slice(None),))
    assert files.read("x.weight", (slice(0, 16),)).shape == (16, 96)
    second = stored(tensors, case["settings"] | {"checkpoint_format": "gptq_v2"}, tmp_path)
    assert second.read("x.weight", (slice(None),)).shape == (64, 96)


def test_fp8_that_is_not_read(tmp_path: Path) -> None:
    weight = random(48, 32).to(torch.float8_e4m3fn)
    grid = {"x.weight": weight, "x.weight_scale_inv": torch.ones(5, 3)}
    twice = {"x.weight": weight, "x.weight_scale": torch.ones(1), "x.weight_scale_inv": torch.ones(1)}
    wrong = (128, [128], [0, 128], [128.0, 128], [True, 1])
    cases: list[tuple[dict[str, torch.Tensor], Settings, str]] = [
        (grid, {"weight_block_size": [16, 16]}, r"\[5, 3\], which fits no grid over \[48, 32\] \(blocks of 16 x 16\)"),
        *((grid, {"weight_block_size": block}, r"weight_block_size is .*, expected two sizes") for block in wrong),
        (twice, {}, r"x\.weight is a part of two weights, x\.weight and x\.weight"),
        (twice, {"expert_dtype": "fp4"}, r"expert_dtype is 'fp4'; read are: 'fp8'"),
    ]
    for tensors, settings, message in cases:
        with pytest.raises(SourceError, match=message):
            stored(tensors, {"quant_method": "fp8"} | settings, tmp_path)


def test_mxfp4_that_is_not_read(tmp_path: Path) -> None:
    settings = {"quant_method": "mxfp4"}
    parts = {"x.down_proj_scales": torch.zeros(2, 8, 3, dtype=torch.uint8)}
    parts["x.down_proj_blocks"] = torch.zeros(2, 8, 3, 8, dtype=torch.uint8)
    expected = r"x\.down_proj_blocks is \[2, 8, 3, 8\], expected \(experts, outputs, blocks, 16\)"
    with pytest.raises(SourceError, match=expected):
        stored(parts, settings, tmp_path)
    parts["x.down_proj_blocks"] = torch.zeros(2, 8, 3, 16, dtype=torch.uint8)
    files = stored(parts, settings, tmp_path)
    with pytest.raises(TypeError, match=r"x\.down_proj: a quantized weight of \[2, 96, 8\] is not read by"):
        files.read("x.down_proj", (slice(0, 1),))


def test_compressed_tensors_that_are_not_read(tmp_path: Path) -> None:
    order = {"x.weight_g_idx": torch.full((96,), 3, dtype=torch.int32)}
    refused("ct_int4_zeros", tmp_path, r"x\.weight_g_idx names groups up to 3; there are 3", parts=order)
    parts = {"x.weight_scale": torch.ones(1), "x.weight_zero_point": torch.zeros(5, 1, dtype=torch.int32)}
    for group, message in (
        (4, r"config_groups\.group_0 is 4, expected a scheme's fields"),
        ({"weights": 4}, r"config_groups\.group_0\.weights is 4, expected fields"),
        ({"weights": None}, r"x is stored quantized, and 0 of 0 schemes"),
        ({"weights": {"strategy": "tensor", "num_bits": 4, "symmetric": False}}, r"no zero point for each row"),
    ):
        refused("ct_int4_zeros", tmp_path, message, settings={"config_groups": {"group_0": group}}, parts=parts)
