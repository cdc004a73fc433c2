"""Tokens trained alone on a tied base, the other matrix trained otherwise: refused where PEFT cannot run it."""

from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from adapters import adapted, finished, load, one_thread, quiet, source_of, train
from exported import change_json
from tiny import make

from converters.spec import EMBEDDING, HEAD
from exporter.errors import MergeError

__all__ = ["one_thread"]
IDS = torch.tensor([[1, 3, 200, 33, 5, 290, 8, 64]])
WAYS = ("none", "tokens", "lora", "saved")
MODES: tuple[Mapping[str, Any], ...] = (
    {},
    {"use_dora": True},
    {"ensure_weight_tying": True},
    {"use_dora": True, "lora_dropout": 0.1},  # PEFT can train it, and not answer with it
)


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return {name: make(name, folder / name) for name in ("qwen2", "llama")}


def fields_of(ways: tuple[str, str]) -> dict[str, Any]:
    """Fields of LoraConfig for a way of training the embedding, and one for the head."""
    modules = dict(zip(("embed_tokens", "lm_head"), ways, strict=True))
    return {
        "target_modules": ["q_proj", *(name for name, way in modules.items() if way == "lora")],
        "modules_to_save": [name for name, way in modules.items() if way == "saved"] or None,
        "trainable_token_indices": {name: [3, 5] for name, way in modules.items() if way == "tokens"},
    }


def can_wrap(base: Path, fields: Mapping[str, Any]) -> bool:
    """Whether PEFT makes a model of a configuration."""
    try:
        with quiet():
            peft.get_peft_model(load(base), peft.LoraConfig(**fields))
    except (TypeError, ValueError):
        return False
    return True


def live(base: Path, run: Path) -> torch.Tensor | None:
    """The logits of the live adapter; None where PEFT cannot run it."""
    try:
        with torch.no_grad(), quiet():
            logits: torch.Tensor = adapted(load(base), run)(IDS).logits
    except (AttributeError, TypeError, ValueError):
        return None
    return logits


def ours(base: Path, run: Path) -> torch.Tensor | None:
    """The logits of the finished weights; None where the run is refused for what PEFT cannot run."""
    try:
        found = finished(source_of(run, base))
    except MergeError as error:
        assert "PEFT" in str(error)  # noqa: PT017
        return None
    model = load(base, untied=True)
    model.load_state_dict({HEAD: found[EMBEDDING]} | found)
    with torch.no_grad():
        logits: torch.Tensor = model(IDS).logits
    return logits


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("ways", [ways for ways in product(WAYS, repeat=2) if "tokens" in ways])
@pytest.mark.parametrize("name", ["qwen2", "llama"])
def test_what_peft_cannot_run_is_refused_and_nothing_else(
    name: str, ways: tuple[str, str], mode: Mapping[str, Any], *, bases: dict[str, Path], tmp_path: Path
) -> None:
    fields = fields_of(ways) | mode
    able = can_wrap(bases[name], fields)
    run = train(load(bases[name]), tmp_path, **(fields if able else fields | {"ensure_weight_tying": False}))
    change_json(run / "adapter_config.json", ensure_weight_tying=fields.get("ensure_weight_tying", False))
    expected, found = live(bases[name], run), ours(bases[name], run)
    assert able or expected is None
    if expected is None or found is None:
        assert found is expected
    else:
        assert float((found - expected).abs().max()) < 1e-4


@pytest.mark.parametrize(
    ("ways", "fields", "words"),
    [
        (
            ("tokens", "saved"),
            {},
            r"model\.embed_tokens\.weight .*lm_head\.weight.* was saved whole \(modules_to_save\)",
        ),
        (("tokens", "lora"), {"use_dora": True}, r"model\.embed_tokens\.weight .*lm_head.* was trained with DoRA"),
        (
            ("saved", "tokens"),
            {"ensure_weight_tying": True},
            r"tokens of lm_head\.weight .*embed_tokens.* was saved whole",
        ),
    ],
)
def test_the_message_names_both(
    ways: tuple[str, str], fields: dict[str, Any], words: str, *, bases: dict[str, Path], tmp_path: Path
) -> None:
    run = train(load(bases["qwen2"]), tmp_path, **(fields_of(ways) | fields))
    with pytest.raises(MergeError, match=words + r".*Train again with both of them in modules_to_save"):
        source_of(run, bases["qwen2"])
