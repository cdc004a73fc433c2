"""Whether a run was trained over a base in 4 bits (QLoRA), and how that base was quantized: as the run's files say."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path

import yaml

from exporter.config import read_json
from exporter.errors import RunError
from exporter.run.base import FOUR_BIT
from exporter.run.folder import places
from exporter.run.hub import HUB_ID, expanded, in_cache, is_folder
from exporter.run.said import front_matter, read_text, tags_of
from exporter.run.values import FourBit, Run

KINDS = ("nf4", "fp4")
CARD = re.compile(r"`bitsandbytes` quantization config was used during training:\s*\n((?:[ \t]*- \w+:.*\n?)+)")
"""What PEFT writes into a model card: its ``create_or_update_model_card``."""
TAG = "qlora"
FENCE = re.compile(r"^```", re.MULTILINE)
LANGUAGES = ("", "yaml", "yml", "json")
"""Of blocks in a card that are settings; code may as well show how to load the model."""
INNER = ("bnb_config_kwargs", "model")
"""Mappings in a trainer's YAML that are looked into."""
DYNAMIC = re.compile(r"-(?:unsloth|dynamic)-bnb-4bit$", re.IGNORECASE)
"""Unsloth's names of repositories whose config.json lists modules that stay in 16 bits."""
NAME = re.compile(r"[\w.-]+")
NO = ("false", "no", "off", "0", "none", "null", "")
NOBODY_SAYS = (
    "--qlora-base nf4 was given, but no file of the run says that it was trained in 4 bits: if it was trained over the "
    "16-bit base, the rounding only makes the model worse. Leave --qlora-base out unless you know that it was QLoRA."
)
TRANSFORMERS = re.compile(r"^- Transformers:? (\d{1,4})\.", re.MULTILINE)
"""A line under "Framework versions", which the Trainer writes into a model card."""


def lay_over(run: Run, qlora_base: str) -> Run:
    """The run with what it says of 4 bits, and with the base that its adapter is to be laid over.

    Args:
        run: an opened run.
        qlora_base: ``full``: the base as it is stored; ``nf4``: rounded as training saw it.

    Raises:
        RunError: ``nf4`` for a run without an adapter, or with settings that are not known or not followed here.
    """
    said = read_four_bit(run)
    if qlora_base == "full":
        return replace(run, four_bit=said)
    if not run.adapters:
        raise RunError(
            f"{run.path}: is a full model, not an adapter, so --qlora-base {qlora_base} has no meaning. Leave it out."
        )
    settings = said or FourBit(transformers=_version(_places(run)))
    warnings = run.warnings if said else (*run.warnings, NOBODY_SAYS)
    if settings.unknown is not None:
        raise RunError(
            f"{run.path}: {settings.unknown} Without --qlora-base nf4 the adapter is laid over the 16-bit base."
        )
    notes = (*run.notes, _note(settings))
    return replace(run, four_bit=settings, qlora_base=qlora_base, notes=notes, warnings=warnings)


def read_four_bit(run: Run) -> FourBit | None:
    """What a run with an adapter says of 4 bits, the surest place first; None where nothing says so."""
    if not run.adapters:
        return None
    found = _places(run)
    ways = (_in_configs((*found, run.base)), _in_cards(found), _in_yamls(found), _in_names(run))
    said = next(chain(chain.from_iterable(ways), _in_blocks(found), _in_tags(found)), None)
    if said is None:
        return None
    return replace(said, transformers=_version(found), unknown=said.unknown or _not_followed(said))


def _places(run: Run) -> tuple[Path, ...]:
    """The folders of a run in which its trainer may have said something."""
    return places(run.path if is_folder(expanded(run.path)) else run.folder, run.folder)


def _not_followed(said: FourBit) -> str | None:
    """Why settings cannot be followed here, as a sentence; None where they can."""
    if said.kind not in KINDS:
        return f"{said.said_by} says that the base was quantized as {said.kind!r:.40}; known are {' and '.join(KINDS)}."
    odd = next((name for name in said.skipped or () if not NAME.fullmatch(name)), None)
    if odd is not None:
        return f"{said.said_by} lists {odd!r:.60} among the modules that stayed in 16 bits, which is no plain name."
    return None


def _note(settings: FourBit) -> str:
    """The note on how the base is rounded, and whose settings these are."""
    nested = "nested" if settings.nested else "plain"
    whose = (
        f"as {settings.said_by} says" if settings.said_by else "QLoRA's own settings, for no file of the run has any"
    )
    return (
        f"the adapter is laid over the base as rounded for training: {settings.kind} in blocks of 64 of the weights as "
        f"they are stored, {nested} scales ({whose})"
    )


def _in_configs(found: tuple[Path, ...]) -> Iterator[FourBit]:
    """By a config.json beside the adapter, as Axolotl writes it, or the base's."""
    for file in (place / "config.json" for place in found if (place / "config.json").is_file()):
        settings = read_json(file).get("quantization_config")
        if isinstance(settings, dict) and (one := _of_fields(settings, _called(file))):
            yield one


def _called(file: Path) -> str:
    """A file with its folder, as a message has it."""
    return f"{file.parent.name}/{file.name}"


def _in_cards(found: tuple[Path, ...]) -> Iterator[FourBit]:
    """By the list in the card that PEFT writes."""
    for place in found:
        listed = CARD.search(read_text(place / "README.md"))
        fields = dict(re.findall(r"- (\w+):[ \t]*(.*)", listed[1])) if listed else {}
        if one := _of_fields(fields, "README.md"):
            yield one


