"""Every PEFT method that is not merged by rows: folded into weights by PEFT itself, or refused, and why."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from exporter.errors import MergeError

if TYPE_CHECKING:
    from pathlib import Path

MERGED = "merged"
_VIRTUAL = "puts trained vectors before the prompt (virtual tokens); a weight has no place for them"
_REBUILT = "{0}; these parts are not in the file, and what another machine computes may differ in sign or order"

METHODS: Mapping[str, str] = {
    "ADALORA": MERGED,
    "ADAMSS": _REBUILT.format("clusters the rows of the base weight into subspaces when it is loaded"),
    "ADAPTION_PROMPT": "adds gated attention to trained prompt vectors at run time; a weight has no place for them",
    "BEFT": MERGED,
    "BOFT": MERGED,
    "BONE": MERGED,
    "C3A": MERGED,
    "CARTRIDGE": "is a trained key-value cache; a weight has no place for it",
    "CPT": _VIRTUAL,
    "DEFT": MERGED,
    "DELORA": MERGED,
    "FOURIERFT": MERGED,
    "FROD": _REBUILT.format("decomposes the base weights of all layers together when it is loaded"),
    "GLORA": MERGED,
    "GRALORA": MERGED,
    "HIRA": MERGED,
    "HRA": MERGED,
    "IA3": MERGED,
    "LILY": "mixes its experts by a router that looks at each token, so that no one weight has its effect",
    "LN_TUNING": MERGED,
    "LOHA": MERGED,
    "LORA": MERGED,
    "LOKR": MERGED,
    "MISS": MERGED,
    "MULTITASK_PROMPT_TUNING": _VIRTUAL,
    "OFT": MERGED,
    "OSF": MERGED,
    "PEANUT": MERGED,
    "POLY": "mixes its modules by the task that is told at run time, so that no one weight has its effect",
    "PREFIX_TUNING": "puts trained keys and values before those of the prompt; a weight has no place for them",
    "PROMPT_TUNING": _VIRTUAL,
    "PSOFT": _REBUILT.format("rotates singular vectors of the base weight that are computed when it is loaded"),
    "PVERA": MERGED,
    "P_TUNING": _VIRTUAL,
    "RANDLORA": MERGED,
    "ROAD": MERGED,
    "SHADOW": "runs a second, smaller network beside the model; a weight has no place for it",
    "SHIRA": MERGED,
    "SUPERTUNING": MERGED,
    "TINYLORA": MERGED,
    "TRAINABLE_TOKENS": MERGED,
    "UNILORA": MERGED,
    "VBLORA": MERGED,
    "VERA": MERGED,
    "WAVEFT": MERGED,
    "XLORA": "weighs its adapters by a classifier that looks at each prompt, so that no one weight has their effect",
}
"""By ``peft_type``: ``merged``, or why not, as the rest of a sentence that begins with the method's name."""

RENAMED: Mapping[str, str] = {"BONE": "MISS"}
"""What PEFT calls a method today; it renames the tensors alike (its scripts/convert-bone-to-miss.py)."""

NEEDED: Mapping[str, tuple[str, bool, str]] = {
    "PVERA": ("sample_at_inference", False, "it draws noise for every token, so that no one weight has its effect"),
    "SUPERTUNING": ("save_precomputed_indices", True, "which weights were trained is not in the file"),
    "TINYLORA": ("save_projection", True, "its random projections are not in the file"),
    "UNILORA": ("save_indices", True, "which entry belongs to which weight is not in the file"),
}
"""A field of the configuration, the value it must have, and what is the matter otherwise."""

BIAS = frozenset({"BEFT", "GLORA", "IA3", "LN_TUNING", "ROAD"})
"""Methods that change a module's bias too."""

ONLY_BIAS = frozenset({"BEFT"})
"""Methods that change a module's bias and nothing else."""

ADDS = frozenset({
    "ADALORA", "C3A", "DELORA", "FOURIERFT", "GRALORA", "LOHA", "LOKR", "PVERA", "RANDLORA", "SHIRA", "SUPERTUNING",
    "TINYLORA", "UNILORA", "VBLORA", "VERA", "WAVEFT",
})  # fmt: skip
"""Methods that add the same to any weight; what the others make of it depends on it (MiSS: on its ``init_weights``)."""

