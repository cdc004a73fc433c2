"""All that LoRA can hold beside its two factors equals PEFT's merge: DoRA, biases, trained tokens, fused experts."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import (
    Weights,
    adapted,
    by_our_names,
    finished,
    largest_excess,
    load,
    merged,
    one_thread,
    quiet,
    source_of,
    store,
    train,
)
from exported import change_json
from safetensors.torch import load_file, save_file
from tiny import make

from converters.spec import EMBEDDING, HEAD
from exporter.errors import MergeError
from exporter.merge.keys import REWRITES

__all__ = ["one_thread"]
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]


UNSLOTHS = "This mixtral model was trained 2x faster with [Unsloth](https://github.com/unslothai/unsloth)."


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    names = ("llama", "llama-bias", "qwen2", "mixtral", "mixtral-fused", "qwen3moe", "qwen3moe-fused", "gemma")
    folder = tmp_path_factory.mktemp("bases")
    return {name: make(name, folder / name) for name in names}


def excess(base: Path, adapter: Path, expected: Weights) -> float:
    """How far our view of an adapter is from what PEFT made of it, in units of what is allowed."""
    return largest_excess(finished(source_of(adapter, base)), expected, by_our_names(load(base).state_dict()))


def change(adapter: Path, **fields: object) -> Path:
    change_json(adapter / "adapter_config.json", **fields)
    return adapter


@pytest.mark.parametrize(
    "fields", [{}, {"use_rslora": True, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"o_proj": 3}}]
)
@pytest.mark.parametrize("name", ["llama", "llama-bias", "qwen2"])
def test_dora_equals_peft(name: str, fields: dict[str, Any], bases: dict[str, Path], tmp_path: Path) -> None:
    train(load(bases[name]), tmp_path, target_modules=LINEAR, use_dora=True, **fields)
    assert excess(bases[name], tmp_path, merged(load(bases[name]), tmp_path)) <= 1


@pytest.mark.parametrize("name", ["llama", "qwen2"])
@pytest.mark.parametrize("targets", [["embed_tokens"], ["embed_tokens", "lm_head", "q_proj"]])
def test_dora_on_embeddings_equals_peft_in_float64(
    name: str, targets: list[str], bases: dict[str, Path], tmp_path: Path
) -> None:
    """The lengths are of columns, over all tokens: sums that PEFT's float32 rounds more than ours, some 2^-21."""
    train(load(bases[name]), tmp_path, target_modules=targets, use_dora=True)
    model = load(bases[name], untied=True)
    exact = {key: tensor.float() for key, tensor in merged(model.double(), tmp_path).items()}
    assert excess(bases[name], tmp_path, exact) <= 1
    assert excess(bases[name], tmp_path, merged(load(bases[name], untied=True), tmp_path)) <= 4


@pytest.mark.parametrize("tensors", [False, True])
def test_dora_in_one_of_the_two_files_only_is_refused(*, tensors: bool, bases: dict[str, Path], tmp_path: Path) -> None:
    train(load(bases["llama"]), tmp_path, target_modules=["q_proj"], use_dora=tensors)
    with pytest.raises(MergeError, match=r"use_dora, and .*lora_magnitude_vector.*different runs"):
        source_of(change(tmp_path, use_dora=not tensors), bases["llama"])


@pytest.mark.parametrize(
    "fields", [{"lora_bias": True}, {"bias": "lora_only"}, {"bias": "all"}, {"lora_bias": True, "use_rslora": True}]
)
@pytest.mark.parametrize("name", ["llama-bias", "qwen2"])
def test_trained_biases_equal_peft(name: str, fields: dict[str, Any], bases: dict[str, Path], tmp_path: Path) -> None:
    targets = LINEAR[: 4 if name == "llama-bias" else 3]  # PEFT merges lora_bias where the base has a bias only
    train(load(bases[name]), tmp_path, target_modules=targets, **fields)
    expected = merged(load(bases[name]), tmp_path)
    assert excess(bases[name], tmp_path, expected) <= 1
    before = by_our_names(load(bases[name]).state_dict())
    assert any(not tensor.equal(before[key]) for key, tensor in expected.items() if key.endswith(".bias"))


@pytest.mark.parametrize(("name", "target"), [("llama", "q_proj"), ("qwen2", "lm_head")])  # of an untied base, a tied
def test_a_bias_where_the_base_has_none_is_refused(
    name: str, target: str, bases: dict[str, Path], tmp_path: Path
) -> None:
    train(load(bases[name]), tmp_path, target_modules=[target], lora_bias=True)
    with pytest.raises(RuntimeError, match="base layer has no bias"):
        merged(load(bases[name]), tmp_path)
    with pytest.raises(MergeError, match=rf"{target} of the base has no bias to add it to. PEFT cannot merge this"):
        source_of(tmp_path, bases[name])


