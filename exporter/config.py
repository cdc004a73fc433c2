"""config.json in one spelling, whichever version of transformers wrote it."""

import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import cast

from converters.spec import AtLayers, Config, Family, Ratio, Required, SameAs
from exporter.errors import RunError

# Our spelling on the left; on the right what other versions of transformers call the same field.
SPELLINGS = {
    "num_experts": ("num_local_experts", "n_routed_experts"),
    "hidden_act": ("hidden_activation",),
    "rope_local_theta": ("rope_local_base_freq",),
}
# What Gemma's first releases call an activation that they, as transformers says, compute as the second.
OLD_GELU = ("gelu", "gelu_pytorch_tanh")
# Where null is a value of its own ("none"), not the family's default.
NULLABLE = ("attn_logit_softcapping", "final_logit_softcapping", "sliding_window", "query_pre_attn_scalar")
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
NEEDED = ("hidden_size", "num_hidden_layers", "num_attention_heads")
LARGEST = 2**31
LARGEST_FLOAT = 3.4e38  # float32's, in which GGUF keeps them
ALL_WINDOWED = "without a full layer"
FLOATS = ("rope_theta", "rope_local_theta", "rms_norm_eps", "attn_logit_softcapping", "final_logit_softcapping")

# Fields of a rotation's parameters: stored name -> ours. What is not listed for a type stops the run.
ROPE_FIELDS: Mapping[str, Mapping[str, str]] = {
    "default": {},
    "linear": {"factor": "rope_scaling_factor"},
    "llama3": {
        "factor": "rope_factor",
        "low_freq_factor": "rope_low_freq_factor",
        "high_freq_factor": "rope_high_freq_factor",
        "original_max_position_embeddings": "rope_trained_context",
    },
    "yarn": {
        "factor": "rope_scaling_factor",
        "original_max_position_embeddings": "rope_original_context",
        "extrapolation_factor": "rope_extrapolation_factor",
        "attention_factor": "rope_attention_factor",
        "attn_factor": "rope_attention_factor",
        "beta_fast": "rope_beta_fast",
        "beta_slow": "rope_beta_slow",
    },
}
# Names that only this module gives; transformers knows no such fields, so what a file says under them means nothing.
OURS = {name for fields in ROPE_FIELDS.values() for name in fields.values()} | {
    "architecture",
    "rope_dim",
    "rope_scaling_type",
    "rope_type",
}
OPTIONAL_ROPE = {"rope_extrapolation_factor", "rope_attention_factor", "rope_beta_fast", "rope_beta_slow"}


def read_json(path: Path) -> dict[str, object]:
    """A JSON object from a file. RunError if it is missing, unreadable, or something else than an object."""
    if path.exists() and not path.is_file():
        raise RunError(f"{path}: is no file. Restore it from the training run.")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{path}: there is no such file. A run or model folder needs one.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path}: cannot be read as JSON ({error}). Restore it from the training run.") from error
    if not isinstance(value, dict):
        raise RunError(f"{path}: holds a {type(value).__name__}, expected a JSON object.")
    return value


def read_config(path: Path) -> dict[str, object]:
    """A model's config.json: text fields at the top, one name for each, rotation as flat ``rope_…`` fields.

    Fields that are null are left out, but those of ``NULLABLE``. RunError for a file without ``architectures``, an
    unknown kind of rotation, two names of one field that disagree, or a list of layers that is not as long as the
    model.
    """
    stored = read_json(path)
    names = stored.get("architectures")
    if not (isinstance(names, list) and names and isinstance(names[0], str)):
        raise RunError(f"{path}: names no architecture (`architectures`). Copy the field from the base model's config.")
    text = stored.get("text_config")
    parts = [_in_our_names(part, path) for part in (stored, text) if isinstance(part, dict)]
    config = {key: value for part in parts for key, value in part.items() if value is not None or key in NULLABLE}
    config["architecture"] = names[0]
    config |= _rotation(config, path)
    config |= {key: _number(config[key], key, path) for key in FLOATS if config.get(key) is not None}
    if pattern := _window_pattern(config, path):
        config["sliding_window_pattern"] = pattern
    return config


def _in_our_names(stored: Mapping[str, object], path: Path) -> dict[str, object]:
    """Fields with one name for each; RunError where two names of a field have different values."""
    named = {key: value for key, value in stored.items() if key not in OURS}
    for ours, others in SPELLINGS.items():
        said = {name: named.pop(name) for name in (ours, *others) if named.get(name) is not None}
        if said:
            named[ours] = list(said.values())[-1]
        for (one, value), (other, another) in pairwise(said.items()):
            if value != another and (value, another) != OLD_GELU:
                raise RunError(
                    f"{path}: {one} is {_shown(value)} and {other} is {_shown(another)}: two names of one field. "
                    "Remove the one that the model was not trained with; the base model's config tells."
                )
    return named


def _rotation(config: Mapping[str, object], path: Path) -> dict[str, object]:
    """The flat ``rope_…`` fields of ``rope_parameters`` (transformers 5) or ``rope_scaling`` (4)."""
    both = [config[key] for key in ("rope_parameters", "rope_scaling") if config.get(key)]
    if len(both) > 1 and both[0] != both[1]:
        raise RunError(
            f"{path}: holds rope_parameters {both[0]!r} and rope_scaling {both[1]!r}. transformers takes one of them, "
            "which depends on its version: remove the one that the model was not trained with."
        )
    stored = both[0] if both else {}
    if not isinstance(stored, dict):
        raise RunError(f"{path}: the rotation's parameters are {stored!r}, expected an object.")
    flat: dict[str, object] = {}
    if "full_attention" in stored:  # one set for each kind of layer
        full, local = stored["full_attention"], stored.get("sliding_attention") or {}
        known = isinstance(full, dict) and isinstance(local, dict)
        windowed = _scaling(local, path) if known else {}
        if windowed.get("rope_type") != "default" or set(stored) - {"full_attention", "sliding_attention"}:
            raise RunError(f"{path}: rope_parameters {stored!r}: only plain rotation is known for windowed layers.")
        flat = {"rope_local_theta": windowed["rope_theta"]} if "rope_theta" in windowed else {}
        stored = full
    return flat | _scaling(stored, path)


