"""The metadata of a file, in GGUF's keys; names by the GGUF naming convention."""

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from converters.spec import Config, Family, Field
from exporter.config import LARGEST, LARGEST_FLOAT, read_json
from exporter.errors import PlanError
from exporter.plan.values import Value

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from exporter.plan.tensors import Tensor
    from exporter.run import Run

# generation_config.json's field -> GGUF's, and whether it is a whole number (INT32, as gguf-py writes it).
SAMPLING = {
    "temperature": ("temp", False),
    "top_k": ("top_k", True),
    "top_p": ("top_p", False),
    "min_p": ("min_p", False),
    "repetition_penalty": ("penalty_repeat", False),
}


# Part of a name (llama.cpp looks in ``general.name``, in small letters) -> tokens of which it then changes how white
# space beside them is read (src/llama-vocab.cpp). Phi-3's are looked up whether or not they are there.
SWITCHES: tuple[tuple[re.Pattern[str], tuple[str, ...]], ...] = (
    (re.compile("(phi)-?(3)", re.ASCII | re.IGNORECASE), ("</s>", "<unk>", "<s>", "<|endoftext|>")),
    (re.compile("(modern)-(bert)", re.ASCII | re.IGNORECASE), ()),
)


@dataclass(frozen=True)
class Identity:
    """What a file is called: the parts of its name by the GGUF naming convention."""

    name: str
    basename: str
    size_label: str
    finetune: str | None
    version: str | None

    def file(self, level: str) -> str:
        """The file's name at a level."""
        return self._named(level, self.size_label)

    def projector(self, level: str) -> str:
        """The name of the projector's file, as llama.cpp's converter makes it: without a size."""
        return "mmproj-" + self._named(level, None)

    def _named(self, level: str, size: str | None) -> str:
        from gguf.utility import naming_convention  # noqa: PLC0415  (slow to import)

        stem = naming_convention(self.name, self.basename, self.finetune, self.version, size, level)
        return re.sub(r"[^\w.+-]", "-", str(stem)) + ".gguf"


def identify(run: "Run", tensors: "tuple[Tensor, ...]") -> Identity:
    """A run's name, taken apart: the base's name and size, and what the run is called."""
    from gguf.metadata import Metadata  # noqa: PLC0415  (slow to import)
    from gguf.utility import size_label  # noqa: PLC0415

    experts = [tensor for tensor in tensors if "_exps." in tensor.name]
    total = sum(math.prod(tensor.shape) for tensor in tensors)
    of_experts = sum(math.prod(tensor.shape) // tensor.shape[0] for tensor in experts)
    shared = total - sum(math.prod(tensor.shape) for tensor in experts)
    size = size_label(total, shared, of_experts, experts[0].shape[0] if experts else 0)
    base = run.base_name.rpartition("/")[2]
    _, _, basename, finetune, version, stated = Metadata.get_model_id_components(base, total)
    choices = _choices(run)
    if run.adapters:
        finetune = "-".join([*(part for part in (finetune, run.name) if part and part != base), *choices])
    # As llama.cpp does: the size that the name states, where it fits the weights, else the counted one.
    return Identity("-".join((run.name, *choices)), basename or base, stated or size, finetune or None, version)


def _choices(run: "Run") -> list[str]:
    """What was asked of the weights beside the run itself, in letters and digits, as the convention has a fine-tune.

    ``plus-other-x0-5`` for an adapter on top times 0.5, ``nf4base`` for one laid over the rounded base.
    """
    parts = []
    for adapter in run.on_top:
        name = re.sub(r"[^A-Za-z0-9]+", "-", adapter.name).strip("-") or "adapter"
        factor = re.sub(r"[^A-Za-z0-9]+", "-", f"{abs(adapter.weight):g}")
        parts.append(f"{'plus' if adapter.weight > 0 else 'minus'}-{name}{f'-x{factor}' * (abs(adapter.weight) != 1)}")
    return parts + ([f"{run.four_bit.kind}base"] if run.rounded and run.four_bit else [])


def harmless(name: str, tokens: "Collection[str]") -> tuple[str, tuple[str, ...]]:
    """A name that llama.cpp can load, and a note where it is another than the run's.

    By a name with ``phi-3`` or ``phi3`` llama.cpp reads white space as Phi-3's tokenizer does, and cannot load a file
    whose vocabulary lacks a token of it; by ``modern-bert`` as an encoder's, which no run has.
    """
    made = name
    for pattern, needed in SWITCHES:
        if not needed or not set(needed).issubset(tokens):
            made = pattern.sub(r"\1 \2", made)
    if made == name:
        return name, ()
    note = (
        f"general.name is written as {made!r}, not {name!r}: by that name llama.cpp takes the tokenizer for another "
        "model's, and cannot load it or reads spaces otherwise"
    )
    return made, (note,)


def general(identity: Identity, run: "Run") -> dict[str, Value]:
    """The ``general.…`` keys that do not depend on the level."""
    values: dict[str, Value] = {
        "general.architecture": run.family.arch,
        "general.type": "model",
        "general.name": identity.name,
        "general.basename": identity.basename,
        "general.size_label": identity.size_label,
        "general.quantization_version": 2,
    }
    if identity.finetune:
        values["general.finetune"] = identity.finetune
    if run.adapters:
        values |= {"general.base_model.count": 1, "general.base_model.0.name": run.base_name.rpartition("/")[2]}
    file = run.tokenizer_files.get("generation_config.json")
    return values | (_sampling(file) if file else {})


def _sampling(file: "Path") -> dict[str, Value]:
    """The ``general.sampling.…`` keys of generation_config.json. PlanError for a value that GGUF has no number for."""
    values: dict[str, Value] = {}
    generation = read_json(file)
    for key, (name, whole) in SAMPLING.items():
        value = generation.get(key)
        if value is None:
            continue
        number = value if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
        if not abs(number) < LARGEST_FLOAT or (whole and not (-LARGEST <= number < LARGEST and number == int(number))):
            expected = "a whole number of 32 bits" if whole else "a float32 number"
            raise PlanError(
                f"{file}: {key} is {value!r:.60}, expected {expected}. Correct the file, or remove the field."
            )
        values[f"general.sampling.{name}"] = np.int32(int(number)) if whole else float(number)
    return values


def of_model(family: Family, config: Config) -> dict[str, Value]:
    """The architecture's keys. PlanError for a field that config.json lacks, or that is no plain value."""
    values: dict[str, Value] = {}
    for key, field in family.metadata.items():
        name, optional = (field.name, field.optional) if isinstance(field, Field) else (field, False)
        value = config.get(name)
        if value is None and optional:
            continue
        if not isinstance(value, bool | int | float | str | tuple):
            raise PlanError(
                f"config.json: {name} is {value!r}, expected a number or a word; {family.arch}.{key} is made of it. "
                "Copy the field from the base model's config."
            )
        values[f"{family.arch}.{key}"] = value
    return values