@pytest.mark.parametrize(
    "indices", [[3, 250, 7], {"embed_tokens": [5, 6]}, {"lm_head": [2]}, {"embed_tokens": [1, 8], "lm_head": [8, 9]}]
)
@pytest.mark.parametrize("name", ["llama", "qwen2", "gemma"])
def test_trained_tokens_equal_peft(name: str, indices: Any, bases: dict[str, Path], tmp_path: Path) -> None:  # noqa: ANN401
    train(load(bases[name]), tmp_path, target_modules=["q_proj"], trainable_token_indices=indices)
    tied = load(bases[name]).config.tie_word_embeddings
    both = tied and (isinstance(indices, list) or "lm_head" not in indices)
    live = adapted(load(bases[name]), tmp_path)
    found = finished(source_of(tmp_path, bases[name]))
    assert (HEAD in found) != both
    model = load(bases[name], untied=HEAD in found)
    model.load_state_dict({"lm_head.weight": found.get(HEAD, found[EMBEDDING])} | found, strict=True)
    ids = torch.tensor([[1, 5, 6, 3, 8, 9, 2, 7, 250]])
    with torch.no_grad():
        assert torch.allclose(model(ids).logits, live(ids).logits, atol=1e-5)


@pytest.mark.parametrize("targets", [EXPERTS, EXPERTS[:1], EXPERTS[1:], [*EXPERTS, "q_proj.weight"]])
@pytest.mark.parametrize("name", ["mixtral", "mixtral-fused", "qwen3moe", "qwen3moe-fused"])
@pytest.mark.parametrize("rank", [3, 4])
def test_fused_experts_equal_peft(name: str, targets: list[str], rank: int, request: pytest.FixtureRequest) -> None:
    bases, tmp_path = request.getfixturevalue("bases"), request.getfixturevalue("tmp_path")
    fields = {"r": rank, "target_modules": ["o_proj"], "target_parameters": targets}
    train(load(bases[name]), tmp_path, rank_pattern={"experts.down_proj": 2}, **fields)
    expected, before = merged(load(bases[name]), tmp_path), by_our_names(load(bases[name]).state_dict())
    if name.startswith("qwen3moe"):  # whose spelling is the other one
        expected, before = ({_as_qwen(key): tensor for key, tensor in one.items()} for one in (expected, before))
    assert largest_excess(finished(source_of(tmp_path, bases[name])), expected, before) <= 1
    assert sum(".experts." in key for key in source_of(tmp_path, bases[name]).changes.by_weight) > 1


def _as_qwen(name: str) -> str:
    for mixtral, qwen in ((".block_sparse_moe.", ".mlp."), (".w1.", ".gate_proj."), (".w2.", ".down_proj.")):
        name = name.replace(mixtral, qwen)
    return name.replace(".w3.", ".up_proj.")


def test_either_packing_of_experts_is_read_as_said(bases: dict[str, Path], tmp_path: Path) -> None:
    base, rank = bases["mixtral"], 3
    train(load(base), tmp_path, r=rank, target_modules=[], target_parameters=EXPERTS)
    expected = merged(load(base), tmp_path)
    assert excess(base, change(tmp_path, lora_B_layout="rank_major"), expected) <= 1
    stored = load_file(tmp_path / "adapter_model.safetensors")
    grouped = {
        name: b.reshape(len(b), rank, -1).transpose(1, 2).reshape(b.shape).contiguous()
        for name, b in stored.items()
        if name.endswith("lora_B.weight")
    }
    store(tmp_path, grouped)
    assert excess(base, tmp_path, expected) > 1
    assert excess(base, change(tmp_path, lora_B_layout="grouped_by_expert"), expected) <= 1


def _older(stored: Weights, experts: int) -> Weights:
    """Pairs of fused experts as PEFT 0.18 trained them, which took the rows of a matrix for its columns."""
    older: Weights = {}
    for name in (name for name in stored if name.endswith("lora_A.weight")):
        a, b = stored[name], stored[name.replace("lora_A", "lora_B")]
        by_expert = a.reshape(experts, -1, a.shape[1]), b.reshape(len(b), -1, experts)
        older[name] = by_expert[1].permute(2, 1, 0).reshape(len(a), len(b)).contiguous()
        older[name.replace("lora_A", "lora_B")] = by_expert[0].permute(2, 1, 0).reshape(a.shape[1], len(a)).contiguous()
    return older


