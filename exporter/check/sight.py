"""The proof of a projector: llama.cpp's multimodal library loads it, and an image becomes finite embeddings."""

from typing import TYPE_CHECKING

import numpy as np

from exporter.check.values import Check
from exporter.errors import EngineError
from exporter.llamacpp import Engine

if TYPE_CHECKING:
    from pathlib import Path

SIDE = 224


def check_sight(text: "Path", projector: "Path") -> Check:
    """Whether an image of random pixels can be looked at with a text model and a projector."""
    image = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    try:
        with Engine(text) as engine:
            seen = engine.see(projector, image)
    except EngineError as error:
        return Check("projector", "fail", f"llama.cpp's multimodal library does not use it. {error}")
    if not np.isfinite(seen).all():
        return Check("projector", "fail", "an image gives embeddings that are not finite: the weights are damaged")
    tokens, width = seen.shape
    detail = f"llama.cpp's multimodal library loads it; an image becomes {tokens} embeddings of {width} numbers"
    return Check("projector", "pass", detail)
