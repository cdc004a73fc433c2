"""What an adapter's configuration means for each module: rank and scale, by PEFT's own rules."""

import math
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from exporter.errors import MergeError
from exporter.merge.fields import is_number, shown

# Fields of LoraConfig and TrainableTokensConfig that say how to train or to load, or that are read: they need no word.
READ = {
    "alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "ensure_weight_tying", "exclude_modules",
    "init_lora_weights", "inference_mode", "layers_pattern", "layers_to_transform", "lora_alpha", "lora_dropout",
    "megatron_core", "modules_to_save", "peft_type", "peft_version", "qalora_group_size", "r", "rank_pattern",
    "revision", "runtime_config", "target_modules", "task_type", "use_rslora", "eva_config", "loftq_config",
    "corda_config", "lora_ga_config",
    # PEFT sets it to false itself on linear layers, and all weights of our families are linear or embeddings.
    "fan_in_fan_out",
    "layer_replication", "lora_B_layout", "lora_bias", "target_parameters", "token_indices", "trainable_token_indices",
    "use_dora", "init_weights",
}  # fmt: skip
KINDS = ("LORA", "TRAINABLE_TOKENS")
"""The methods that are merged here, by rows; all others are PEFT's to merge, a whole module at a time."""
VARIANTS = ("kasa_config", "use_bdlora", "velora_config")
"""Fields of LoraConfig with which PEFT merges LoRA, too, a whole module at a time."""
EMBEDDINGS = ("embed_tokens", "lm_head", "wte", "tok_embeddings", "output", "embed_in", "embed_out")
"""What families call their embedding and their head."""
LONGEST_KEY = 1000
MOST_TRIES = 10**7  # of ways to lay a key over a name: less than a second
REPEATED = (
    ", or, without the adapter as it was at first, merge it where it was trained (AutoPeftModelForCausalLM"
    ".from_pretrained, merge_and_unload, save_pretrained): PEFT repeats this start when it loads the adapter"
)
RANK, ALPHA = 8, 8  # where the config has no r, no lora_alpha: the defaults of PEFT's LoraConfig
PLAIN_STARTS = (True, False, "gaussian", "orthogonal", "eva", None)


def by_rows(config: Mapping[str, object]) -> bool:
    """Whether an adapter is merged here, by rows."""
    return config.get("peft_type") in KINDS and not by_variant(config)


def by_variant(config: Mapping[str, object]) -> bool:
    """Whether an adapter is LoRA in a form that PEFT merges."""
    return config.get("peft_type") in KINDS and any(config.get(name) for name in VARIANTS)


def check_variant(config: Mapping[str, object], path: Path) -> None:
    """MergeError for what a variant of LoRA cannot have beside it: its layer is merged as a weight, without a bias."""
    if config.get("lora_bias"):
        variant = next(name for name in VARIANTS if config.get(name))
        raise MergeError(
            f"{path}: lora_bias is true beside {variant}; such an adapter is not merged here. Merge it with PEFT first."
        )


def check_config(config: Mapping[str, object], path: Path) -> None:
    """Refuse, by name, what LoRA can be beside what is merged here. MergeError says what was found."""
    check_start(config, path)
    for name, value in config.items():
        if name not in READ and value:
            raise MergeError(
                f"{path}: {name} is {shown(value)}; such an adapter is not merged here. Merge it with PEFT first."
            )


def check_start(config: Mapping[str, object], path: Path) -> None:
    """MergeError for a start of training that changed the base, unless PEFT converted it."""
    start = config.get("init_lora_weights", True)
    if start not in PLAIN_STARTS:
        advice = (
            "Save the base as training had it (the base weights before merging), set init_lora_weights to true, and "
            "give that base with --base"
            if start == "loftq"
            else "Convert it to plain LoRA with PEFT (save_pretrained with path_initial_model_for_weight_conversion)"
            + (REPEATED if start in {"pissa", "olora"} else "")
        )
        raise MergeError(
            f"{path}: init_lora_weights is {shown(start)}, which changes the base weights when training begins, so the "
            f"adapter does not fit the base as published. {advice}."
        )


def defaults(config: Mapping[str, object]) -> tuple[str, ...]:
    """What to say of fields that a configuration of LoRA lacks, and that are taken as PEFT takes them."""
    taken = {name: value for name, value in (("r", RANK), ("lora_alpha", ALPHA)) if name not in config}
    if config.get("peft_type") != "LORA" or not taken:
        return ()
    names, values = " and no ".join(taken), " and ".join(f"{name} {value}" for name, value in taken.items())
    return (f"adapter_config.json has no {names}: taken are PEFT's defaults, {values}",)