def _with_square_experts(folder: Path) -> Path:
    make("mixtral", folder)
    change_json(folder / "config.json", intermediate_size=64)
    stored = load_file(folder / "model.safetensors")
    for name in stored:
        if ".experts." in name:
            stored[name] = stored[name][:64, :64].contiguous()
    save_file(stored, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.mark.parametrize("square", [False, True])
def test_pairs_of_experts_of_older_peft_lie_the_other_way_round(
    *, square: bool, bases: dict[str, Path], tmp_path: Path
) -> None:
    base = _with_square_experts(tmp_path / "base") if square else bases["mixtral"]
    train(load(base), tmp_path / "run", r=3, target_modules=[], target_parameters=EXPERTS)
    expected, run = merged(load(base), tmp_path / "run"), tmp_path / "run"
    store(run, _older(load_file(run / "adapter_model.safetensors"), 4))
    assert excess(base, change(run, peft_version="0.18.1"), expected) <= 1
    assert (excess(base, change(run, peft_version="0.19.0"), expected) > 1) == square
    change(run, peft_version=None)
    if square:
        with pytest.raises(MergeError, match=r"64 x 64.*peft_version"):
            source_of(run, base)


def test_a_packing_that_cannot_be_known_is_refused(bases: dict[str, Path], tmp_path: Path) -> None:
    train(load(bases["mixtral"]), tmp_path, target_modules=[], target_parameters=EXPERTS)
    (tmp_path / "README.md").write_text(UNSLOTHS)
    with pytest.raises(
        MergeError, match=r"two ways \(rank_major, grouped_by_expert\).*nothing says.*--moe-lora-layout"
    ):
        source_of(tmp_path, bases["mixtral"])
    with pytest.raises(MergeError, match="'other' is neither"):
        source_of(change(tmp_path, lora_B_layout="other"), bases["mixtral"])


def _aside(name: str) -> str:
    """A name as the program that a rewrite is about would save it."""
    forms = {
        "an adapter's name within": name.replace(".lora_A.", ".lora_A.default.").replace(
            ".lora_B.", ".lora_B.default."
        ),
        "a wrapper of FSDP or torch.compile": name.replace("layers.0.", "layers.0._fsdp_wrapped_module."),
        "a wrapper of data parallel training": f"module.{name}",
        "a prefix twice": f"base_model.model.{name}",
        "no prefix": name.removeprefix("base_model.model."),
        "no name of the model": name.replace("base_model.model.model.", "base_model.model."),
    }
    return json.dumps(forms)


@pytest.mark.parametrize("what", [rewrite.what for rewrite in REWRITES])
def test_each_foreign_form_of_names_is_read_and_needs_its_row(
    what: str, bases: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(load(bases["llama"]), tmp_path, target_modules=LINEAR)
    expected = finished(source_of(tmp_path, bases["llama"]))
    stored = load_file(tmp_path / "adapter_model.safetensors")
    renamed = {json.loads(_aside(name))[what]: tensor for name, tensor in stored.items()}
    assert renamed.keys() != stored.keys()
    store(tmp_path, dict.fromkeys(stored) | renamed)
    found = finished(source_of(tmp_path, bases["llama"]))
    assert all(tensor.equal(found[name]) for name, tensor in expected.items())
    monkeypatch.setattr("exporter.merge.keys.REWRITES", tuple(one for one in REWRITES if one.what != what))
    with pytest.raises(MergeError):
        source_of(tmp_path, bases["llama"])


def test_one_name_that_no_rewrite_maps_is_refused(bases: dict[str, Path], tmp_path: Path) -> None:
    train(load(bases["llama"]), tmp_path, target_modules=LINEAR)
    stored = load_file(tmp_path / "adapter_model.safetensors")
    typed = {name.replace("layers.1.self_attn.q_proj", "layers.1.self_attn.q_prok"): t for name, t in stored.items()}
    store(tmp_path, dict.fromkeys(stored) | typed)
    with pytest.raises(
        MergeError, match=r"has lora_A and lora_B of model\.layers\.1\.self_attn\.q_prok, but target_modules"
    ):
        source_of(tmp_path, bases["llama"])


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_a_start_that_changed_the_base_is_exact_where_peft_converted_it(
    start: str, bases: dict[str, Path], tmp_path: Path
) -> None:
    from peft import LoraConfig, get_peft_model  # noqa: PLC0415  (seconds to import)

    with quiet():
        config = LoraConfig(r=4, lora_alpha=8, target_modules=LINEAR, init_lora_weights=start)
        model = get_peft_model(load(bases["llama"]), config)
        model.peft_config["default"].init_lora_weights = True
        model.save_pretrained(tmp_path / "before")
        model.peft_config["default"].init_lora_weights = start
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5)))
        model.save_pretrained(tmp_path / "as-it-is")
        model.save_pretrained(tmp_path / "run", path_initial_model_for_weight_conversion=str(tmp_path / "before"))
        expected = by_our_names(model.merge_and_unload().state_dict())
    with pytest.raises(MergeError, match=rf'"{start}", which changes the base weights.*path_initial_model'):
        source_of(tmp_path / "as-it-is", bases["llama"])
    # W - A0 B0 + A B there, W + (A B - A0 B0) here: one rounding more.
    assert excess(bases["llama"], tmp_path / "run", expected) <= 8


def test_a_layer_that_is_missing_is_refused(bases: dict[str, Path], tmp_path: Path) -> None:
    train(load(bases["llama"]), tmp_path, target_modules=["q_proj", "v_proj"])
    stored = load_file(tmp_path / "adapter_model.safetensors")
    store(tmp_path, {name: None for name in stored if "layers.1.self_attn.v_proj" in name})
    with pytest.raises(MergeError, match=r"no tensors of model\.layers\.1\.self_attn\.v_proj.*incomplete"):
        source_of(tmp_path, bases["llama"])
    change(tmp_path, layers_to_transform=[0, 1])
    assert len(source_of(tmp_path, bases["llama"]).changes.by_weight) == 3
