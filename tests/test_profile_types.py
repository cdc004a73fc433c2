"""Profiles choose llama.cpp's types: its golden files, and llama.cpp itself on small files, are the truth."""

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import pytest

from exporter.errors import PlanError
from exporter.profiles import Facts, choose_types, load_profile, profile_names

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT.parent / "shared" / "reference" / "type-plans"
LEVELS = profile_names()

Shapes = dict[str, tuple[int, ...]]


# The golden files of llama.cpp: real models' sizes.


def attention(width: int, heads: int, kv_heads: int, head_width: int = 128) -> Shapes:
    """One layer's attention; shapes in numpy's order."""
    return {
        "attn_q": (heads * head_width, width),
        "attn_k": (kv_heads * head_width, width),
        "attn_v": (kv_heads * head_width, width),
        "attn_output": (width, heads * head_width),
    }


def feed_forward(width: int, inner: int, kind: str = "", experts: tuple[int, ...] = ()) -> Shapes:
    """One layer's feed-forward: ``kind`` is "", "_exps" or "_shexp"."""
    return {
        f"ffn_gate{kind}": (*experts, inner, width),
        f"ffn_up{kind}": (*experts, inner, width),
        f"ffn_down{kind}": (*experts, width, inner),
    }


def model(layers: list[Shapes], width: int, *, head: bool = True) -> Shapes:
    """All tensors of a file: the layers', with a norm in each, the embedding's, and the head's."""
    shapes: Shapes = {"token_embd.weight": (1024, width), "output_norm.weight": (width,)}
    if head:
        shapes["output.weight"] = (1024, width)
    for i, layer in enumerate(layers):
        shapes[f"blk.{i}.attn_norm.weight"] = (width,)
        shapes |= {f"blk.{i}.{stem}.weight": shape for stem, shape in layer.items()}
    return shapes


DEEPSEEK_ATTENTION: Shapes = {
    "attn_q_a": (1536, 7168),
    "attn_q_b": (24576, 1536),
    "attn_kv_a_mqa": (576, 7168),
    "attn_k_b": (128, 512, 128),
    "attn_v_b": (128, 128, 512),
    "attn_output": (7168, 16384),
}
DEEPSEEK_DENSE = DEEPSEEK_ATTENTION | feed_forward(7168, 18432)
DEEPSEEK_MOE = (DEEPSEEK_ATTENTION | feed_forward(7168, 2048, "_exps", (256,)) | feed_forward(7168, 2048, "_shexp")) | {
    "ffn_gate_inp": (256, 7168)
}
GPT_OSS = attention(2880, 64, 8, 64) | feed_forward(2880, 2880, "_exps", (128,)) | {"ffn_gate_inp": (128, 2880)}

REAL: dict[str, tuple[Facts, Shapes]] = {
    "qwen3-0.6b": (
        Facts("qwen3", layers=28, heads=16, kv_heads=8, experts=0, tied=False),
        model([attention(1024, 16, 8) | feed_forward(1024, 3072)] * 28, 1024),
    ),
    "qwen3-14b": (
        Facts("qwen3", layers=40, heads=40, kv_heads=8, experts=0, tied=False),
        model([attention(5120, 40, 8) | feed_forward(5120, 17408)] * 40, 5120),
    ),
    "meta-llama-3.1-70b-instruct": (
        Facts("llama", layers=80, heads=64, kv_heads=8, experts=0, tied=False),
        model([attention(8192, 64, 8) | feed_forward(8192, 28672)] * 80, 8192),
    ),
    "gemma-3-4b-it": (
        Facts("gemma3", layers=34, heads=8, kv_heads=4, experts=0, tied=True),
        model([attention(2560, 8, 4, 256) | feed_forward(2560, 10240)] * 34, 2560, head=False),
    ),
    "gpt-oss-120b": (
        Facts("gpt-oss", layers=36, heads=64, kv_heads=8, experts=128, tied=False),
        model([GPT_OSS] * 36, 2880),
    ),
    "deepseek-v3.1": (
        Facts("deepseek2", layers=61, heads=128, kv_heads=1, experts=256, tied=False),
        model([DEEPSEEK_DENSE] * 3 + [DEEPSEEK_MOE] * 58, 7168),
    ),
}
NEVER_QUANTIZED = re.compile(r"_norm\.weight$|ffn_gate_inp\.weight$")  # golden files leave these out


def golden_types(name: str, level: str) -> tuple[str, dict[str, str]]:
    """The default type of a section of a golden file, and the tensors that have another."""
    text = (GOLDEN / f"{name}.schema").read_text(encoding="utf-8")
    section = re.search(rf"^\[{level.upper()}\] (\w+)\n(.*?)(?=^\[|\Z)", text, re.MULTILINE | re.DOTALL)
    assert section, f"{name}.schema has no section {level}"
    return section[1].upper(), dict(line.upper().split() for line in section[2].splitlines() if line)