def rank_and_scale(
    config: Mapping[str, object], module: str, path: Path, stored: int | None = None
) -> tuple[int, float]:
    """The rank and the factor of B·A of one module.

    A key of ``rank_pattern`` and of ``alpha_pattern`` that matches the module's name, or a dotted ending of it,
    replaces ``r`` and ``lora_alpha`` (PEFT's ``get_pattern_key``); the factor is alpha / r, or alpha / sqrt(r) with
    rsLoRA (arXiv 2312.03732). ``stored`` is the tensors' rank, where they tell: it decides between several keys.
    """
    if stored in every_match(config, "rank_pattern", module):
        rank: object = stored
    else:
        rank = matched(config, "rank_pattern", module, config.get("r", RANK))
    alpha = matched(config, "alpha_pattern", module, config.get("lora_alpha", ALPHA))
    if not isinstance(rank, int) or rank < 1 or not is_number(alpha):
        raise MergeError(f"{path}: {module} has r {rank!r} and lora_alpha {alpha!r}, expected numbers above 0.")
    return rank, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def token_ids(config: Mapping[str, object], module: str, path: Path) -> tuple[int, ...]:
    """The rows of a module that were trained alone. MergeError where the config does not list them."""
    listed = config.get("trainable_token_indices", config.get("token_indices"))
    if isinstance(listed, Mapping):
        # A tied head is trained, and saved, with the embedding, which alone is named.
        modules = (module, re.sub(r"\blm_head$", "embed_tokens", module))
        found = (ids for one in modules for name, ids in listed.items() if f".{one}".endswith(f".{name}"))
        listed = next(found, None)
    if not isinstance(listed, list) or not all(type(one) is int for one in listed) or len(set(listed)) < len(listed):
        raise MergeError(
            f"{path}: has trained tokens of {module}, and adapter_config.json (trainable_token_indices) lists "
            f"{listed!r:.60}, expected their ids, each once. The two files are of different runs."
        )
    return tuple(listed)


def check_layer(config: Mapping[str, object], module: str, path: Path) -> None:
    """MergeError for a trained module outside of ``layers_to_transform``: PEFT would make nothing of its tensors.

    A module that ``target_modules`` names in full is trained in any layer (PEFT's ``check_target_module_exists``).
    """
    layers, targets = config.get("layers_to_transform"), config.get("target_modules")
    if layers is None or layers == [] or (isinstance(targets, list) and module in targets):
        return
    pattern = config.get("layers_pattern")
    if _layer_of(module, pattern) not in (layers if isinstance(layers, list) else [layers]):
        beside = f" with layers_pattern {shown(pattern)}" if pattern else ""
        raise MergeError(
            f"{path}: has tensors of {module}, but layers_to_transform of adapter_config.json is {shown(layers)}"
            f"{beside}: PEFT would leave the module as it was. The two files are of different runs."
        )


def _layer_of(module: str, pattern: object) -> int | None:
    """The number of a module's layer: the first behind a name of ``layers_pattern``, or behind any where that is empty.

    None for a module that is in no such layer. MergeError for a pattern that may take for ever, or takes no number.
    """
    names = [pattern] if isinstance(pattern, str) and pattern else pattern
    for name in names if isinstance(names, list) else ():
        _check_pattern(rf"{name}\.\d+", "layers_pattern", len(module))
    starts = [rf"(?:^|.*?\.){name}" for name in names] if isinstance(names, list) and names else [r".*?\.[^.]*"]
    found = (re.match(rf"{start}\.(?P<layer>\d+)\.", module) for start in starts)
    first = next(filter(None, found), None)
    if first is not None and first["layer"] is None:  # PEFT ends with an error
        raise MergeError(
            f"adapter_config.json: layers_pattern is {shown(pattern)}, which fits {module} without the layer's number "
            "behind it. Give the names of the lists of layers alone, as a list."
        )
    return int(first["layer"]) if first is not None else None


def check_target(config: Mapping[str, object], module: str, path: Path) -> None:
    """MergeError for a trained module that target_modules leaves out or exclude_modules names: PEFT would ignore it.

    Lists of names, and patterns that are sure to end, are looked at.
    """
    targets, excluded = config.get("target_modules"), config.get("exclude_modules")
    named = str(targets).lower() == "all-linear" or not targets or _names(targets, module) is not False
    if module.rpartition(".")[2] in EMBEDDINGS:  # ensure_weight_tying trains the other one with it
        named = True
    if is_set_aside(config, module):
        raise MergeError(
            f"{path}: has lora_A and lora_B of {module}, which modules_to_save of adapter_config.json "
            f"({shown(config['modules_to_save'])}) names, or a module around it: PEFT saves it whole, and trains "
            "nothing else of it. The two files are of different runs: copy both from one."
        )
    if not named or (excluded and _names(excluded, module)):
        raise MergeError(
            f"{path}: has lora_A and lora_B of {module}, but target_modules of adapter_config.json is "
            f"{shown(targets)} and exclude_modules {shown(excluded)}: PEFT would leave the module as it was. The two "
            "files are of different runs: copy both from one."
        )