def _of_fields(fields: Mapping[str, object], said_by: str) -> FourBit | None:
    """By ``BitsAndBytesConfig``'s fields, with its own defaults; None where they are not of 4 bits."""
    if not (_yes(fields.get("load_in_4bit")) or _yes(fields.get("_load_in_4bit"))):
        return None
    skipped = fields.get("llm_int8_skip_modules")
    names = skipped if isinstance(skipped, list) else re.findall(r"'([^']+)'", str(skipped or ""))
    listed = bool(names) or isinstance(skipped, list)
    return FourBit(
        kind=str(fields.get("bnb_4bit_quant_type", "fp4")).strip().lower(),
        nested=_yes(fields.get("bnb_4bit_use_double_quant")),
        skipped=tuple(str(name) for name in names) if listed else None,
        said_by=said_by,
        because=said_by,
    )


def _in_yamls(found: tuple[Path, ...]) -> Iterator[FourBit]:
    """By the YAML of LLaMA-Factory, TRL or Axolotl, each with the trainer's own defaults."""
    for file in (file for place in found for pattern in ("*.yaml", "*.yml") for file in sorted(place.glob(pattern))):
        fields = _scalars(read_text(file))
        if one := _of_yaml(fields, file.name):
            yield one


def _of_yaml(fields: Mapping[str, str], name: str) -> FourBit | None:
    if "qlora" in fields.get("model._component_", ""):  # torchtune's models.llama3.qlora_…
        unknown = f"{name} is torchtune's, whose NF4 is torchao's and not that of bitsandbytes, so it cannot be redone."
        return FourBit(said_by=name, because=name, unknown=unknown)
    if fields.get("quantization_bit") == "4":  # LLaMA-Factory
        method = fields.get("quantization_method", "bnb").lower()
        unknown = f"{name} says that the base was quantized by {method}, and only bitsandbytes' 4 bits can be redone."
        return FourBit(
            kind=fields.get("quantization_type", "nf4").lower(),
            nested=_yes(fields.get("double_quantization", "true")),
            said_by=name,
            because=name,
            unknown=None if method in {"bnb", "bitsandbytes"} else unknown,
        )
    if not _yes(fields.get("load_in_4bit")):
        return None
    own = "false" if "dataset_name" in fields else "true"  # TRL's default, and Axolotl's
    nested = fields.get("bnb_config_kwargs.bnb_4bit_use_double_quant", fields.get("use_bnb_nested_quant", own))
    kind = fields.get("bnb_config_kwargs.bnb_4bit_quant_type", fields.get("bnb_4bit_quant_type", "nf4"))
    return FourBit(kind=kind.lower(), nested=_yes(nested), said_by=name, because=name)


def _in_names(run: Run) -> Iterator[FourBit]:
    """By the name of a 4-bit repository as the base's, and its config.json where that is in the Hub's cache."""
    for adapter in run.adapters:
        name = adapter.config.get("base_model_name_or_path")
        if not isinstance(name, str) or not FOUR_BIT.search(name):
            continue
        config = in_cache(name, "config.json") if HUB_ID.fullmatch(name) else None
        settings = read_json(config).get("quantization_config") if config else None
        told = _of_fields(settings, f"config.json of {name}") if isinstance(settings, dict) else None
        unknown = (
            f"the base was {name}, in which some modules stay in 16 bits, and the config.json that lists them is not "
            f"in the Hub's cache. --base {name} takes its weights as training saw them."
        )
        because = "adapter_config.json"
        yield told or FourBit(because=because, unknown=unknown if DYNAMIC.search(name) else None)


def _in_blocks(found: tuple[Path, ...]) -> Iterator[FourBit]:
    """By settings that stand in a card as a block of their own, as Axolotl's configuration does."""
    for place in found:
        parts = FENCE.split(read_text(place / "README.md"))
        for language, _, body in (part.partition("\n") for part in parts[1:-1:2]):  # inside of fences that are closed
            fields = _scalars(body) if language.strip().lower() in LANGUAGES else {}
            of = _of_fields if "bnb_4bit_use_double_quant" in fields else _of_yaml  # BitsAndBytesConfig's name for it
            if one := of(fields, "README.md"):
                yield one


def _in_tags(found: tuple[Path, ...]) -> Iterator[FourBit]:
    """By the tags of a model card, which say nothing of the settings; its prose may be on anything."""
    cards = (front_matter(read_text(place / "README.md")) or {} for place in found)
    yield from (FourBit(because="README.md") for fields in cards if TAG in tags_of(fields))


def _version(found: tuple[Path, ...]) -> int | None:
    """The first number of the version of transformers that a card names."""
    versions = (TRANSFORMERS.search(read_text(place / "README.md")) for place in found)
    return next((int(version[1]) for version in versions if version), None)


def _scalars(text: str) -> dict[str, str]:
    """A YAML mapping's plain values as they are written, by their names; those of INNER's mappings by ``a.b``."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    outer = _entries(node)
    inner = {f"{name}.{key}": value for name in INNER for key, value in _entries(outer.get(name)).items()}
    return {name: value.value for name, value in (outer | inner).items() if isinstance(value, yaml.ScalarNode)}


def _entries(node: yaml.Node | None) -> dict[str, yaml.Node]:
    """A mapping's nodes by their names; keys of another kind are left out, for an alias can make one without end."""
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    return {key.value: value for key, value in pairs if isinstance(key, yaml.ScalarNode)}


def _yes(value: object) -> bool:
    return value is not None and str(value).strip().lower() not in NO
