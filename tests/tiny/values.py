"""What a tiny model is."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Layout = Literal["plain", "mixtral", "fused", "turned", "vision-v4", "vision-v5"]
Kind = Literal["spm", "spm-added", "spm-inst", "llama3", "llama3-image", "qwen", "glm", "gemma", "gemma-image"]
Config = dict[str, Any]
Array = NDArray[np.float32]
Weights = Mapping[str, Array]


@dataclass(frozen=True)
class Tiny:
    """A model that is made on the spot.

    Attributes:
        architecture: the class named in `config.json`.
        config: `config.json` as transformers 4 spells it, without `architectures` and `torch_dtype`.
        layout: how the checkpoint names and groups its tensors, see `weights.LAYOUTS`.
        tokenizer: which of the tokenizers of `tokenizers.py` it has.
        loads: whether transformers itself can read this layout.
        renames: patterns of canonical names and what the checkpoint has in their place, where no layout says so.
        stores: makes the checkpoint's tensors of the canonical ones, where renaming is not enough.
        spread: the mean and the deviation of the weights of a name and shape, where they are unlike the usual.
        version5: what transformers 5 writes in place of version 4's fields, beyond what all families have.
        shapes: names and shapes of the weights, where transformers has no such class.
        forward: the logits after each of some ids, (ids, vocabulary), computed in the test from weights and
            configuration, where transformers has no such class.
        bound: how far f32 logits may be from the truth, in its standard deviations, with the reason beside it; None:
            only the order of sums may differ.
        faults: metadata of our files that differs from llama.cpp's converter's: key -> (type, value), or None where
            only the converter writes the key; each with the reason beside it.
        processor: `preprocessor_config.json`, of a model whose projector is exported.
        wrong: tensors of which the converter's shape, type or values are not right, each with the reason beside it.
    """

    architecture: str
    config: Mapping[str, Any] = field(hash=False)
    tokenizer: Kind
    layout: Layout = "plain"
    loads: bool = True
    renames: Sequence[tuple[str, str]] = ()
    stores: Callable[[Weights], Weights] | None = None
    spread: Callable[[str, tuple[int, ...]], tuple[float, float] | None] | None = None
    version5: Callable[[Config], Config] | None = None
    shapes: Callable[[Config], Mapping[str, tuple[int, ...]]] | None = None
    forward: Callable[[Weights, Config, NDArray[np.int32]], Array] | None = None
    bound: float | None = None
    faults: Mapping[str, tuple[str, Any] | None] = field(default_factory=dict, hash=False)
    wrong: tuple[str, ...] = ()
    processor: Mapping[str, Any] | None = field(default=None, hash=False)
