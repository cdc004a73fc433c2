"""The rotation of positions in flat fields, whichever version of transformers wrote its parameters."""

from collections.abc import Mapping
from pathlib import Path

from exporter.config.numbers import LARGEST
from exporter.config.numbers import number as _number
from exporter.errors import RunError

# Fields of a rotation's parameters: stored name -> ours. What is not listed for a type stops the run.
ROPE_FIELDS: Mapping[str, Mapping[str, str]] = {
    "default": {},
    "linear": {"factor": "rope_scaling_factor"},
    "proportional": {},
    "dynamic": {"factor": "rope_dynamic_factor"},
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
        "mscale": "rope_mscale",
        "mscale_all_dim": "rope_mscale_all_dim",
        "truncate": "rope_truncate",
        "llama_4_scaling_beta": "rope_scaling_beta",
        "max_position_embeddings": "rope_context",
    },
    "longrope": {
        "short_factor": "rope_short_factors",
        "long_factor": "rope_long_factors",
        "factor": "rope_scaling_factor",
        "original_max_position_embeddings": "rope_original_context",
        "attention_factor": "rope_attention_factor",
    },
}
OF_ANY = {"mrope_section": "rope_sections", "mrope_interleaved": "rope_interleaved"}
"""Fields beside those of a type: how positions in an image are spread over a head."""
NAMES = {"su": "longrope", "mrope": "default"}
"""What a type was once called."""
LISTS = {"rope_short_factors": float, "rope_long_factors": float, "rope_sections": int}
FLAGS = {"rope_truncate", "rope_interleaved"}
NEEDED = {
    "linear": ("factor",),
    "dynamic": ("factor",),
    "llama3": tuple(ROPE_FIELDS["llama3"]),
    "yarn": ("factor", "original_max_position_embeddings"),
    "longrope": ("short_factor", "long_factor"),
}
# Names that only this module gives; transformers knows no such fields, so what a file says under them means nothing.
OURS = {name for fields in (*ROPE_FIELDS.values(), OF_ANY) for name in fields.values()} | {
    "architecture",
    "rope_dim",
    "rope_scaling_type",
    "rope_type",
}


def rotation(config: Mapping[str, object], path: Path) -> dict[str, object]:
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
        odd = {key for key, value in windowed.items() if key not in {"rope_type", "rope_theta"} and value != 1.0}
        if windowed.get("rope_type") != "default" or odd or set(stored) - {"full_attention", "sliding_attention"}:
            raise RunError(f"{path}: rope_parameters {stored!r}: only plain rotation is known for windowed layers.")
        flat = {"rope_local_theta": windowed["rope_theta"]} if "rope_theta" in windowed else {}
        stored = full
    flat |= _scaling(stored, path)
    outer = config.get("original_max_position_embeddings")
    inner = flat.get("rope_original_context") or flat.get("rope_trained_context")
    if outer is not None and inner is not None and outer != inner:
        raise RunError(
            f"{path}: original_max_position_embeddings is {str(outer)[:60]} beside the rotation's parameters, and "
            f"{inner} among them; transformers takes the first. Remove the one that training did not have."
        )
    return flat


def _scaling(stored: Mapping[str, object], path: Path) -> dict[str, object]:
    """The flat fields of one set of rotation parameters; RunError for an unknown type or field."""
    said = str(stored.get("rope_type") or stored.get("type") or "default").lower()
    kind = NAMES.get(said, said)
    if kind not in ROPE_FIELDS:
        raise RunError(
            f"{path}: rope type {kind!r} is not supported; expected one of {', '.join(ROPE_FIELDS)}. "
            "llama.cpp would compute other positions than the training did."
        )
    known = {**ROPE_FIELDS[kind], **OF_ANY}
    flat: dict[str, object] = {"rope_type": kind}
    for key, value in stored.items():
        if key in {"rope_type", "type"} or value is None:
            continue
        if key == "rope_theta":
            flat["rope_theta"] = value
        elif key == "partial_rotary_factor":
            flat[key] = _number(value, key, path)
        elif key in known:
            flat[known[key]] = _value(value, known[key], key, path)
        else:
            raise RunError(f"{path}: rope type {kind!r} has a field {key!r} that is not known here ({value!r}).")
    missing = [key for key in NEEDED.get(kind, ()) if known[key] not in flat]
    if missing:
        raise RunError(
            f"{path}: rope type {kind!r} lacks {', '.join(missing)}. Copy them from the base model's config."
        )
    if kind in {"linear", "yarn", "longrope"}:
        flat["rope_scaling_type"] = kind
    return flat


def _value(value: object, ours: str, key: str, path: Path) -> object:
    """A parameter's value as what it must be; RunError for anything else."""
    if ours in FLAGS:
        if not isinstance(value, bool):
            raise RunError(f"{path}: {key} is {value!r}, expected true or false.")
        return value
    if ours in LISTS:
        if not isinstance(value, list) or not value:
            raise RunError(f"{path}: {key} is {str(value)[:60]}, expected a list of numbers.")
        return tuple(LISTS[ours](_number(one, key, path)) for one in value)
    found = _number(value, key, path)
    if ours not in {"rope_original_context", "rope_context"}:
        return found
    if not 1 <= found < LARGEST:
        raise RunError(f"{path}: {key} is {value!r}, expected a whole number from 1 to {LARGEST - 1}.")
    return int(found)
