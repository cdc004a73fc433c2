"""Adapters of every PEFT method but LoRA: which are trained, how, and what PEFT and we make of them."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import Weights, adapted, load, quiet
from tiny import make

from exporter.merge.peft_layers import Module, PeftModules, Stored, open_modules, share_out

TARGETS = ["q_proj", "v_proj", "down_proj"]
FILE = "adapter_model.safetensors"
IDS = torch.arange(3, 20)[None]


@dataclass(frozen=True)
class Case:
    """An adapter to train: its method, the fields of PEFT's configuration, and the base."""

    method: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    base: str = "llama"
    after: Mapping[str, Any] = field(default_factory=dict)
    """Fields that training sets."""


def case(method: str, base: str = "llama", **fields: object) -> Case:
    return Case(method, fields, base)


HALF = {f"model.layers.{i}.self_attn.q_proj.lora_E": [True, False, True] * 4 for i in range(2)}
BLOCKS = {"nblocks": 2, "target_modules_bd_a": ["q_proj"], "target_modules_bd_b": ["v_proj"]}
CASES = {
    "adalora": case("ADALORA", total_step=100),
    "adalora-ranks": replace(case("ADALORA", total_step=100), after={"rank_pattern": HALF}),
    "beft": case("BEFT", "llama-bias", target_modules=["q_proj", "v_proj"]),
    "boft": case("BOFT", boft_block_size=4),
    "boft-butterfly": case("BOFT", boft_block_size=8, boft_n_butterfly_factor=2, boft_block_num=0),
    "c3a": case("C3A", block_size=16),
    "c3a-pattern": case("C3A", block_size=16, block_size_pattern={"down_proj": 32}),
    "deft": case("DEFT"),
    "deft-qr": case("DEFT", decomposition_method="qr", alpha=4),
    "deft-para": case("DEFT", para=True),
    "delora": case("DELORA", rank_pattern={r"layers\.1\.mlp\.down_proj": 3}),
    "fourierft": case("FOURIERFT", n_frequency=50, n_frequency_pattern={"v_proj": 30}),
    "glora": case("GLORA", "llama-bias"),
    "glora-vectors": case("GLORA", "llama-bias", config_A_B="vector", config_C="vector", config_D_E="vector"),
    "glora-no-bias": case("GLORA", config_A_B="constant"),
    "gralora": case("GRALORA", r=8, hybrid_r=4),
    "hira": case("HIRA", rank_pattern={"q_proj": 4}),
    "hira-embedding": case("HIRA", target_modules=["embed_tokens", "q_proj"]),
    "hra": case("HRA"),
    "hra-gs": case("HRA", apply_GS=True),
    "ia3": case("IA3", feedforward_modules=["down_proj"]),
    "ia3-bias": case("IA3", "llama-bias", feedforward_modules=r".*\.mlp\.down_proj"),
    "ln-tuning": case("LN_TUNING", target_modules=["input_layernorm", "norm"]),
    "ln-tuning-bias": case("LN_TUNING", "llama-bias", target_modules=["input_layernorm", "q_proj"]),
    "loha": case("LOHA", rank_pattern={"q_proj": 4}, alpha_pattern={"down_proj": 3}),
    "lokr": case("LOKR"),
    "lokr-both": case("LOKR", r=2, decompose_both=True, decompose_factor=4),
    "lora-bd": case("LORA", target_modules=["q_proj", "v_proj"], use_bdlora=BLOCKS),
    "lora-kasa": case("LORA", kasa_config={}),
    "lora-velora": case("LORA", velora_config={"num_groups": 4}),
    "miss": case("MISS", r=8),
    "miss-bat": case("MISS", r=8, init_weights="bat"),
    "miss-mini": case("MISS", r=8, init_weights="mini", mini_r=4),
    "oft": case("OFT", oft_block_size=4),
    "oft-constrained": case("OFT", r=8, oft_block_size=0, coft=True, eps=1e-2, block_share=True),
    "oft-cayley": case("OFT", oft_block_size=4, use_cayley_neumann=False),
    "osf": case("OSF"),
    "osf-rank": case("OSF", effective_rank=8),
    "peanut": case("PEANUT"),
    "peanut-deep": case("PEANUT", r=4, depth=2, act_fn="gelu"),
    "pvera": case("PVERA", r=8),
    "pvera-redrawn": case("PVERA", r=8, save_projection=False),
    "randlora": case("RANDLORA", r=8),
    "randlora-redrawn": case("RANDLORA", r=8, save_projection=False),
    "randlora-sparse": case("RANDLORA", r=8, sparse=True, save_projection=False),
    "randlora-very-sparse": case("RANDLORA", r=8, very_sparse=True),
    "road-1": case("ROAD", "llama-bias", variant="road_1", group_size=16),
    "road-2": case("ROAD", "llama-bias", variant="road_2", group_size=16),
    "road-4": case("ROAD", variant="road_4", group_size=16),
    "shira": case("SHIRA", r=2, random_seed=3),
    "supertuning": case("SUPERTUNING", sparsity=0.9),
    "supertuning-lora": case("SUPERTUNING", sparsity=0.9, r=4, lora_alpha=8),
    "tinylora": case("TINYLORA", weight_tying=1.0),
    "trainable-tokens": case("TRAINABLE_TOKENS", target_modules=["embed_tokens"], token_indices=[3, 7, 300]),
    "unilora": case("UNILORA", theta_d_length=64, save_indices=True),
    "vblora": case("VBLORA", num_vectors=16, vector_length=16),
    "vblora-top": case("VBLORA", num_vectors=16, vector_length=16, save_only_topk_weights=True),
    "vera": case("VERA", r=8),
    "vera-redrawn": case("VERA", r=8, save_projection=False),
    "waveft": case("WAVEFT", n_frequency=50),
    "waveft-direct": case("WAVEFT", n_frequency=50, use_idwt=False, n_frequency_pattern={"v_proj": 30}),
}


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("method-bases")
    return {name: make(name, folder / name) for name in ("llama", "llama-bias", "qwen2")}


