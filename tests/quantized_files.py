"""Weights stored quantized: by the libraries for it (golden files), by transformers, and written out here."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import torch
from exported import change_json
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny import make
from transformers.integrations.finegrained_fp8 import Fp8Dequantize, Fp8Quantize

from exporter.source.files import open_model
from exporter.source.quantized import Dequantized, dequantized
from exporter.source.quantized.bitsandbytes import NF4

GOLDEN = sorted((Path(__file__).parent / "reference" / "quantized").glob("*.safetensors"))
Settings = dict[str, Any]
Dtype = Literal["float32", "float16"]


def case_of(name: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The stored tensors of a golden file, and what the library made of them."""
    file = next(file for file in GOLDEN if file.stem == name)
    with safe_open(file, framework="pt") as opened:
        return load_file(file), json.loads(opened.metadata()["case"])


def stored(tensors: Mapping[str, torch.Tensor], settings: Settings, folder: Path) -> Dequantized:
    """A folder with these tensors, opened."""
    folder.mkdir(exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    opened = dequantized(open_model(folder), settings, "base")
    assert isinstance(opened, Dequantized)
    return opened


def dequantize(tensors: Mapping[str, torch.Tensor], settings: Settings, folder: Path) -> torch.Tensor:
    """The weight `x` of a folder with these tensors."""
    return stored(tensors, settings, folder).read("x.weight", (slice(None),))


def check_ranges(files: Dequantized, name: str, whole: torch.Tensor, expert: int | None = None) -> None:
    """Any range of rows is those rows of the whole."""
    rows = whole.shape[0]
    for start, stop in ((0, 1), (rows - 1, rows), (1, rows), (rows // 3, rows // 2 + 1), (3, rows + 9), (5, 5)):
        index = (slice(start, stop),) if expert is None else (expert, slice(start, stop))
        assert files.read(name, index).equal(whole[start:stop]), (start, stop)


def digest(values: torch.Tensor) -> str:
    """SHA-256 of the values' bytes; there is one zero."""
    return hashlib.sha256((values + 0).contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(7)) * 0.05


def fp8(settings: Settings, weight: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """A weight as transformers stores it, and as it dequantizes that."""
    told = SimpleNamespace(**({"weight_block_size": None, "scale_fmt": "float"} | settings))
    made = Fp8Quantize(SimpleNamespace(quantization_config=told)).convert({"x.weight": weight})
    back = Fp8Dequantize(None)._dequantize_one(made["x.weight"], made["x.weight_scale_inv"], torch.float32)
    return made, back


PLAIN = {"embed_tokens", "lm_head", "gate", "wte", "wpe"}


def as_fp8(name: str, weight: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """A weight as transformers stores it in FP8, and as it dequantizes that."""
    parts, back = fp8({"weight_block_size": [8, 16]}, weight)
    return {part.replace("x.weight", name): value for part, value in parts.items()}, back


def as_nf4(name: str, weight: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """A weight as bitsandbytes stores it in NF4 without nested scales, written out."""
    table = torch.tensor(NF4)
    blocks = weight.reshape(-1, 64)
    scales = blocks.abs().amax(1)
    codes = torch.bucketize(blocks / scales[:, None], (table[1:] + table[:-1]) / 2)
    octets = (codes.reshape(-1, 2)[:, :1] << 4 | codes.reshape(-1, 2)[:, 1:]).to(torch.uint8)
    state = {"quant_type": "nf4", "blocksize": 64, "dtype": "float16", "shape": list(weight.shape)}
    told = torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)
    parts = {"": octets, ".absmax": scales, ".quant_map": table.clone(), ".quant_state.bitsandbytes__nf4": told}
    return {name + key: part for key, part in parts.items()}, (table[codes] * scales[:, None]).reshape(weight.shape)


def as_gptq(name: str, weight: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """A weight as GPTQ stores it in 4 bits, groups of 16, rounded to nearest, written out."""
    rows, columns = weight.shape
    groups = weight.reshape(rows, -1, 16)
    scales = (groups.amax(-1) - groups.amin(-1)).div(15).half().float()
    zeros = (-groups.amin(-1) / scales).round().clamp(1, 15)
    codes = (groups / scales[..., None] + zeros[..., None]).round().clamp(0, 15)
    back = ((codes - zeros[..., None]) * scales[..., None]).reshape(rows, columns)
    words = sum(codes.reshape(rows, columns).T[place::8].long() << 4 * place for place in range(8))
    points = sum((zeros.T[:, place::8].long() - 1) << 4 * place for place in range(8))
    assert isinstance(words, torch.Tensor)
    assert isinstance(points, torch.Tensor)
    parts = {"qweight": words.to(torch.int32), "qzeros": points.to(torch.int32), "scales": scales.T.half()}
    return {f"{name.removesuffix('weight')}{key}": part for key, part in parts.items()}, back


WHOLE: dict[str, tuple[Callable[..., Any], Settings, str]] = {
    "fp8": (as_fp8, {"quant_method": "fp8", "weight_block_size": [8, 16]}, "fp8 (fine-grained)"),
    "nf4": (as_nf4, {"quant_method": "bitsandbytes", "load_in_4bit": True}, "nf4 (bitsandbytes)"),
    "gptq": (as_gptq, {"quant_method": "gptq", "bits": 4, "group_size": 16, "desc_act": False}, "int4 (GPTQ)"),
}


def whole(model: str, way: str, folder: Path, *, dtype: Dtype = "float32") -> tuple[Path, dict[str, torch.Tensor]]:
    """A tiny model with its linear layers stored quantized, and its weights as they are dequantized.

    GPT-2's Conv1D is quantized as the linear layer that it is replaced by, (outputs, inputs).
    """
    make(model, folder, dtype=dtype)
    made, expected = {}, {}
    quantize, settings, _ = WHOLE[way]
    conv1d = model.startswith("gpt2")
    for name, weight in load_file(folder / "model.safetensors").items():
        made[name] = expected[name] = weight
        if weight.ndim == 2 and not PLAIN & set(name.split(".")):
            del made[name]
            parts, back = quantize(name, (weight.T.contiguous() if conv1d else weight).float())
            expected[name] = back.T.contiguous() if conv1d else back
            made |= parts
    save_file({name: part.contiguous() for name, part in made.items()}, folder / "model.safetensors", {"format": "pt"})
    change_json(folder / "config.json", quantization_config=settings)
    return folder, {name: weight.float() for name, weight in expected.items()}
