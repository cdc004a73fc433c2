"""The header of a file, byte for byte as gguf-py's writer makes it."""

from math import prod
from pathlib import Path

import gguf
import numpy as np
import pytest
from exported import change_json, planned
from tiny import make

from exporter.errors import PlanError
from exporter.header import header
from exporter.plan.values import Value

METADATA: dict[str, Value] = {
    "general.name": "name: ünïcode ▁",
    "general.architecture": "llama",
    "llama.context_length": 2**32 - 1,
    "general.sampling.top_k": np.int32(-1),
    "llama.rope.freq_base": 10000.1,
    "tokenizer.ggml.add_bos_token": True,
    "tokenizer.ggml.tokens": ("", "▁a", "\x00", "🦙"),
    "tokenizer.ggml.scores": (0.0, -1.5, 1e-30),
    "tokenizer.ggml.token_type": (-1, 0, 6),
    "llama.flags": (True, False, True),
}
TENSORS = [
    ("a.weight", (3, 512), "Q4_K"),
    ("b", (5,), "F32"),
    ("c.weight", (2, 3, 64), "Q8_0"),
    ("d", (1, 256), "BF16"),
]
KINDS = {
    bool: "add_bool",
    int: "add_uint32",
    np.int32: "add_int32",
    float: "add_float32",
    str: "add_string",
    tuple: "add_array",
}


def test_equals_gguf_py(tmp_path: Path) -> None:
    file = tmp_path / "file.gguf"
    writer = gguf.GGUFWriter(file, "llama")
    for key, value in METADATA.items():
        if key != "general.architecture":
            getattr(writer, KINDS[type(value)])(key, value)
    for name, shape, kind in TENSORS:
        block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
        count = prod(shape) // block * size
        writer.add_tensor_info(name, shape, np.dtype(np.float32), count, gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    expected = file.read_bytes()
    assert header(METADATA, TENSORS) == expected + bytes(-len(expected) % 32)


@pytest.mark.parametrize("values", [(), (1, 2.0), (True, 1)])
def test_arrays_are_of_one_type(values: Value) -> None:
    with pytest.raises(ValueError, match="of one type"):
        header({"general.architecture": "llama", "key": values}, [])


@pytest.mark.parametrize("value", [2**32, -1, 1e300, "\ud800", (2**31,)])
def test_a_value_that_the_format_cannot_hold_is_named(value: Value) -> None:
    with pytest.raises(PlanError, match=r"llama.odd: .* cannot be written in GGUF"):
        header({"general.architecture": "llama", "llama.odd": value}, [])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e300, 10**400, "0.7", True, [1]])
@pytest.mark.parametrize("field", ["top_k", "temperature"])
def test_a_sampling_field_that_is_no_number_of_the_format_is_named(field: str, value: object, tmp_path: Path) -> None:
    change_json(make("llama", tmp_path) / "generation_config.json", **{field: value})
    with pytest.raises(PlanError, match=rf"generation_config\.json: {field} is .*, expected a .*\. Correct"):
        planned(tmp_path, "q8_0")


def test_sampling_fields_are_of_the_formats_types(tmp_path: Path) -> None:
    file = make("llama", tmp_path) / "generation_config.json"
    change_json(file, top_k=-1.0, temperature=1, min_p=0)
    metadata = planned(tmp_path, "q8_0").outputs[0].metadata
    found = [metadata.get(f"general.sampling.{name}") for name in ("top_k", "temp", "min_p", "top_p")]
    assert [(type(value), value) for value in found[:3]] == [(np.int32, -1), (float, 1.0), (float, 0.0)]
    assert found[3] is None
    for value in (50.5, 2**31):
        change_json(file, top_k=value)
        with pytest.raises(PlanError, match=rf"top_k is {value}, expected a whole number of 32 bits\. Correct"):
            planned(tmp_path, "q8_0")
