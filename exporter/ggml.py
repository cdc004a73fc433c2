"""Row functions of ggml's C library, which llama-cpp-python brings; ctypes lives here and in ``llamacpp``.

Calls release the GIL. ggml answers misuse by ending the process, so every argument is checked before.
"""

import ctypes
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from exporter.errors import EngineError

ENDING = {"darwin": "libggml-base.dylib", "win32": "ggml-base.dll"}.get(sys.platform, "libggml-base.so")


@cache
def _library() -> ctypes.CDLL:
    """The library, opened without importing llama_cpp."""
    spec = find_spec("llama_cpp")
    if spec is None or spec.origin is None:
        raise EngineError(
            "llama-cpp-python is not installed, so nothing can be quantized: pip install llama-cpp-python."
        )
    file = Path(spec.origin).parent / "lib" / ENDING
    if not file.exists():
        raise EngineError(f"{file} is missing from llama-cpp-python. Install it again: pip install llama-cpp-python.")
    library = ctypes.CDLL(str(file))
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = [
        ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p,
    ]  # fmt: skip
    library.ggml_validate_row_data.restype = ctypes.c_bool
    library.ggml_validate_row_data.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]
    return library


def are_valid(kind: int, data: NDArray[np.uint8]) -> bool:
    """Whether rows in a GGML type hold finite numbers, as llama.cpp checks a file: says on stderr what is wrong."""
    return bool(_library().ggml_validate_row_data(kind, data.ctypes.data, data.nbytes))


def quantize_rows(kind: int, rows: NDArray[np.float32], row_bytes: int) -> NDArray[np.uint8]:
    """Rows in a GGML type, by ``ggml_quantize_chunk``.

    Args:
        kind: GGML's number of the type.
        rows: (rows, columns), contiguous; columns a multiple of the type's block.
        row_bytes: bytes of a finished row.

    Returns:
        The bytes, (rows * row_bytes,).
    """
    if rows.dtype != np.float32 or not rows.flags.c_contiguous:
        raise EngineError(f"rows of {rows.dtype}, contiguous: {rows.flags.c_contiguous}; ggml reads contiguous float32")
    count, columns = rows.shape
    out = np.empty(count * row_bytes, dtype=np.uint8)
    written = _library().ggml_quantize_chunk(kind, rows.ctypes.data, out.ctypes.data, 0, count, columns, None)
    if written != out.nbytes:
        raise EngineError(f"ggml wrote {written} bytes of type {kind} for {count} x {columns}, expected {out.nbytes}")
    return out
