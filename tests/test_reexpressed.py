"""SmolLM2's weights in the layouts of other families: the same model, so the same perplexity. Needs ``make models``.

Mistral has a head of its own, equal to the embedding; Phi-3 fused projections; Qwen 2 biases of zero; Mixtral
the same expert three times, of which its random router takes any two: their weights are normed to a sum of 1.
"""

import json
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from exported import COMMAND, written
from safetensors.torch import load_file, save_file

MODEL = Path(__file__).resolve().parents[1] / "models" / "smollm2-135m-instruct"
SAME = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")
CHUNKS = 3
EXPERTS = 3
CLOSE = 0.001
"""How far the perplexity may be from the original's, relative to it."""
ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
BLOCK = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")

Weights = dict[str, torch.Tensor]

pytestmark = [pytest.mark.full, pytest.mark.filterwarnings("default")]  # deprecations inside transformers


def of_layer(weights: Weights, i: int, modules: tuple[str, ...]) -> list[torch.Tensor]:
    """Take a layer's matrices out of the weights."""
    return [weights.pop(f"model.layers.{i}.{module}.weight") for module in modules]


def with_head(weights: Weights, _layers: int) -> Weights:
    return weights | {"lm_head.weight": weights["model.embed_tokens.weight"].clone()}


def fused(weights: Weights, layers: int) -> Weights:
    for i in range(layers):
        qkv = torch.cat(of_layer(weights, i, ATTENTION))
        gate_up = torch.cat(of_layer(weights, i, BLOCK[:2]))
        weights[f"model.layers.{i}.self_attn.qkv_proj.weight"] = qkv
        weights[f"model.layers.{i}.mlp.gate_up_proj.weight"] = gate_up
    return weights


def with_biases(weights: Weights, layers: int) -> Weights:
    names = [f"model.layers.{i}.{module}" for i in range(layers) for module in ATTENTION]
    return weights | {f"{name}.bias": torch.zeros_like(weights[f"{name}.weight"][:, 0]) for name in names}


def with_experts(weights: Weights, layers: int) -> Weights:
    generator = torch.Generator().manual_seed(1)
    for i in range(layers):
        gate, up, down = of_layer(weights, i, BLOCK)
        moe = f"model.layers.{i}.block_sparse_moe"
        for e in range(EXPERTS):
            parts = zip(("w1", "w2", "w3"), (gate, down, up), strict=True)
            weights |= {f"{moe}.experts.{e}.{name}.weight": part.clone() for name, part in parts}
        router = torch.randn(EXPERTS, gate.shape[1], generator=generator)
        weights[f"{moe}.gate.weight"] = router.to(gate.dtype)
    return weights


# Class, what its configuration says beside the sizes, and what is done to the weights.
FORMS: Mapping[str, tuple[str, Mapping[str, object], Callable[[Weights, int], Weights]]] = {
    "mistral": ("Mistral", {"sliding_window": None, "tie_word_embeddings": False}, with_head),
    "phi3": ("Phi3", {"sliding_window": None, "original_max_position_embeddings": 8192}, fused),
    "qwen2": ("Qwen2", {"use_sliding_window": False}, with_biases),
    "mixtral": (
        "Mixtral",
        {"sliding_window": None, "num_local_experts": EXPERTS, "num_experts_per_tok": 2},
        with_experts,
    ),
}
SIZES = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
    *("vocab_size", "max_position_embeddings", "rms_norm_eps", "rope_parameters", "tie_word_embeddings"),
    *("bos_token_id", "eos_token_id", "pad_token_id"),
)


def reexpressed(name: str, run: Path) -> Path:
    """SmolLM2 as a checkpoint of another family."""
    import transformers  # noqa: PLC0415  (seconds to import)

    kind, says, change = FORMS[name]
    config = json.loads((MODEL / "config.json").read_text())
    fields = {key: config[key] for key in SIZES} | dict(says) | {"dtype": "bfloat16"}
    if name in {"mistral", "mixtral"}:
        fields["head_dim"] = config["head_dim"]
    made = getattr(transformers, f"{kind}Config")(architectures=[f"{kind}ForCausalLM"], **fields)
    made.save_pretrained(run)
    weights = {key: part for file in sorted(MODEL.glob("*.safetensors")) for key, part in load_file(file).items()}
    save_file(change(weights, config["num_hidden_layers"]), run / "model.safetensors", {"format": "pt"})
    for file in SAME:
        shutil.copyfile(MODEL / file, run / file)
    return run


def verified(reference: Path, file: Path, *options: str) -> dict[str, Any]:
    """The document of ``ggufx verify``."""
    command = [*COMMAND, "verify", str(reference), str(file), "--json", "--chunks", str(CHUNKS), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    if not MODEL.exists():
        pytest.skip("make models")
    return written(MODEL, tmp_path_factory.mktemp("original"), ("bf16", "q8_0"), threads=2)[1]


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("level", ["bf16", "q8_0"])
def test_the_same_weights_as_another_family(name: str, level: str, original: dict[str, Path], tmp_path: Path) -> None:
    run = reexpressed(name, tmp_path / "run")
    plan, files = written(run, tmp_path / "out", (level,), threads=2)
    document = verified(original[level], files[level])
    (block,) = document["levels"]
    expected, found = document["reference"]["perplexity"]["value"], block["perplexity"]["value"]
    print(f"{name} {level} {plan.arch}: {found:.6f}, original {expected:.6f}, KLD {block['kld']['mean']:.2e}")  # noqa: T201  (for benchmarks/README.md)
    shutil.rmtree(tmp_path)  # hundreds of megabytes
    assert found == pytest.approx(expected, rel=CLOSE)
