"""A run as a value."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypedDict

from converters.spec import Config, Family, Projector
from exporter.run.hub import cached_name
from exporter.run.seen import Identity

NOT_A_NAME = re.compile(
    r"checkpoint-\d+|epoch_\d+|global_step_\d+|actor|huggingface|lora_adapter|adapters?|checkpoints?|final|loras?|merged|"
    r"models?|outputs?|results?|runs?|saves?",
    re.IGNORECASE,
)
PLAIN = ("r", "lora_alpha", "target_modules", "peft_version")
TOLD = (
    *("use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "modules_to_save", "trainable_token_indices"),
    *("target_parameters", "layer_replication", "layers_to_transform", "exclude_modules", "lora_bias", "bias"),
    *("fan_in_fan_out", "ensure_weight_tying", "alpha"),
)
"""Fields of adapter_config.json that say what kind of adapter it is; these only where they are not the default."""


class Asked(TypedDict, total=False):
    """What may be said of a run beside its path.

    ``base`` is a folder or Hub id in place of the base that the adapter names; ``revision`` and ``base_revision`` are
    the Hub's of run and base; ``adapters`` are more of them on top, each ``DIR[:WEIGHT]``; ``packing`` says how lora_B
    of fused experts is packed where the adapter does not; ``qlora_base``, ``full`` or ``nf4``, what a QLoRA adapter is
    laid over.
    """

    base: str | None
    revision: str | None
    base_revision: str | None
    adapters: Sequence[str]
    packing: str | None
    qlora_base: str


@dataclass(frozen=True)
class Adapter:
    """One PEFT adapter: its folder, its configuration, its file of tensors."""

    folder: Path
    config: Mapping[str, object]
    weights: Path
    weight: float = 1.0
    """The factor of its changes."""
    given: Path | None = None
    """The folder, or the Hub id, that ``--adapter`` gave; None: the run's own."""
    seen: Mapping[Path, Identity] = field(default_factory=dict, repr=False, compare=False)
    """The files of its folder, as they were before they were read."""

    @property
    def method(self) -> str:
        """PEFT's name of the method, in lower case."""
        return str(self.config.get("peft_type")).lower()

    @property
    def name(self) -> str:
        """What it is called: its folder, or the one around it where that says nothing."""
        place = Path(cached_name(self.given or self.folder) or self.given or self.folder)
        return next((name for name in (place.name, place.parent.name) if says_something(name)), "adapter")

    @property
    def settings(self) -> dict[str, object]:
        """Its fields that say what kind of adapter it is, by PEFT's names, as JSON without NaN can hold them."""
        shown = {name: self.config.get(name) for name in PLAIN}
        shown |= {name: self.config[name] for name in TOLD if self.config.get(name)}
        kept = {name: value for name, value in shown.items() if value not in (None, "none")}
        plain: dict[str, object] = json.loads(json.dumps(kept), parse_constant=str)
        return plain


@dataclass(frozen=True)
class FourBit:
    """How bitsandbytes quantized a base for training; without more said, as QLoRA does (arXiv:2305.14314)."""

    kind: str = "nf4"
    """``nf4`` or ``fp4``."""
    nested: bool = True
    """Whether the blocks' scales are quantized too (double quantization)."""
    skipped: tuple[str, ...] | None = None
    """The modules that stayed in 16 bits; None: the head, as transformers decides."""
    said_by: str | None = None
    """The file whose settings these are; None: QLoRA's own."""
    because: str | None = None
    """The file that says that training was in 4 bits at all."""
    unknown: str | None = None
    """Why the base cannot be rounded here as it was for training: a sentence; None where it can."""
    transformers: int | None = None
    """The major version of transformers that the run names."""


@dataclass(frozen=True)
class Vision:
    """A projector that is to be written too: at what level, with what config.

    ``processor`` are the image processor's files, which say how the colours of an image become numbers.
    """

    level: str
    config: Config
    warnings: tuple[str, ...]
    processor: tuple[Path, ...]


@dataclass(frozen=True)
class Run:
    """A training run, or a plain checkpoint: everything that is known before a tensor is read."""

    path: Path
    """The folder as the user named it, or the Hub id."""
    folder: Path
    """Where its weights lie: the same, or the checkpoint that was taken."""
    kind: str
    """``lora``, ``full`` or ``checkpoint``."""
    trainer: str
    base: Path
    base_name: str
    adapters: tuple[Adapter, ...]
    family: Family
    config: Config
    tokenizer_files: Mapping[str, Path]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    trainer_from: str | None = None
    """The file that says who trained it, from the run's folder; None where none does."""
    dataset: str | None = None
    """What it was trained on, as the trainer's files name it; several with commas between."""
    dataset_from: str | None = None
    """The file that names the dataset."""
    packing: str | None = None
    """How lora_B of fused experts is packed, as the user says."""
    layers: tuple[int, ...] | None = None
    """Which of the base's layers each layer is, where training repeated some."""
    base_from: str | None = None
    """What named the base: ``--base``, or a file; None for a run that is its own base."""
    four_bit: FourBit | None = None
    """How the base was quantized for training; None where nothing says that it was, and nobody asked."""
    qlora_base: str = "full"
    """What the adapter is laid over: ``full``, the base as stored, or ``nf4``, rounded as ``four_bit`` says."""

    tower: Projector | None = None
    """By whose rows the vision tower's weights are named; None: they are left out."""
    vision: Vision | None = None
    """The projector's file that was asked for too."""
    seen: Mapping[Path, Identity] = field(default_factory=dict, repr=False, compare=False)
    """The files of its folders, as they were before they were read; each adapter has its own."""

    @property
    def names(self) -> Family:
        """By whose rows and layouts the weights are named: the family's, and the vision tower's where that is read."""
        if self.tower is None:
            return self.family
        table, parts = self.tower.table, self.tower.parts
        kept = {part: starts for part, starts in self.family.left_out.items() if part not in parts}
        return replace(
            self.family,
            tensors={**self.family.tensors, **table.tensors},
            layouts={**self.family.layouts, **table.layouts},
            left_out={**kept, **table.left_out},
            dropped=(*self.family.dropped, *table.dropped),
        )

    @property
    def rounded(self) -> str | None:
        """What the base is rounded to before an adapter is laid over it, as a report has it; None: to nothing."""
        return None if self.qlora_base == "full" else self.qlora_base

    @property
    def name(self) -> str:
        """What the model is called: the run's folder, or the one around it where its name says nothing of the run.

        Where neither does, a run with an adapter has its own folder's name all the same, for the base's is the base's.
        """
        place = Path(cached_name(self.path) or self.path)
        names = [place.name, place.parent.name] if self.adapters else [place.name]
        own = place.name if self.adapters else ""
        return next(filter(says_something, names), own or Path(self.base_name).name)

    @property
    def on_top(self) -> tuple[Adapter, ...]:
        """The adapters that were asked for beside the run's own."""
        return tuple(adapter for adapter in self.adapters if adapter.given is not None)


def says_something(name: str) -> bool:
    """Whether a folder's name tells one model from another."""
    return bool(name) and NOT_A_NAME.fullmatch(name) is None
