"""A GGUF file's header: everything before the tensors' data, by gguf-py."""

import io
from collections.abc import Iterable, Mapping
from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from exporter.plan.values import Value

ALIGNMENT = 32


def header(metadata: "Mapping[str, Value]", tensors: Iterable[tuple[str, tuple[int, ...], str]]) -> bytes:
    """The header of a file, padded to where its data begins.

    Args:
        metadata: by full key; an int becomes UINT32, a float FLOAT32, a tuple an array.
        tensors: name, shape (rows before columns) and GGML type of each, in file order.
    """
    import numpy as np  # noqa: PLC0415
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType, GGUFWriter  # noqa: PLC0415  (slow)
    from gguf.gguf_writer import WriterState  # noqa: PLC0415

    kinds = {bool: GGUFValueType.BOOL, int: GGUFValueType.UINT32, float: GGUFValueType.FLOAT32}
    kinds |= {str: GGUFValueType.STRING, tuple: GGUFValueType.ARRAY}
    writer = GGUFWriter(None, str(metadata["general.architecture"]))
    for key, value in metadata.items():
        if key != "general.architecture":
            writer.add_key_value(key, value, kinds[type(value)])
    for name, shape, kind in tensors:
        block, size = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
        writer.add_tensor_info(
            name, shape, np.dtype(np.float32), prod(shape) // block * size, GGMLQuantizationType[kind]
        )
    sink = io.BytesIO()
    writer.fout, writer.state = [sink], WriterState.EMPTY  # into memory, where the library would open a file
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    data = sink.getvalue()
    return data + bytes(-len(data) % ALIGNMENT)