@pytest.mark.skipif(not GOLDEN.is_dir(), reason="llama.cpp's golden files are not beside this checkout")
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", REAL)
def test_real_sizes_have_llamacpps_golden_types(name: str, level: str) -> None:
    facts, shapes = REAL[name]
    default, others = golden_types(name, level)
    chosen = choose_types(load_profile(level), shapes, facts)
    found = {tensor: choice.type for tensor, choice in chosen.items() if not NEVER_QUANTIZED.search(tensor)}
    assert found == {tensor: others.pop(tensor.upper(), default) for tensor in found}
    assert not others


# llama.cpp itself: its quantizer reads any tensors below any known architecture, so each rule can be shown to it.

QUANTIZE = """
import ctypes, json, sys
import llama_cpp
llama_cpp.llama_backend_init()
for source, out, ftype, imatrix in json.load(sys.stdin):
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread = ftype, 1
    if imatrix:  # an empty list, as far as its closing entry
        params.imatrix = (llama_cpp.llama_model_imatrix_data * 1)()
    if llama_cpp.llama_model_quantize(source.encode(), out.encode(), ctypes.byref(params)) != 0:
        sys.exit("llama.cpp refused " + out)
"""


@dataclass(frozen=True)
class Case:
    """A small model; ``facts`` and ``shapes`` are all that the choice may depend on."""

    facts: Facts
    shapes: Shapes


def layer(width: int, inner: int) -> Shapes:
    """A dense layer of two rows a matrix: quick to quantize."""
    names = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up")
    return {**dict.fromkeys(names, (2, width)), "ffn_down": (2, inner)}