def is_set_aside(config: Mapping[str, object], module: str) -> bool:
    """Whether PEFT saves a module whole, alone or in one around it, and so lays nothing over it.

    That is where an entry of ``modules_to_save`` fits the module's name (PEFT's ``check_target_module_exists``).
    MergeError for an entry that may take for ever.
    """
    entries = config.get("modules_to_save")
    for entry in entries if isinstance(entries, list) else ():
        _check_pattern(str(entry), "modules_to_save", len(module))
        if re.match(rf"(^|.*\.){entry}($|\..*)", module):
            return True
    return False


def _names(listed: object, module: str) -> bool | None:
    """Whether names, or a pattern, name a module (PEFT's ``check_target_module_exists``); None: not known."""
    if isinstance(listed, list):
        return any(f".{module}".endswith(f".{name}") for name in listed)
    if isinstance(listed, str):
        try:
            tries = _tries(listed, len(module))
            return None if tries is None or tries > MOST_TRIES else re.fullmatch(listed, module) is not None
        except (re.error, OverflowError, RecursionError):
            return None
    return None


def matched(config: Mapping[str, object], field: str, module: str, default: object) -> object:
    """What a field of patterns says of a module (PEFT's ``get_pattern_key``), or the default.

    MergeError for no patterns, one that may take for ever, or several that say different things: PEFT goes by the first
    in the order they were given, and saves them sorted (its ``PeftConfigMixin.save_pretrained``).
    """
    found = every_match(config, field, module)
    if len(set(map(str, found))) > 1:
        raise MergeError(
            f"adapter_config.json: {field} says {' and '.join(map(shown, found))} of {module}: several of its patterns "
            "match. Training went by the one that was given first, and PEFT saves them sorted, so which that was is "
            "not in the file. Change the others so that they do not match this module."
        )
    return found[0] if found else default


def every_match(config: Mapping[str, object], field: str, module: str) -> list[object]:
    """What each key of a field of patterns that matches a module says of it. MergeErrors as of ``matched``."""
    patterns = config.get(field) or {}
    if not isinstance(patterns, Mapping):
        raise MergeError(f"adapter_config.json: {field} is {patterns!r}, expected an object.")
    found = []
    for key, value in patterns.items():
        _check_pattern(key, field, len(module))
        if _pattern(key).match(module):
            found.append(value)
    return found


@cache
def _pattern(key: str) -> re.Pattern[str]:
    """A key as PEFT's ``get_pattern_key`` matches it."""
    return re.compile(rf"(.*\.)?({key})$")


def _check_pattern(key: str, field: str, length: int) -> None:
    """MergeError for a pattern that is none, or that may take for ever to lay over a name of such a length."""
    try:
        _pattern(key)
        tries = _tries(key, length)
    except (re.error, OverflowError, RecursionError) as error:
        raise MergeError(f"adapter_config.json: {field} holds {key!r:.60}, no regular expression ({error}).") from None
    if tries is None or tries > MOST_TRIES:
        raise MergeError(
            f"adapter_config.json: {field} holds {key!r:.60}, a regular expression that may take for ever. "
            "Write the modules' names instead, a key for each, such as layers.0.self_attn.q_proj."
        )


def _tries(key: str, length: int) -> int | None:
    """At most so many ways to lay a key over a name are tried; None for a key of a kind that has no such bound.

    Where no group is repeated, r repeated characters and the beginning share the name in (length + r + 1 over r + 1)
    ways at most, each once for every choice of alternatives and of what is optional.
    """
    found = _parts(key)
    return None if found is None else found[1] * math.comb(length + found[0] + 1, found[0] + 1)


@cache
def _parts(key: str) -> tuple[int, int] | None:
    """How many characters of a key are repeated, and how many choices it gives; None for what is not counted here.

    That is a repeated group, a reference to a group, anything else that begins with ``(?``, and a key that is too long.
    """
    bare = re.sub(r"\\[^1-9]|\[\^?\]?(?:\\.|[^\]\\])*\]", "x", key)  # an escape or a class is one character
    if len(key) > LONGEST_KEY or re.search(r"\)[*+{]|\(\?(?!:)|\\", bare):
        return None
    repeated, choices = len(re.findall(r"[*+{]", bare)), 2 ** len(re.findall(r"(?<!\()\?", bare))
    while group := re.search(r"\((?:\?:)?([^()]*)\)", bare):
        choices *= 1 + group[1].count("|")
        bare = bare[: group.start()] + "x" + bare[group.end() :]
    return None if re.search(r"[()]", bare) else (repeated, choices * (1 + bare.count("|")))
