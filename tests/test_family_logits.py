"""Every family's files against what they compute: transformers, or a reference in the test."""

import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from exported import change_json, planned, written
from f32_logits import f32_logits
from native import NATIVE
from numpy.typing import NDArray
from tiny import TINY, make, weights

from converters import ALL, REFUSED
from exporter.errors import RunError
from exporter.llamacpp import Engine, Shape

if TYPE_CHECKING:
    import torch

Logits = NDArray[np.float32]


# What was seen, and some room. Between float32 and float32 only the order of the sums differs: 3e-6 of the logits'
# standard deviation at the most. llama.cpp's GELU is a table of f16 values, and transformers is given the same in the
# test; what remains are numbers that were rounded the other way before the table: 9e-5 for each layer with a gate after
# it, 2.7e-4 for one without. The verifier's engine keeps keys and values in f16 and uses flash attention in f16: 9e-3,
# and a KLD of 3e-6.
F32_BOUND, GELU_BOUND, ENGINE_BOUND, ENGINE_KLD = 2e-5, 2e-4, 2e-2, 1e-5
UNGATED_BOUND = 5e-4
# Delta nets carry a sum from token to token: transformers' own float32 is 4e-5 from its float64, and llama.cpp's 2e-5.
DELTA_BOUND, DELTA_NETS = 1e-4, {"qwen3next", "qwen35", "qwen35moe"}


def sparse_as_llamacpp(inputs: "torch.Tensor") -> "torch.Tensor":
    """Gemma 3n's sparse activations with the deviation as llama.cpp computes it: over n - 1 of n numbers.

    Of the real models' 8192 or 16384 numbers that changes the deviation by 6e-5 of itself, at the most.
    """
    deviation = inputs.std(dim=-1, keepdim=True)  # torch's is over n - 1 where transformers does not ask otherwise
    return (inputs - inputs.mean(dim=-1, keepdim=True) - 1.6448535919189453 * deviation).relu()


def transformers_logits(folder: Path, ids: NDArray[np.int32]) -> Logits:
    """The logits after each of the ids by transformers, in float32; GELU takes and gives f16 values."""
    import torch  # noqa: PLC0415
    import transformers  # noqa: PLC0415

    architecture = json.loads((folder / "config.json").read_text())["architectures"][0]
    kind = getattr(transformers, architecture)
    model = kind.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    for module in model.modules():
        if "GELU" in type(module).__name__.upper():
            module.register_forward_pre_hook(lambda _, given: (given[0].half().float(),))
            module.register_forward_hook(lambda _, __, result: result.half().float())
        if hasattr(module, "_gaussian_topk"):
            module._gaussian_topk = sparse_as_llamacpp
    with torch.no_grad():
        logits: Logits = model(input_ids=torch.from_numpy(ids.astype(np.int64))[None]).logits[0].numpy()
    return logits


def engine_logits(file: Path, ids: NDArray[np.int32]) -> Logits:
    """The logits after each of the ids as the verifier computes them."""
    with Engine(file) as engine:
        engine.start(Shape(len(ids), len(ids), len(ids), 1))
        logits = np.empty((engine.decode(ids, 0), engine.facts.n_vocab), np.float32)
        engine.rows(0, logits)
    return logits


def divergence(truth: Logits, found: Logits) -> float:
    """The mean KLD in nats, over positions."""
    p, q = (rows - np.logaddexp.reduce(rows, axis=1)[:, None] for rows in (truth.astype(float), found.astype(float)))
    return float((np.exp(p) * (p - q)).sum(axis=1).mean())


@dataclass(frozen=True)
class Computed:
    """The f32 file of a run, ids, and the logits that transformers gives after each of them."""

    file: Path
    ids: NDArray[np.int32]
    truth: Logits


def logits_of(original: Path, tiny: str | None, ids: NDArray[np.int32]) -> Logits:
    """The truth: by transformers, or by the reference of a tiny model that transformers has no class for."""
    if tiny is None or (forward := TINY[tiny].forward) is None:
        return transformers_logits(original, ids)
    return forward(weights(tiny), dict(TINY[tiny].config), ids)


def compare_with_transformers(run: Path, original: Path, tiny: str | None = None) -> Computed:
    """Assert that the f32 file of a run computes what its checkpoint does."""
    plan, files = written(run, run.parent / "out")
    rows = next(job.shape[0] for job in plan.jobs if job.tensor == "token_embd.weight")
    # Three times the windows of the tiny Gemmas; the last rows are the ones that stand for images.
    ids = np.random.default_rng(0).integers(3, min(rows, 500), 48).astype(np.int32)
    truth = logits_of(original, tiny, ids)
    assert truth.std() > 0.1  # of random weights, yet no constant
    layers = len([job for job in plan.jobs if job.tensor.endswith(".attn_norm.weight")])
    ungated = plan.arch in {"phi2", "starcoder2", "gpt2", "gptneox"}
    gelu = UNGATED_BOUND if ungated else GELU_BOUND if plan.arch.startswith("gemma") else 0
    usual = max(gelu * layers, DELTA_BOUND if plan.arch in DELTA_NETS else F32_BOUND)
    bound = usual if tiny is None or TINY[tiny].bound is None else TINY[tiny].bound
    assert np.abs(f32_logits(files["f32"], ids) - truth).max() < bound * truth.std()
    return Computed(files["f32"], ids, truth)


@pytest.fixture
def _quiet() -> None:
    """Progress bars and advice of transformers are not ours to test."""
    from transformers.utils import logging  # noqa: PLC0415

    logging.set_verbosity_error()
    logging.disable_progress_bar()


