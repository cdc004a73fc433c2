"""What a config's fields mean to transformers where they are null, said twice, or stand beside the text model's."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from configs import read_fields, written_config
from exported import planned, written
from f32_logits import f32_logits
from test_family_logits import DELTA_BOUND, F32_BOUND, GELU_BOUND, transformers_logits
from tiny import TINY, make

from exporter.errors import PlanError, RunError
from exporter.plan import Plan

FULL = ["full_attention"]
ROPE = {"rope_type": "default", "rope_theta": 500.0}
PART = {"rope_type": "default", "partial_rotary_factor": 0.5}


def altered(run: Path, fields: Mapping[str, object], *, top: bool = False, gone: str | None = None) -> Path:
    """Set fields of the text model in config.json, or beside them, null as null; ``gone`` leaves the text model's."""
    file = run / "config.json"
    config = json.loads(file.read_text())
    text = config.get("text_config", config)
    (config if top else text).update(fields)
    if gone is not None:
        text.pop(gone, None)
    file.write_text(json.dumps(config))
    return run


def compared(run: Path, bound: float) -> Plan:
    """The plan of a run; asserts that its f32 file computes what transformers does."""
    plan, files = written(run, run.parent / "out")
    ids = np.random.default_rng(0).integers(3, 300, 48).astype(np.int32)
    truth = transformers_logits(run, ids)
    assert np.abs(f32_logits(files["f32"], ids) - truth).max() < bound * truth.std()
    return plan


@pytest.fixture
def _quiet() -> None:
    from transformers.utils import logging  # noqa: PLC0415

    logging.set_verbosity_error()
    logging.disable_progress_bar()


# Layers of Gemma 3 with vision: as many as GELU's bound is taken for.
SIGHTED = GELU_BOUND * len([one for one in TINY["gemma3-vision"].config["text_config"]["layer_types"] if one])
COMPUTED: dict[str, tuple[str, dict[str, object], dict[str, Any]]] = {
    **{f"{name}: null is all of a head": (name, {"partial_rotary_factor": None}, {}) for name in ("glm", "glm4")},
    "qwen3next: null is all of a head": ("qwen3next", {"partial_rotary_factor": None}, {}),
    "a window beside the text": ("gemma3-vision", {"sliding_window": 3}, {"top": True, "gone": "sliding_window"}),
    "a base beside the text": ("gemma3-vision", {"rope_theta": 77.0}, {"top": True, "gone": "rope_theta"}),
    "an epsilon beside the text": ("gemma3-vision", {"rms_norm_eps": 0.5}, {"top": True, "gone": "rms_norm_eps"}),
    "a cap that the class ignores": ("gemma3-vision", {"final_logit_softcapping": 8.0}, {}),
    "all groups of experts": ("deepseek3", {"n_group": 2, "topk_group": 2}, {}),
}


@pytest.mark.usefixtures("_quiet")
@pytest.mark.filterwarnings("default")  # deprecations inside transformers
@pytest.mark.parametrize("case", COMPUTED)
def test_fields_mean_what_they_mean_to_transformers(case: str, tmp_path: Path) -> None:
    name, fields, how = COMPUTED[case]
    run = altered(make(name, tmp_path / "run"), fields, **how)
    bound = {"gemma3-vision": SIGHTED, "qwen3next": DELTA_BOUND}.get(name, F32_BOUND)
    compared(run, bound)