def _scaling(stored: Mapping[str, object], path: Path) -> dict[str, object]:
    """The flat fields of one set of rotation parameters; RunError for an unknown type or field."""
    kind = str(stored.get("rope_type") or stored.get("type") or "default").lower()
    known = ROPE_FIELDS.get(kind)
    if known is None:
        raise RunError(
            f"{path}: rope type {kind!r} is not supported; expected one of {', '.join(ROPE_FIELDS)}. "
            "llama.cpp would compute other positions than the training did."
        )
    flat: dict[str, object] = {"rope_type": kind}
    for key, value in stored.items():
        if key in {"rope_type", "type"} or value is None:
            continue
        if key == "rope_theta":
            flat["rope_theta"] = value
        elif key in known:
            number = _number(value, key, path)
            flat[known[key]] = int(number) if known[key] == "rope_original_context" else number
            if known[key] == "rope_original_context" and not 1 <= number < LARGEST:
                raise RunError(f"{path}: {key} is {value!r}, expected a whole number from 1 to {LARGEST - 1}.")
        elif (key, value) != ("partial_rotary_factor", 1.0):
            raise RunError(f"{path}: rope type {kind!r} has a field {key!r} that is not known here ({value!r}).")
    missing = [key for key, ours in known.items() if ours not in flat and ours not in OPTIONAL_ROPE]
    if missing:
        raise RunError(
            f"{path}: rope type {kind!r} lacks {', '.join(missing)}. Copy them from the base model's config."
        )
    if kind in {"linear", "yarn"}:
        flat["rope_scaling_type"] = kind
    return flat


def _number(value: object, key: str, path: Path) -> float:
    """A number of a JSON file as a float, above 0; RunError for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RunError(f"{path}: {key} is {value!r}, expected a number.")
    if not 0 < value < LARGEST_FLOAT:  # not a number is neither
        raise RunError(f"{path}: {key} is {_shown(value)}, expected a number above 0. Copy it from the base's config.")
    return float(value)


def _shown(value: object) -> str:
    """A value for a message, cut where it is long; Python refuses to print the longest whole numbers."""
    if isinstance(value, int) and abs(value) > 1 << 100:
        return f"a number of {value.bit_length()} bits"
    return repr(value)[:60]


def _window_pattern(config: Mapping[str, object], path: Path) -> int | str | None:
    """N where every N-th layer attends to everything, a word where none fits, None where no layer list says.

    RunError for a list that is not as long as the model has layers.
    """
    kinds = config.get("layer_types")
    if kinds is None:
        return None
    layers = config.get("num_hidden_layers")
    if not isinstance(kinds, list) or len(kinds) != layers:
        found = f"{len(kinds)} entries" if isinstance(kinds, list) else _shown(kinds)
        raise RunError(f"{path}: layer_types has {found}, expected one for each of {_shown(layers)} layers.")
    if not all(kind in ("full_attention", "sliding_attention") for kind in kinds):
        return "irregular"
    if "full_attention" not in kinds:
        return ALL_WINDOWED
    pattern = kinds.index("full_attention") + 1
    regular = all((kind == "full_attention") == ((i + 1) % pattern == 0) for i, kind in enumerate(kinds))
    return pattern if regular else "irregular"


def complete(config: Config, family: Family, path: Path) -> tuple[dict[str, object], tuple[str, ...]]:
    """The config with the family's defaults, and warnings about fields that llama.cpp ignores.

    RunError where a field that GGUF cannot say has a value that llama.cpp's graph does not compute.
    """
    _check_counts(config, family, path)
    full = {"rope_type": "default"} | dict(config)
    for key, default in family.defaults.items():
        if key not in full and default is not None:
            full[key] = _value(default, full)
    _check_nulls(full, family, path)
    pattern = family.requires.get("sliding_window_pattern", (0,))[0]
    if full.get("sliding_window_pattern") == ALL_WINDOWED and cast("int", full["num_hidden_layers"]) < cast(
        "int", pattern
    ):
        del full["sliding_window_pattern"]  # too few layers for the first full one
    for key, accepted in family.requires.items():
        values = [_value(value, full) for value in accepted]
        found = full.get(key)
        if (tuple(found) if isinstance(found, list) else found) not in values:
            raise RunError(
                f"{path}: {key} is {found!r}; llama.cpp computes {family.arch} only with "
                f"{' or '.join(repr(value) for value in values if value is not None) or 'none'}. "
                "The finished file would answer differently from the trained model, so it is not made."
            )
    warnings = [note.format(value=full[key]) for key, note in family.notes.items() if full.get(key) is not None]
    return full, tuple(warnings)


def _check_counts(config: Config, family: Family, path: Path) -> None:
    """RunError for a number of things that is absent where the family has no default, or no such number."""
    written = family.metadata.values()
    for name in COUNTS:
        value = config.get(name)
        if value is None and (name in family.defaults or name not in NEEDED):
            continue
        whole = isinstance(value, int) and not isinstance(value, bool)
        lowest = 1 if name in written or name in NEEDED or name == "head_dim" else 0
        if not whole or not lowest <= cast("int", value) < LARGEST:
            raise RunError(
                f"{path}: {name} is {_shown(value)}, expected a whole number from {lowest} to {LARGEST - 1}. "
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
