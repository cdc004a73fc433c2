"""How far a file's logits may be from the transformers model's: the one place of these thresholds.

Between float32 and float32 only the order of sums differs, and llama.cpp's GELU and SiLU, which are tables of float16
values for some models. In a 16-bit file the merged weights are rounded once, and llama.cpp rounds the numbers that go
into each product to the same type; transformers computes in float32 throughout.
"""

from dataclasses import dataclass
from pathlib import Path

from exporter.outputs import shards


@dataclass(frozen=True)
class Bound:
    """The least share of equal likeliest tokens, the most mean KLD in nats, and the largest difference.

    That difference is of single logits, in units of the logits' standard deviation.
    """

    top1: float
    kld: float
    largest: float


BOUNDS = {"f32": Bound(0.98, 1e-5, 0.02), "f16": Bound(0.97, 1e-4, 0.1), "bf16": Bound(0.93, 1e-3, 0.3)}
# Seen on SmolLM2 135M and Gemma 3 270M: KLD 1e-10 and 5e-7 (f32), 1e-6 (f16), 8e-5 (bf16); largest difference 6e-5 and
# 4e-3, 6e-3, 4e-2. The room is for deeper models, and for experts that a router chooses otherwise by a hair.
PART = 0.01
"""The mean KLD may be this part of what the adapters do at the most: a tenth of them missing makes as much."""


def level_of(file: Path) -> str | None:
    """The level of a file by its tensors' types, whatever it calls itself; None where one is quantized."""
    from gguf import GGUFReader  # noqa: PLC0415  (slow to import)

    types = {tensor.tensor_type.name for shard in shards(file) for tensor in GGUFReader(shard).tensors}
    return next((level for level in BOUNDS if types <= {"F32", level.upper()}), None)
