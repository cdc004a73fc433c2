"""The config with what its family fills in, and what llama.cpp's graph cannot compute refused."""

from pathlib import Path
from typing import cast

from converters.spec import AtLayers, Config, Family, Ratio, Required, SameAs
from exporter.config.numbers import LARGEST, number, shown
from exporter.config.read import ALL_WINDOWED, NULLABLE
from exporter.errors import RunError

# Numbers of things: whole, below 2^31; above 0 wherever GGUF needs one.
COUNTS = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "intermediate_size",
    "max_position_embeddings",
    "vocab_size",
    "sliding_window",
    "num_experts",
    "num_experts_per_tok",
    "moe_intermediate_size",
    "shared_expert_intermediate_size",
)
# What most graphs know nothing of; a family that does says so in its own requirements, where () stands for any value.
FEW_KNOW: dict[str, tuple[Required, ...]] = {
    "partial_rotary_factor": (1.0, None),
    "rope_sections": (None,),
    "rope_interleaved": (None,),
    "rope_mscale": (None,),
    "rope_mscale_all_dim": (None,),
    "rope_truncate": (True, None),
    "rope_scaling_beta": (None,),
    "rope_context": (None,),
    "rope_dynamic_factor": (None,),
}
NO_SYNONYM = "model_max_length"
"""A field of its own, which a family takes in place of ours where both are there."""
NEEDED = ("hidden_size", "num_hidden_layers", "num_attention_heads")


def complete(config: Config, family: Family, path: Path) -> tuple[dict[str, object], tuple[str, ...]]:
    """The config with the family's defaults, and warnings about fields that llama.cpp ignores.

    RunError where a field that GGUF cannot say has a value that llama.cpp's graph does not compute.
    """
    full = {"rope_type": "default"} | dict(config)
    full |= _in_our_names(full, family, path)
    _check_counts(full, family, path)
    full |= {key: number(full[key], key, path) for key in family.floats if full.get(key) is not None}
    for key, default in family.defaults.items():
        if key not in full and default is not None:
            full[key] = _value(default, full)
    _derive(full, family, path)
    _check_nulls(full, family, path)
    pattern = family.requires.get("sliding_window_pattern", (0,))[0]
    if full.get("sliding_window_pattern") == ALL_WINDOWED and cast("int", full["num_hidden_layers"]) < cast(
        "int", pattern
    ):
        del full["sliding_window_pattern"]  # too few layers for the first full one
    for key, accepted in {**FEW_KNOW, **family.requires}.items():
        values = [_value(value, full) for value in accepted]
        found = full.get(key)
        if accepted and (tuple(found) if isinstance(found, list) else found) not in values:
            raise RunError(
                f"{path}: {key} is {found!r}; llama.cpp computes {family.arch} only with "
                f"{' or '.join(repr(value) for value in values if value is not None) or 'none'}. "
                "The finished file would answer differently from the trained model, so it is not made."
            )
    warnings = [note.format(value=full[key]) for key, note in family.notes.items() if full.get(key) is not None]
    return full, tuple(warnings)


def _in_our_names(full: Config, family: Family, path: Path) -> dict[str, object]:
    """The fields that a family calls otherwise, by our names. RunError where a field has both, and they differ."""
    said = {ours: full[theirs] for ours, theirs in family.fields.items() if full.get(theirs) is not None}
    for ours, value in said.items():
        if full.get(ours) not in (None, value) and family.fields[ours] != NO_SYNONYM:
            raise RunError(
                f"{path}: {ours} is {shown(full[ours])} and {family.fields[ours]} is {shown(value)}: two names of one "
                "field. Remove the one that the model was not trained with; the base model's config tells."
            )
    return said


def _derive(full: dict[str, object], family: Family, path: Path) -> None:
    """Add the fields that a family works out from the others. RunError where they do not allow it."""
    for key, derive in family.derived.items():
        try:
            full[key] = derive(full)
        except (ValueError, TypeError, KeyError) as error:
            raise RunError(
                f"{path}: {key} cannot be worked out ({error}). Restore the file from the base model."
            ) from error


def _check_counts(config: Config, family: Family, path: Path) -> None:
    """RunError for a number of things that is absent where the family has no default, or no such number."""
    written = family.metadata.values()
    for name in (*COUNTS, *family.counts):
        value = config.get(name)
        if name in family.derived or (value is None and (name in family.defaults or name not in NEEDED)):
            continue
        whole = isinstance(value, int) and not isinstance(value, bool)
        lowest = 1 if name in written or name in NEEDED or name == "head_dim" else 0
        if not whole or not lowest <= cast("int", value) < LARGEST:
            raise RunError(
                f"{path}: {name} is {shown(value)}, expected a whole number from {lowest} to {LARGEST - 1}. "
                "Copy it from the base model's config."
            )


def _check_nulls(config: Config, family: Family, path: Path) -> None:
    """RunError where a field says "none" that llama.cpp always computes with."""
    for name in NULLABLE:
        if name in config and config[name] is None and name in family.metadata.values():
            raise RunError(
                f"{path}: {name} is null, that is none; llama.cpp computes {family.arch} always with one. The finished "
                "file would answer differently from the trained model, so it is not made."
            )


def _field(config: Config, name: str) -> float:
    """A number that another field is worked out from; RunError where it is missing, or zero."""
    value = config.get(name)
    if not isinstance(value, int | float) or not value:
        raise RunError(f"config.json: {name} is {value!r}, expected a number. Copy it from the base model's config.")
    return value


def _value(default: Required, config: Config) -> object:
    """A default or required value, worked out from the fields it refers to."""
    match default:
        case SameAs(name):
            return config.get(name)
        case Ratio(unless=str(name)) if config.get(name) is not None:
            return config[name]
        case Ratio(over, under):
            return int(_field(config, over)) // int(_field(config, under))
        case AtLayers(layers, then, otherwise):
            return _value(then if config.get("num_hidden_layers") == layers else otherwise, config)
        case _:
            return default