WIDEST = frozenset({"PVERA", "RANDLORA", "VERA"})
"""Methods whose shared bank is as large as the widest of all targets."""

AGAIN: Mapping[str, str] = {
    "FOURIERFT": "the places it trained are drawn again from the seed in adapter_config.json",
    "OSF": "the part of the weight it started from is computed again from the base (singular value decomposition)",
    "WAVEFT": "the places it trained are drawn again from the seed in adapter_config.json",
}
"""What is not in a method's file and is made again, as PEFT does whenever it loads it."""

HEAVY = frozenset({"BOFT", "SHIRA"})
"""Methods whose layer cannot be made without memory: it takes as much as a matrix of the weight's size, and reads it.

PEFT looks at the numbers of their configuration before it allocates.
"""

LOOPS = ("depth", "num_cayley_neumann_terms")
"""Numbers of a configuration that say how often something is done."""
MOST_LOOPS = 1000
NO_SIZES = frozenset({
    "alpha", "alpha_pattern", "deltaT", "delora_lambda", "generator_seed", "lambda_pattern", "layers_to_transform",
    "lora_alpha", "proj_seed", "projection_prng_key", "projection_seed", "randlora_alpha", "random_loc_seed",
    "random_seed", "scaling", "tfinal", "tinit", "token_indices", "total_step", "trainable_token_indices",
})  # fmt: skip
"""Numbers of a configuration that PEFT calculates with, or draws from; all others may be the size of something."""


def check_method(method: object, path: "Path") -> str:
    """The method's name, where it can be merged. MergeError says why not."""
    if not isinstance(method, str) or method not in METHODS:
        raise MergeError(
            f"{path}: peft_type is {method!r}, which is no method that is known here. Known are "
            f"{', '.join(sorted(METHODS))}. Merge it with the PEFT that wrote it first."
        )
    if METHODS[method] != MERGED:
        raise MergeError(
            f"{path}: the adapter's method is {method}, which {METHODS[method]}. So it is not exported. Give the base "
            "alone, or train with another method."
        )
    return method


def check_options(method: str, config: object, shared: int, path: "Path") -> None:
    """MergeError for a configuration (PEFT's object) of a method with which it cannot be merged exactly.

    Args:
        method: its name.
        config: with its defaults filled in.
        shared: how many tensors of the file belong to no one module.
        path: the adapter's file, for the message.
    """
    field, needed, why = NEEDED.get(method, ("", True, ""))
    found = getattr(config, field, needed)
    if found != needed:
        raise MergeError(
            f"{path}: {method} with {field} {found!r}: {why}. Merge it with PEFT first"
            + (f", or save it with {field} {needed!r}." if needed else ".")
        )
    if method == "TINYLORA" and shared > 1:
        raise MergeError(
            f"{path}: TINYLORA with {shared} vectors: which module uses which follows from the order of the modules in "
            "the model that was trained, and is not in the file. Merge it with PEFT first."
        )


def check_sizes(config: Mapping[str, object], largest: int, path: "Path") -> None:
    """MergeError for a number that is the size of nothing that was trained: PEFT might count up to it.

    Args:
        config: adapter_config.json.
        largest: how many numbers the largest tensor has, of the adapter and of the weights that it changes.
        path: the adapter's file, for messages.
    """
    for field, value in config.items():
        bound = MOST_LOOPS if field in LOOPS else largest
        for name, number in () if field in NO_SIZES else _numbers(field, value):
            if abs(number) > bound:
                raise MergeError(
                    f"{path}: {name} is {number} in adapter_config.json, expected at most {bound}: "
                    + ("it says how often a step is done" if field in LOOPS else "no tensor here has more numbers")
                    + ". The two files are of different runs: copy both from one."
                )


def _numbers(name: str, value: object) -> Iterator[tuple[str, int]]:
    """The whole numbers in a field, each by its name."""
    if isinstance(value, Mapping):
        for key, one in value.items():
            yield from _numbers(f"{name} ({key})", one)
    elif isinstance(value, list):
        for one in value:
            yield from _numbers(name, one)
    elif type(value) is int:
        yield name, value
