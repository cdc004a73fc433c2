"""Fields of adapter_config.json: the forms in which PEFT reads them; any other is refused by name."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, TypeGuard

from exporter.errors import MergeError

if TYPE_CHECKING:
    from pathlib import Path

LARGEST = 1e30
MOST_RANKS = 2**31
LONGEST = 300
"""Characters of a value that a message shows."""


@dataclass(frozen=True)
class Form:
    """What a field may be: in words, and as a test of the value."""

    expected: str
    fits: Callable[[object], bool]


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value of a JSON file is a number, and finite."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST


def _is_rank(value: object) -> bool:
    return type(value) is int and 0 < value < MOST_RANKS


def _is_text(value: object) -> bool:
    return value is None or isinstance(value, str)


def _is_flag(value: object) -> bool:
    return value is None or isinstance(value, bool)


def _are_texts(value: object) -> bool:
    return value is None or (isinstance(value, list) and all(isinstance(one, str) for one in value))


def _are_names(value: object) -> bool:
    return isinstance(value, str) or _are_texts(value)


def _are_whole(value: object) -> bool:
    return isinstance(value, list) and all(type(one) is int for one in value)


def _are_layers(value: object) -> bool:
    return value is None or type(value) is int or _are_whole(value)


def _are_tokens(value: object) -> bool:
    return value is None or _are_whole(value) or (isinstance(value, dict) and all(map(_are_whole, value.values())))


TEXT = Form("text, or null", _is_text)
FLAG = Form("true or false", _is_flag)
NAMES = Form("a list of modules' names, or one pattern as text", _are_names)
TEXTS = Form("a list of names, or null", _are_texts)
TOKENS = Form("a list of token ids, or such a list for each module", _are_tokens)

OF_ALL: Mapping[str, Form] = {
    "base_model_name_or_path": TEXT,
    "exclude_modules": NAMES,
    "layers_pattern": NAMES,
    "layers_to_transform": Form("a layer's number, a list of them, or null", _are_layers),
    "modules_to_save": TEXTS,
    "peft_version": TEXT,
    "target_modules": NAMES,
    "target_parameters": TEXTS,
    "token_indices": TOKENS,
    "trainable_token_indices": TOKENS,
}
"""Fields that are read here whatever the method; what else a method has, PEFT reads."""

OF_LORA: Mapping[str, Form] = {
    "alpha_pattern": Form(
        "an object of numbers by module", lambda value: isinstance(value, dict) and all(map(is_number, value.values()))
    ),
    "bias": Form('"none", "all" or "lora_only"', lambda value: value in {"none", "all", "lora_only"}),
    "ensure_weight_tying": FLAG,
    "fan_in_fan_out": FLAG,
    "lora_B_layout": TEXT,
    "lora_alpha": Form("a number", is_number),
    "lora_bias": FLAG,
    "r": Form("a whole number above 0", _is_rank),
    "rank_pattern": Form(
        "an object of whole numbers above 0, by module",
        lambda value: isinstance(value, dict) and all(map(_is_rank, value.values())),
    ),
    "use_dora": FLAG,
    "use_rslora": FLAG,
}
"""LoRA's own."""


def check_fields(config: Mapping[str, object], path: "Path") -> None:
    """MergeError for the first field that is not as PEFT writes it, or contradicts another.

    Args:
        config: adapter_config.json.
        path: the adapter's file of tensors, beside which it lies.
    """
    lora = config.get("peft_type") == "LORA"
    for name, form in chain(OF_ALL.items(), OF_LORA.items() if lora else ()):
        if name in config and not _fits(form, config[name]):
            raise MergeError(_wrong(path, f"{name} is {shown(config[name])}", form.expected))
    for found, expected in _contradictions(config) if lora else ():
        raise MergeError(_wrong(path, found, expected))


def _fits(form: Form, value: object) -> bool:
    try:
        return form.fits(value)
    except TypeError:  # a list or an object where only plain values may be
        return False


def _contradictions(config: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """What is found and expected of fields that PEFT's LoraConfig does not take together."""
    targets, layers, pattern = (
        config.get(name) for name in ("target_modules", "layers_to_transform", "layers_pattern")
    )
    if isinstance(targets, str) and not (layers is None and pattern is None):
        beside = f"layers_to_transform {shown(layers)} and layers_pattern {shown(pattern)}"
        yield f"target_modules is {shown(targets)} beside {beside}", "a list for the first, or null for the other two"
    if pattern and layers is None:
        yield f"layers_pattern is {shown(pattern)} without layers_to_transform", "both or neither"
    if config.get("lora_bias") and config.get("use_dora"):
        yield "lora_bias and use_dora are true", "one of them at most"


def _wrong(path: "Path", found: str, expected: str) -> str:
    return (
        f"{path.parent / 'adapter_config.json'}: {found}, expected {expected}. PEFT cannot load such an adapter. Copy "
        "the file from the run again, or put there what training had."
    )


def shown(value: object) -> str:
    """A field's value as the file spells it, for a message; cut where it is very long, and then saying so."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}... ({len(text)} characters)"


def other_base(config: Mapping[str, object]) -> str:
    """The end of the message where an adapter does not fit the base."""
    return (
        "It was trained over another base, or another revision of it. adapter_config.json names "
        f"{config.get('base_model_name_or_path')}: give that one with --base or --base-revision; if it is the one in "
        "use, the name is wrong, and the run's README.md or the training's configuration may tell the right one."
    )
