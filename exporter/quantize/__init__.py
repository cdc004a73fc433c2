"""Row quantizers, behind one function."""

import numpy as np
from numpy.typing import NDArray

from exporter.ggml import are_valid, quantize_rows


def quantize(kind: str, rows: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Rows in a GGML type, with the bytes that llama.cpp makes of them.

    Args:
        kind: GGML's name of the type, such as ``Q4_K``.
        rows: (rows, columns) in float32, contiguous; columns are a multiple of the type's block.

    Returns:
        The bytes of all rows, one after another.
    """
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType  # noqa: PLC0415  (slow to import)

    if kind == "F32":
        return rows.reshape(-1).view(np.uint8)
    number = GGMLQuantizationType[kind]
    block, size = GGML_QUANT_SIZES[number]
    return quantize_rows(int(number), rows, rows.shape[1] // block * size)


def is_finite(kind: str, data: NDArray[np.uint8]) -> bool:
    """Whether quantized rows hold finite numbers: a block whose scale is beyond 16 bits does not."""
    from gguf import GGMLQuantizationType  # noqa: PLC0415  (slow to import)

    return are_valid(int(GGMLQuantizationType[kind]), data)