@pytest.mark.usefixtures("_quiet")
@pytest.mark.filterwarnings("default")  # deprecations inside transformers
@pytest.mark.parametrize("name", TINY)
def test_files_compute_what_transformers_computes(name: str, tmp_path: Path) -> None:
    run = make(name, tmp_path / "run")
    twin = name if TINY[name].loads else name.partition("-")[0]  # the same weights in a layout transformers reads
    computed = compare_with_transformers(run, make(twin, tmp_path / "original"), name)
    found = engine_logits(computed.file, computed.ids)
    assert np.abs(found - computed.truth).max() < ENGINE_BOUND * computed.truth.std()
    assert divergence(computed.truth, found) < ENGINE_KLD


@pytest.mark.usefixtures("_quiet")
@pytest.mark.filterwarnings("default")
def test_llamacpp_adds_no_epsilon_in_the_norms_of_qwen2vl(tmp_path: Path) -> None:
    run = make("qwen2vl", tmp_path / "run")
    change_json(run / "config.json", rms_norm_eps=1e-5)
    plan, files = written(run, tmp_path / "out")
    ids = np.arange(3, 51, dtype=np.int32)
    found = f32_logits(files["f32"], ids)
    as_trained = transformers_logits(run, ids)
    change_json(run / "config.json", rms_norm_eps=0.0)
    without = transformers_logits(run, ids)
    assert np.abs(found - without).max() < F32_BOUND * without.std() < np.abs(found - as_trained).max()
    assert any("without their epsilon of 1e-05" in warning for warning in plan.warnings)


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8192}
SAVED: Mapping[str, tuple[str, Mapping[str, object]]] = {
    **{
        family.name: (next(n for n, t in TINY.items() if t.architecture in family.architectures), {})
        for family in ALL
        if NATIVE.isdisjoint(family.architectures)
    },
    "llama, biases everywhere": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama, yarn": ("llama", {"rope_scaling": YARN, "max_position_embeddings": 32768}),
    "llama, dynamic": ("llama", {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}),
    "qwen2, yarn": ("qwen2", {"rope_scaling": YARN | {"beta_fast": 32}, "max_position_embeddings": 32768}),
    **{
        f"{name}, yarn": (name, {"rope_scaling": YARN, "max_position_embeddings": 32768})
        for name in ("smollm3", "granite", "granitemoe", "glm4")
    },
    "qwen2, a head of its own": ("qwen2", {"tie_word_embeddings": False}),
    "gemma3, a head of its own": ("gemma3", {"tie_word_embeddings": False}),
    "gemma3n, a head of its own": ("gemma3n", {"tie_word_embeddings": False}),
    "mistral, no groups": ("mistral", {"num_key_value_heads": 4}),
    "gemma2, as 27B": ("gemma2", {"num_hidden_layers": 46, "query_pre_attn_scalar": 16, "layer_types": None}),
    "gemma3, as 27B": ("gemma3", {"num_hidden_layers": 62, "query_pre_attn_scalar": 16, "layer_types": None}),
}
"""A tiny model, and what of its configuration is changed; the weights are transformers' own."""


@pytest.mark.usefixtures("_quiet")
@pytest.mark.filterwarnings("default")  # deprecations inside transformers
@pytest.mark.parametrize("name", [name for name, (tiny, _) in SAVED.items() if TINY[tiny].forward is None])
def test_what_transformers_saves_computes_the_same(name: str, tmp_path: Path) -> None:
    import torch  # noqa: PLC0415
    import transformers  # noqa: PLC0415

    tiny, changes = SAVED[name]
    fields = dict(TINY[tiny].config) | {"initializer_range": 0.1} | dict(changes)
    fields = {key: value for key, value in fields.items() if value is not None or key not in changes}
    # A copy, since transformers writes into what it is given.
    config = transformers.AutoConfig.for_model(fields.pop("model_type"), **deepcopy(fields))
    torch.manual_seed(0)
    model = getattr(transformers, TINY[tiny].architecture)(config)
    for key, value in model.named_parameters():
        if key.endswith("bias"):  # begin as zeros, which would hide one that is left out
            torch.nn.init.normal_(value, std=0.1)
        own = TINY[tiny].spread
        if "norm" in key and own and (spread := own(key, tuple(value.shape))):  # those that keep a deep model calm
            torch.nn.init.normal_(value, *spread)
    run = make(tiny, tmp_path / "run")
    (run / "model.safetensors").unlink()
    model.save_pretrained(run)
    compare_with_transformers(run, run)


YARN_REFUSED = [("llama", {"beta_fast": 16}), ("qwen3", {"beta_slow": 2.0}), ("qwen2", {"extrapolation_factor": 0.5})]
YARN_REFUSED += [(name, {"attention_factor": 1.5}) for name in ("llama", "mistral", "mixtral", "qwen2moe", "qwen3moe")]


@pytest.mark.parametrize(("name", "field"), YARN_REFUSED)
def test_yarn_that_llamacpp_does_not_compute_is_refused(name: str, field: dict[str, object], tmp_path: Path) -> None:
    run = make(name, tmp_path / "run")
    change_json(run / "config.json", rope_scaling=YARN | field)
    with pytest.raises(RunError, match=f"rope_{next(iter(field))} is"):
        planned(run, "f32")


@pytest.mark.parametrize("architecture", REFUSED)
def test_what_llamacpp_computes_wrongly_is_refused(architecture: str, tmp_path: Path) -> None:
    run = make("llama", tmp_path / "run")
    change_json(run / "config.json", architectures=[architecture])
    with pytest.raises(RunError, match=f"{architecture} is not exported: llama.cpp"):
        planned(run, "f32")
