"""A run as a value."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from converters.spec import Config, Family

NOT_A_NAME = re.compile(
    r"checkpoint-\d+|epoch_\d+|global_step_\d+|actor|huggingface|lora_adapter|adapter|lora|merged|outputs?|final|run|model",
    re.IGNORECASE,
)


class Asked(TypedDict, total=False):
    """What may be said of a run beside its path.

    ``base`` is a folder or Hub id in place of the base that the adapter names; ``revision`` and ``base_revision`` are
    the Hub's of run and base; ``adapters`` are more of them on top, each ``DIR[:WEIGHT]``; ``packing`` says how lora_B
    of fused experts is packed where the adapter does not.
    """

    base: str | None
    revision: str | None
    base_revision: str | None
    adapters: Sequence[str]
    packing: str | None


@dataclass(frozen=True)
class Adapter:
    """One PEFT adapter: its folder, its configuration, its file of tensors."""

    folder: Path
    config: Mapping[str, object]
    weights: Path
    weight: float = 1.0
    """The factor of its changes."""


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

    @property
    def name(self) -> str:
        """What the model is called: the run's folder, or the base where the folder's name says nothing."""
        names = [self.path.name, self.path.parent.name] if self.adapters else [self.path.name]
        return next((name for name in names if name and not NOT_A_NAME.fullmatch(name)), Path(self.base_name).name)
