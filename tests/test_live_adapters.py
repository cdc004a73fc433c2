"""Exported files against the live adapter: logits of the f32 GGUF in llama.cpp, and of PEFT's model."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from adapters import adapted, load, one_thread, quiet, train
from exported import written
from f32_logits import f32_logits
from tiny import make

__all__ = ["one_thread"]
MODELS = Path(__file__).resolve().parents[1] / "models"
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
REAL: dict[str, dict[str, Any]] = {
    "dora": {"target_modules": LINEAR, "use_dora": True},
    "rslora": {"target_modules": LINEAR, "use_rslora": True, "lora_alpha": 2},
    "trained head": {"target_modules": ["q_proj", "v_proj"], "modules_to_save": ["lm_head"]},
}
TINY: dict[str, dict[str, Any]] = {
    "mixtral": {"target_modules": ["q_proj"], "target_parameters": ["experts.gate_up_proj", "experts.down_proj"]},
    "qwen3moe-fused": {"target_modules": [], "target_parameters": ["experts.down_proj"]},
    "llama-bias": {"target_modules": ["q_proj", "v_proj"], "use_dora": True, "bias": "all"},
    "qwen2": {"target_modules": ["q_proj"], "trainable_token_indices": [3, 5]},
}


def compare(base: Path, folder: Path, fields: dict[str, Any], ids: list[int]) -> tuple[float, float]:
    """The largest difference of logits over their spread, and how far training moved them, the same."""
    run = train(load(base), folder / "run", **fields)
    _, files = written(run, folder / "out")
    found = torch.from_numpy(f32_logits(files["f32"], np.asarray(ids, np.int32)))
    with torch.no_grad(), quiet():
        before = load(base)(torch.tensor([ids])).logits[0]
        live = adapted(load(base), run)(torch.tensor([ids])).logits[0]
    spread = float(live.std())
    return float((found - live).abs().max()) / spread, float((before - live).abs().max()) / spread


@pytest.mark.filterwarnings("default")  # deprecations inside transformers and PEFT
@pytest.mark.parametrize("name", TINY)
def test_a_tiny_models_logits_are_the_live_adapters(name: str, tmp_path: Path) -> None:
    base = make(name, tmp_path / "base")
    off, moved = compare(base, tmp_path, TINY[name], [1, 5, 3, 8, 9, 2, 7, 250, 31, 5, 3])
    assert off < 1e-4
    assert moved > 0.01


@pytest.mark.filterwarnings("default")  # deprecations inside transformers and PEFT
@pytest.mark.parametrize("name", REAL)
def test_smollm2s_logits_are_the_live_adapters(name: str, tmp_path: Path) -> None:
    base = MODELS / "smollm2-135m-instruct"
    if not base.exists():
        pytest.skip("make models")
    off, moved = compare(base, tmp_path, REAL[name], [1, 4093, 198, 1780, 314, 260, 3575, 282, 4649, 47, 2])
    assert off < 1e-3
    assert moved > 0.01