NO_PAIRS: tuple[float, ...] = (0.0, -0.5, 0.85, 1.5)
REFUSED: tuple[tuple[str, Mapping[str, object], str], ...] = (
    ("deepseek3", {"rope_interleave": None}, "rope_interleave is False; llama.cpp computes deepseek2 only with True"),
    ("gptneox", {"rope_theta": 7.0}, "rope_theta is 7.0 and rotary_emb_base is 10000.*: two names of one field"),
    ("gptneox", {"rope_scaling": PART}, "partial_rotary_factor is 0.5 and rotary_pct is 0.25: two names"),
    ("gpt2", {"num_attention_heads": 2}, "num_attention_heads is 2 and n_head is 4: two names of one field"),
    ("gemma4-moe", {"num_experts_per_tok": 1}, "num_experts_per_tok is 1 and top_k_experts is 2: two names"),
    ("llama", {"rope_scaling": ROPE}, "rope_theta is 10000.0 beside the rotation's parameters, and 500.0 among them"),
    ("glm4", {"rope_scaling": PART, "partial_rotary_factor": 0.25}, "partial_rotary_factor is 0.25 beside .* and 0.5"),
    *(
        (name, {field: value}, r"rope_dim cannot be worked out \(.*, not some pairs\)")
        for name, field in (("qwen3next", "partial_rotary_factor"), ("glm", "partial_rotary_factor"))
        for value in NO_PAIRS
    ),
    ("phi2", {"partial_rotary_factor": 0.0}, "which is 0 of a head's 16, not some pairs"),
    ("stablelm", {"partial_rotary_factor": 2.0}, "which is 32 of a head's 16, not some pairs"),
    ("deepseek3", {"n_group": 3, "topk_group": 1}, r"groups cannot be worked out \(.* are not 3 groups \(n_group\)"),
    ("deepseek3", {"n_group": 2, "topk_group": 3}, "topk_group is 3, expected a number from 1 to n_group, 2"),
    ("deepseek3", {"n_group": 0}, "topk_group is .*, expected a number from 1 to n_group, 0"),
    ("olmo3", {"layer_types": FULL * 4}, "some layer windowed is False; llama.cpp computes olmo2 only with True"),
    ("qwen3next", {"layer_types": FULL * 5}, "some layer linear is False; llama.cpp computes qwen3next only with True"),
    ("qwen35", {"full_attention_interval": 1, "layer_types": None}, "some layer linear is False"),
    ("gemma4-moe", {"layer_types": FULL * 3}, "some layer windowed is False; llama.cpp computes gemma4 only with True"),
)


@pytest.mark.parametrize(("name", "fields", "message"), REFUSED)
def test_what_says_two_things_or_stops_llamacpp_is_refused(
    name: str, fields: Mapping[str, object], message: str, tmp_path: Path
) -> None:
    run = make(name, tmp_path / "run")
    planned(run, "f32")
    with pytest.raises(RunError, match=message):
        planned(altered(run, fields), "f32")


def test_what_stands_beside_the_text_is_not_the_texts(tmp_path: Path) -> None:
    run = make("mistral3", tmp_path / "run")
    with pytest.raises(PlanError, match="rms_norm_eps is None"):  # its two text models have no default in common
        planned(altered(run, {"rms_norm_eps": 1e-5}, top=True, gone="rms_norm_eps"), "f32")


def test_two_names_may_agree_and_a_tokenizers_length_is_no_name(tmp_path: Path) -> None:
    assert read_fields(written_config("gpt2", tmp_path, num_attention_heads=4), "gpt2")["num_attention_heads"] == 4
    rope = {"rope_scaling": ROPE | {"rope_theta": 10000.0}}
    assert read_fields(written_config("llama", tmp_path, **rope), "llama")["rope_theta"] == 10000.0
    longer = written_config("command-r", tmp_path, max_position_embeddings=64, model_max_length=128)
    assert read_fields(longer, "command-r")["max_position_embeddings"] == 128


def test_experts_of_a_model_without_them_are_not_written(tmp_path: Path) -> None:
    run = altered(make("gemma4", tmp_path / "run"), {"num_experts": 2, "top_k_experts": 1})
    assert not [key for key in planned(run, "f32").outputs[0].metadata if "expert" in key]


def test_a_base_that_transformers_5_gives_to_some_layers_alone_is_a_warning(tmp_path: Path) -> None:
    run = make("olmo3", tmp_path / "run")
    assert not [one for one in planned(run, "f32").warnings if "rope_theta" in one]
    said = [one for one in planned(altered(run, {"rope_theta": 10000.0}), "f32").warnings if "rope_theta" in one]
    assert len(said) == 1
    assert "rope_theta (10000.0), as transformers 4 does; transformers 5 takes 500000" in said[0]
    both = {"full_attention": {"rope_type": "default", "rope_theta": 1e4}}
    both["sliding_attention"] = both["full_attention"]
    v5 = altered(make("olmo3", tmp_path / "v5", spelling="v5"), {"rope_parameters": both})
    assert not [one for one in planned(v5, "f32").warnings if "rope_theta" in one]