@pytest.fixture(scope="session")
def adapters(bases: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """An adapter of `CASES`, trained once; not to be changed."""
    folder = tmp_path_factory.mktemp("methods")
    return cache(lambda name: train(CASES[name], bases[CASES[name].base], folder / name))


def train(one: Case, base: Path, folder: Path) -> Path:
    """An adapter as PEFT saves it, every trained parameter moved at random from where PEFT starts it."""
    import peft  # noqa: PLC0415  (seconds to import)
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING  # noqa: PLC0415

    with quiet():
        fields = {"task_type": "CAUSAL_LM", "target_modules": TARGETS} | dict(one.fields)
        config = PEFT_TYPE_TO_CONFIG_MAPPING[peft.PeftType(one.method)](**fields)
        torch.manual_seed(3)
        wrapped = peft.get_peft_model(load(base), config)
        generator = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for parameter in wrapped.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        for name, value in one.after.items():
            setattr(wrapped.peft_config["default"], name, value)
        wrapped.save_pretrained(folder)
    return folder


def stored(adapter: Path, **fields: object) -> Stored:
    """An adapter's files, with other fields in its configuration."""
    from safetensors.torch import load_file  # noqa: PLC0415

    tensors = load_file(adapter / FILE)
    config = json.loads((adapter / "adapter_config.json").read_text()) | fields
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    return Stored(config, shapes, tensors.__getitem__, adapter / FILE)


def modules(state: Weights, names: tuple[str, ...]) -> dict[str, Module]:
    return {name: Module(tuple(state[f"{name}.weight"].shape), f"{name}.bias" in state) for name in names}


def opened(adapter: Stored, base: Path) -> PeftModules:
    state = load(base).state_dict()
    return open_modules(adapter, modules(state, tuple(share_out(adapter).modules)))


def finished(ours: PeftModules, state: Weights) -> Weights:
    """The base's weights, those of the adapter's modules merged."""
    found = dict(state)
    for name in ours.modules:
        done = ours.merged(name, state[f"{name}.weight"], state.get(f"{name}.bias"))
        found[f"{name}.weight"] = done.weight
        if done.bias is not None:
            found[f"{name}.bias"] = done.bias
    return found


def by_peft(base: Path, adapter: Path) -> tuple[torch.Tensor, Weights]:
    """The logits of PEFT's live model, and the weights of its `merge_and_unload`."""
    with quiet(), torch.no_grad():
        model = adapted(load(base), adapter)
        live: torch.Tensor = model(IDS).logits
        return live, model.merge_and_unload().state_dict()


def logits(base: Path, weights: Weights) -> torch.Tensor:
    model = load(base)
    model.load_state_dict(weights)
    with torch.no_grad():
        found: torch.Tensor = model(IDS).logits
    return found


def furthest(found: Weights, expected: Weights, base: Weights) -> float:
    """How far the worst weight is off, in units of 2^-22 of the larger of its base's and its change's largest value."""
    assert found.keys() == expected.keys()
    worst = 0.0
    for name, tensor in expected.items():
        assert found[name].shape == tensor.shape
        assert found[name].dtype == torch.float32
        largest = torch.maximum(base[name].abs().max(), (tensor - base[name]).abs().max())
        worst = max(worst, float((found[name] - tensor).abs().max() / (2.0**-22 * largest)))
    return worst
