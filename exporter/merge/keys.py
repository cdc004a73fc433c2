"""An adapter's tensor names: what each is a part of, and the forms other programs give them."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain, combinations
from typing import TYPE_CHECKING

from exporter.errors import MergeError
from exporter.merge.lora import EMBEDDINGS

if TYPE_CHECKING:
    from pathlib import Path

PREFIX = "base_model.model."
# What PEFT puts after a module's name -> the part of a change that the tensor is.
PARTS = {
    ".lora_A.weight": "a",
    ".lora_B.weight": "b",
    ".lora_B.bias": "bias",
    ".lora_embedding_A": "embedding_a",
    ".lora_embedding_B": "embedding_b",
    ".lora_magnitude_vector": "magnitude",
    ".lora_magnitude_vector.weight": "magnitude",
    ".token_adapter.trainable_tokens_delta": "tokens",
    ".trainable_tokens_delta": "tokens",
}
# The same for whole tensors that PEFT saves of a module. With save_embedding_layers, or a resized vocabulary, it saves
# all that its wrappers hold.
WHOLE = {
    "": "saved",
    ".modules_to_save": "copy",
    ".token_adapter.base_layer": "base",
    ".base_layer": "base",
    ".original_module": "original",
}


@dataclass(frozen=True)
class Rewrite:
    """A form of names that is not PEFT's own, and how PEFT would write them."""

    what: str
    pattern: str
    replacement: str


REWRITES = (
    Rewrite(
        "an adapter's name within", r"\.((?:lora|trainable|modules_to)_\w+)\.(?!weight$|bias$)[^.]+(?=$|\.)", r".\1"
    ),
    Rewrite(
        "a wrapper of FSDP or torch.compile", r"(?:_fsdp_wrapped_module|_orig_mod|_checkpoint_wrapped_module)\.", ""
    ),
    Rewrite("a wrapper of data parallel training", r"^(?:module\.)+", ""),
    Rewrite("a prefix twice", rf"^(?:{re.escape(PREFIX)}){{2,}}", PREFIX),
    Rewrite("no prefix", rf"^(?!{re.escape(PREFIX)})", PREFIX),
    Rewrite("no name of the model", rf"^{re.escape(PREFIX)}(?=layers\.|embed_tokens\.|norm\.)", PREFIX + "model."),
)
"""In the order in which they are applied; few of them are tried before many."""


def in_peft_form(names: Iterable[str], fits: Callable[[str], bool]) -> Mapping[str, str]:
    """Each name as PEFT would write it: as it is, or by the fewest rewrites, one after the other, that make all fit.

    Where none do, the names stay as they are, for what does not fit to be refused by name.
    """
    names = list(names)
    for rewrites in chain.from_iterable(combinations(REWRITES, count) for count in range(len(REWRITES) + 1)):
        if all(fits(_rewritten(name, rewrites)) for name in names):
            spelled = {name: _rewritten(name, rewrites) for name in names}
            if len(set(spelled.values())) == len(names):
                return spelled
    return {name: name for name in names}


def _rewritten(name: str, rewrites: tuple[Rewrite, ...]) -> str:
    for one in rewrites:
        name = re.sub(one.pattern, one.replacement, name)
    return name


def part_of(name: str, config: Mapping[str, object], path: "Path") -> tuple[str, str]:
    """What a tensor belongs to, and its part there.

    That is the module's name and a part of its change, or the whole parameter's name for a tensor that replaces it.
    MergeError for a tensor that no rule knows.
    """
    if not name.startswith(PREFIX):
        raise MergeError(f"{path}: the tensor {name} does not begin with {PREFIX!r}, so it is not as PEFT saves it.")
    inner = name.removeprefix(PREFIX)
    for ending, part in PARTS.items():
        if inner.endswith(ending):
            return inner.removesuffix(ending), part
    module, _, parameter = inner.rpartition(".")
    ending = next((ending for ending in WHOLE if ending and module.endswith(ending)), "")
    module = module.removesuffix(ending)
    trained = config.get("bias", "none") != "none" and parameter == "bias"
    if parameter in {"weight", "bias"} and "lora_" not in inner and (ending or trained or _is_saved(module, config)):
        return f"{module}.{parameter}", WHOLE[ending]
    raise MergeError(
        f"{path}: the tensor {name} is of a kind that is not merged: neither a part of LoRA, DoRA or trained tokens, "
        "nor of a module in modules_to_save. The run is refused, since leaving it out would change the model. Merge it "
        "with PEFT first."
    )


def _is_saved(module: str, config: Mapping[str, object]) -> bool:
    """Whether PEFT keeps a copy of a module: an embedding, or it or one around it is of ``modules_to_save``.

    An entry there means every module whose name ends so, with or without a dot before it (PEFT's ``_set_trainable``).
    """
    entries = config.get("modules_to_save")
    saved = tuple(map(str, entries)) if isinstance(entries, list) else ()
    parts = module.split(".")
    around = [".".join(parts[:count]) for count in range(1, len(parts) + 1)]
    return parts[-1] in EMBEDDINGS or any(name.endswith(saved) for name in around)