def value_layers(count: int) -> list[Shapes]:
    """Layers of what the rules for values touch, each with another of the three value-like names."""
    names = ("attn_v", "attn_qkv", "attn_kv_b")
    return [
        dict.fromkeys((names[(i + 1) // 2 % 3], "attn_k", "attn_output", "ffn_down"), (2, 256)) for i in range(count)
    ]


def moe_layer(width: int, experts: int) -> Shapes:
    stems = ("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps")
    shared = {"ffn_gate_shexp": (2, width), "ffn_up_shexp": (2, width), "ffn_down_shexp": (2, 256)}
    names = ("attn_q", "attn_k", "attn_v", "attn_output")
    routed = dict.fromkeys(stems, (experts, 2, width)) | {"ffn_gate_inp": (experts, width)}
    return dict.fromkeys(names, (2, width)) | routed | shared | {"ffn_gate_inp_shexp": (width,)}


def facts(arch: str, layers: int, heads: tuple[int, int] = (8, 4), *, experts: int = 0, tied: bool = False) -> Facts:
    return Facts(arch, layers, *heads, experts=experts, tied=tied)


def odd_tensors() -> Shapes:
    """Names and shapes off the common path: other value-like tensors, vectors in disguise, tensors that stay F32."""
    layers = [layer(256, 256) for _ in range(17)]
    layers[0] |= {"attn_kv_b": (8, 256), "attn_k_b": (2, 4, 256), "ssm_conv1d": (4, 32), "attn_q_a_norm": (4, 256)}
    layers[3] |= {"attn_qkv": (8, 256), "attn_gate": (8, 256), "nextn.eh_proj": (8, 512)}
    layers[5] = {name: shape for name, shape in layers[5].items() if name not in {"attn_v", "ffn_down"}}
    layers[6] |= {"attn_v": (1, 256), "ffn_down": (1, 256), "attn_output": (8, 1), "attn_q": (8, 33)}
    layers[7] |= {"ffn_down": (1, 8, 96), "ffn_up": (8, 33), "attn_k": (8, 160)}
    shapes = model(layers, 256, head=False)
    counted_only = {"blk.2.attn_v.weight_scale": (8, 256)}  # llama.cpp counts it among the values, and leaves it alone
    per_layer = {"per_layer_token_embd.weight": (8, 512), "per_layer_model_proj.weight": (8, 256)}
    return shapes | counted_only | per_layer | {"rope_freqs.weight": (16,), "cls.weight": (8, 256)}


def interleaved_experts() -> Shapes:
    """Experts in odd layers only, so that counters and layer numbers differ."""
    return model([moe_layer(256, 4) if i % 2 else layer(256, 288) for i in range(24)], 256)


CASES = {
    "llama": Case(facts("llama", 16), model([layer(256, 512)] * 16, 256)),
    "llama, 17 layers, gqa 8": Case(facts("llama", 17, (8, 1)), model([layer(256, 256)] * 17, 256)),
    "llama, rows of 576 and 1536": Case(facts("llama", 15, (9, 3)), model([layer(576, 1536)] * 15, 576)),
    "llama, tied, rows of 288": Case(facts("llama", 8, tied=True), model([layer(288, 768)] * 8, 288, head=False)),
    "llama, rows of 40": Case(facts("llama", 3), model([layer(40, 72)] * 3, 40)),
    "llama, 80 layers, gqa 2": Case(facts("llama", 80, (8, 4)), model(value_layers(80), 256)),
    "llama, 80 layers, no gqa": Case(facts("llama", 80, (8, 8)), model(value_layers(80), 256)),
    "llama, 80 layers, 8 experts": Case(facts("llama", 80, experts=8), model(value_layers(80), 256)),
    "llama, values of all names, gqa 4": Case(facts("llama", 33, (8, 2)), model(value_layers(33), 256)),
    "qwen2, 80 layers": Case(facts("qwen2", 80, (8, 8)), model(value_layers(80), 256)),
    "qwen3, 80 layers": Case(facts("qwen3", 80, (8, 8)), model(value_layers(80), 256)),
    "qwen2": Case(facts("qwen2", 24, (14, 2), tied=True), model([layer(896, 1024)] * 24, 896, head=False)),
    "gemma3": Case(facts("gemma3", 18, (4, 1), tied=True), model([layer(640, 2048)] * 18, 640, head=False)),
    "llama, 8 experts": Case(facts("llama", 16, experts=8), model([moe_layer(256, 8)] * 16, 256)),
    "llama, 4 experts": Case(facts("llama", 16, experts=4), model([moe_layer(288, 4)] * 16, 288)),
    "qwen2moe": Case(facts("qwen2moe", 24, (16, 16), experts=4), interleaved_experts()),
    "qwen3moe": Case(facts("qwen3moe", 17, (32, 4), experts=16), model([moe_layer(256, 16)] * 17, 256)),
    "odd tensors": Case(facts("llama", 17, tied=True), odd_tensors()),
}


def write_source(path: Path, case: Case) -> None:
    """An F32 file with as much metadata as llama.cpp's quantizer asks for."""
    writer = gguf.GGUFWriter(path, case.facts.arch)
    writer.add_block_count(case.facts.layers)
    writer.add_context_length(64)
    writer.add_embedding_length(case.shapes["token_embd.weight"][-1])
    writer.add_feed_forward_length(256)
    writer.add_head_count(case.facts.heads)
    writer.add_head_count_kv(case.facts.kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    if case.facts.experts:
        writer.add_expert_count(case.facts.experts)
        writer.add_expert_used_count(2)
        writer.add_expert_feed_forward_length(256)
    noise = np.random.default_rng(0)
    for name, shape in case.shapes.items():
        writer.add_tensor(name, noise.standard_normal(shape, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def quantize(jobs: list[tuple[Path, Path, int, bool]]) -> None:
    """Let llama.cpp quantize each (source, output, file type, with an importance matrix), in a process of its own."""
    text = json.dumps([[str(source), str(out), ftype, imatrix] for source, out, ftype, imatrix in jobs])
    done = subprocess.run([sys.executable, "-c", QUANTIZE], input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def types_of(path: Path) -> dict[str, str]:
    return {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(path).tensors}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("llama_cpp")
    return tmp_path_factory.mktemp("types")


@pytest.mark.parametrize("name", CASES)
def test_every_level_gives_llamacpps_types(name: str, folder: Path) -> None:
    case = CASES[name]
    source = folder / f"{name}.gguf"
    write_source(source, case)
    outputs = {level: folder / f"{name}-{level}.gguf" for level in LEVELS}
    quantize([(source, out, load_profile(level).file_type_id, False) for level, out in outputs.items()])
    for level, out in outputs.items():
        chosen = choose_types(load_profile(level), case.shapes, case.facts)
        theirs = types_of(out)
        if level in {"f16", "bf16"}:  # of an F32 file it is left as it was; llama.cpp's converter stores 16 bits
            theirs |= {tensor: level.upper() for tensor in theirs if tensor == "per_layer_model_proj.weight"}
        assert {tensor: choice.type for tensor, choice in chosen.items()} == theirs, level
        out.unlink()


@pytest.mark.parametrize("level", ["q5_0", "q4_0"])
def test_an_importance_matrix_changes_what_it_changes_in_llamacpp(level: str, folder: Path) -> None:
    case = CASES["llama"]
    source, out = folder / f"imatrix-{level}.gguf", folder / f"imatrix-{level}-out.gguf"
    write_source(source, case)
    quantize([(source, out, load_profile(level).file_type_id, True)])
    with_imatrix = Facts("llama", 16, 8, 4, experts=0, tied=False, imatrix=True)
    chosen = {
        name: choice.type for name, choice in choose_types(load_profile(level), case.shapes, with_imatrix).items()
    }
    assert chosen == types_of(out)
    assert chosen["blk.1.ffn_down.weight"] == level.upper().replace("_0", "_1")


def test_a_substitute_says_what_was_wanted_and_why() -> None:
    chosen = choose_types(load_profile("q4_k_m"), model([layer(576, 40)], 576), facts("llama", 1))
    found = {name: (choice.type, choice.wanted, choice.why) for name, choice in chosen.items()}
    assert found["blk.0.attn_q.weight"] == ("Q5_0", "Q4_K", "row of 576")
    assert found["blk.0.ffn_down.weight"] == ("F16", "Q6_K", "row of 40")
    assert found["output.weight"] == ("Q8_0", "Q6_K", "row of 576")
    assert found["blk.0.attn_norm.weight"] == ("F32", "F32", None)


def test_tied_facts_and_tensors_must_agree() -> None:
    with pytest.raises(PlanError, match=r"output\.weight: the model is tied, but the file has it"):
        choose_types(load_profile("q4_0"), model([layer(256, 256)], 256), facts("llama", 1, tied=True))
