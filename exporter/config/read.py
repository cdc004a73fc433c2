"""config.json in one spelling, whichever version of transformers wrote it."""

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from exporter.config.numbers import number, shown
from exporter.config.params import NAME, as_config
from exporter.config.rotation import OURS, rotation
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
# What some families have a default for, and what transformers takes instead where it is null.
NULL_MEANS: Mapping[str, object] = {
    "norm_topk_prob": False,
    "use_parallel_residual": False,
    "use_qk_norm": False,
    "rope_interleave": False,
    "partial_rotary_factor": 1.0,
}
# Beside the text model's own fields transformers takes only these for it; the rest is another part's, or not read.
OUTSIDE = {"architectures", "model_type", "quantization_config", "torch_dtype", "dtype", "tie_word_embeddings"}
OUTSIDE |= {"vision_config", "text_config", "_name_or_path"}
IDS = "_token_id"
"""What the names of tokens' numbers end in, which it takes as well."""
SIZES = {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"}
ALL_WINDOWED = "without a full layer"
FLOATS = ("rope_theta", "rope_local_theta", "rms_norm_eps", "attn_logit_softcapping", "final_logit_softcapping")


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
    """A model's config.json or params.json: text fields at the top, one name for each, rotation as flat fields.

    Where ``text_config`` holds the text model's sizes, the fields beside it are not the text model's, but those of
    ``OUTSIDE`` and ``IDS``. Fields that are null are left out, but those of ``NULLABLE`` and ``NULL_MEANS``. RunError
    for a file without ``architectures``, an unknown kind of rotation, two names or places of one field that disagree,
    or a list of layers that is not as long as the model.
    """
    stored = read_json(path) if path.name != NAME else as_config(read_json(path), path)
    names = stored.get("architectures")
    if not (isinstance(names, list) and names and isinstance(names[0], str)):
        raise RunError(f"{path}: names no architecture (`architectures`). Copy the field from the base model's config.")
    text = stored.get("text_config")
    if isinstance(text, dict) and SIZES & set(text):
        stored = {key: value for key, value in stored.items() if key in OUTSIDE or key.endswith(IDS)}
    parts = [_in_our_names(part, path) for part in (stored, text) if isinstance(part, dict)]
    config = {key: value for part in parts for key, value in part.items() if value is not None or key in NULLABLE}
    config["architecture"] = names[0]
    config = _with_nulls(config, parts) | _rotation(config, path)
    config |= {key: number(config[key], key, path) for key in FLOATS if config.get(key) is not None}
    if pattern := _window_pattern(config, path):
        config["sliding_window_pattern"] = pattern
    return config


def _with_nulls(config: Mapping[str, object], parts: Sequence[Mapping[str, object]]) -> dict[str, object]:
    """The config with what null means where it is all that is said of a field."""
    nulls = {key for part in parts for key in NULL_MEANS if key in part and part[key] is None}
    return {key: NULL_MEANS[key] for key in nulls} | dict(config)


def _rotation(config: Mapping[str, object], path: Path) -> dict[str, object]:
    """The rotation's flat fields; RunError where one of them stands beside its parameters too, and differs."""
    flat = rotation(config, path)
    for key in ("rope_theta", "partial_rotary_factor"):
        if config.get(key) is not None and key in flat and flat[key] != config[key]:
            raise RunError(
                f"{path}: {key} is {shown(config[key])} beside the rotation's parameters, and {shown(flat[key])} among "
                "them; which one transformers takes depends on its version. Remove the one that training did not have."
            )
    return flat


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
                    f"{path}: {one} is {shown(value)} and {other} is {shown(another)}: two names of one field. "
                    "Remove the one that the model was not trained with; the base model's config tells."
                )
    return named


def _window_pattern(config: Mapping[str, object], path: Path) -> int | str | None:
    """N where every N-th layer attends to everything, a word where none fits, None where no layer list says.

    RunError for a list that is not as long as the model has layers.
    """
    kinds = config.get("layer_types")
    if kinds is None:
        return None
    layers = config.get("num_hidden_layers")
    if not isinstance(kinds, list) or len(kinds) != layers:
        found = f"{len(kinds)} entries" if isinstance(kinds, list) else shown(kinds)
        raise RunError(f"{path}: layer_types has {found}, expected one for each of {shown(layers)} layers.")
    if not all(kind in ("full_attention", "sliding_attention") for kind in kinds):
        return "irregular"
    if "full_attention" not in kinds:
        return ALL_WINDOWED
    pattern = kinds.index("full_attention") + 1
    regular = all((kind == "full_attention") == ((i + 1) % pattern == 0) for i, kind in enumerate(kinds))
    return pattern if regular else "irregular"
