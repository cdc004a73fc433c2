"""Every family's files against llama.cpp's own converter: what they hold."""

import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exported import change_json, metadata, planned, written
from gguf import GGUFReader
from native import NATIVE
from numpy.typing import NDArray
from tiny import TINY, golden, make

from converters import ALL
from converters.spec import Family, Row
from exporter.errors import SourceError

ALIASES = {"LLaMAForCausalLM": "llama", "BaiChuanForCausalLM": "baichuan"}
"""Names of old checkpoints for an architecture that a tiny model has under its present name."""


def digest(data: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(data).tobytes()).hexdigest()


def tensors(file: Path) -> dict[str, tuple[list[int], str, str]]:
    """Each tensor's shape in ggml's order, type, and SHA-256 of its bytes."""
    found = GGUFReader(file).tensors
    return {t.name: ([int(n) for n in t.shape], t.tensor_type.name, digest(t.data)) for t in found}


def test_every_architecture_has_a_tiny_model() -> None:
    architectures = [name for family in ALL for name in family.architectures]
    assert len(architectures) == len(set(architectures))
    assert set(architectures) == {tiny.architecture for tiny in TINY.values()} | set(ALIASES) | NATIVE


def test_every_row_of_every_table_is_used_by_some_model(tmp_path: Path) -> None:
    unused = {
        (family.name, name)
        for family in ALL
        if NATIVE.isdisjoint(family.architectures)
        for name, row in family.tensors.items()
        if not (isinstance(row, Row) and row.zero)  # these are not written
    }
    for name, tiny in TINY.items():
        plan = planned(make(name, tmp_path / name), "f32")
        rows = {re.sub(r"^blk\.\d+\.", "blk.{i}.", job.tensor) for job in plan.jobs}
        unused -= {(family.name, row) for family in ALL if tiny.architecture in family.architectures for row in rows}
    # These are compared with transformers below, in `test_what_transformers_saves_computes_the_same`.
    biases = {("llama", f"blk.{{i}}.ffn_{part}.bias") for part in ("gate", "up", "down")}
    assert unused == biases | {("qwen2", "output.weight"), ("gemma3", "output.weight"), ("gemma3n", "output.weight")}


@pytest.mark.parametrize("name", TINY)
def test_files_are_those_of_llamacpps_converter(name: str, tmp_path: Path) -> None:
    truth = golden(name)
    if "failure" in truth:  # in every layout, so that the logits decide, in `test_files_compute_what_…`
        pytest.skip(f"llama.cpp's converter cannot read it: {truth['failure']}")
    _, files = written(make(name, tmp_path / "run"), tmp_path / "out", ("f32", "bf16"))
    right = {k: t for k, t in truth["tensors"].items() if k not in TINY[name].wrong}
    whole, half = ({k: t for k, t in tensors(files[kind]).items() if k not in TINY[name].wrong} for kind in files)
    assert whole == {k: (t["ne"], t["type"], t["sha256"]) for k, t in right.items()}
    assert half == {k: (t["ne"], t["bf16"]["type"], t["bf16"]["sha256"]) for k, t in right.items()}
    # general.* is ours but for what llama.cpp computes with, which the golden values hold.
    theirs = {key: (field["type"], field["value"]) for key, field in truth["metadata"].items()}
    ours = {
        key: value
        for key, value in metadata(GGUFReader(files["f32"])).items()
        if not key.startswith("general.") or key in theirs
    }
    faults = TINY[name].faults
    expected = {key: value for key, value in (theirs | faults).items() if value is not None}
    assert ours == expected
    assert all(theirs.get(key) != value for key, value in faults.items())  # each is still one


@pytest.mark.parametrize("name", TINY)
def test_either_spelling_of_the_config_gives_the_same_file(name: str, tmp_path: Path) -> None:
    made = [written(make(name, tmp_path / v / "run", spelling=v), tmp_path / v)[1]["f32"] for v in ("v4", "v5")]
    assert made[0].read_bytes() == made[1].read_bytes()


@pytest.mark.parametrize(("alias", "name"), ALIASES.items())
def test_an_old_name_of_an_architecture_gives_the_same_file(alias: str, name: str, tmp_path: Path) -> None:
    now, old = make(name, tmp_path / "now" / "run"), make(name, tmp_path / "old" / "run")
    change_json(old / "config.json", architectures=[alias])
    made = [written(run, run.parent)[1]["f32"].read_bytes() for run in (now, old)]
    assert made[0] == made[1]


@pytest.mark.parametrize("name", ["llama3", "qwen2moe-fused", "gemma3-vision-v5"])
def test_shards_give_the_same_file(name: str, tmp_path: Path) -> None:
    one, three = make(name, tmp_path / "one" / "run"), make(name, tmp_path / "three" / "run", shards=3)
    made = [written(run, run.parent)[1]["f32"].read_bytes() for run in (one, three)]
    assert made[0] == made[1]


@pytest.mark.parametrize("name", ["llama", "qwen3moe"])
def test_weights_stored_in_16_bits_reach_a_16_bit_file_unchanged(name: str, tmp_path: Path) -> None:
    _, files = written(make(name, tmp_path / "run", dtype="bfloat16"), tmp_path / "out", ("bf16",))
    truth = {k: t["bf16"]["sha256"] for k, t in golden(name)["tensors"].items() if t["bf16"]["type"] == "BF16"}
    found = tensors(files["bf16"])
    assert {key: found[key][2] for key in truth} == truth


@pytest.mark.parametrize(
    "name",
    [
        *("mixtral", "mixtral-fused", "qwen2moe", "qwen3moe", "qwen3moe-fused", "qwen35moe", "deepseek2", "gptoss"),
        *("olmoe", "granitemoe-v5", "gemma4-moe"),
    ],
)
def test_permuted_experts_permute_the_slices_and_nothing_else(name: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file  # noqa: PLC0415  (imports torch)

    order = [2, 0, 3, 1]
    first, second = make(name, tmp_path / "a" / "run"), make(name, tmp_path / "b" / "run")
    stored = load_file(second / "model.safetensors")
    moved = {}
    for key, value in stored.items():
        if re.search(r"\.experts\.(gate_up|down)_proj|\.per_expert_scale", key):
            moved[key] = value[order].contiguous()
        else:  # the new expert number k is the old one order[k]
            moved[re.sub(r"(?<=\.experts\.)\d+", lambda m: str(order.index(int(m[0]))), key)] = value
    save_file(moved, second / "model.safetensors", {"format": "pt"})
    one, other = (
        {t.name: np.array(t.data) for t in GGUFReader(written(run, run.parent)[1]["f32"]).tensors}
        for run in (first, second)
    )
    assert [key for key in one if not np.array_equal(one[key], other[key])] == [k for k in one if "_exps." in k]
    assert all(np.array_equal(one[key][order], other[key]) for key in one if "_exps." in key)


@pytest.mark.parametrize(
    "family", [one for one in ALL if NATIVE.isdisjoint(one.architectures)], ids=lambda one: one.name
)
def test_a_tensor_of_no_row_is_refused_by_name(family: Family, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file  # noqa: PLC0415

    name = next(n for n, t in TINY.items() if t.architecture in family.architectures)
    run = make(name, tmp_path / "run")
    stored = load_file(run / "model.safetensors")
    stored["model.layers.0.self_attn.q_proj.weight_scale"] = next(iter(stored.values())).clone()
    save_file(stored, run / "model.safetensors", {"format": "pt"})
    with pytest.raises(SourceError, match=r"q_proj\.weight_scale .* has no place"):
        planned(run, "f32")
