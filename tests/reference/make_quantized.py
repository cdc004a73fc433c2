"""Quantize small weights with the libraries for it, and record what they are dequantized to: `quantized/*.safetensors`.

Run by hand, once for each new case; the tests only read the files. In an environment of its own, with torch,
transformers, safetensors and

    pip install --no-deps bitsandbytes==0.50.2 compressed-tensors==0.20.0 loguru autoawq==0.2.9
    pip download --no-deps auto-gptq==0.7.1 && unzip -d auto_gptq_wheel auto_gptq-0.7.1-*.whl
    python tests/reference/make_quantized.py auto_gptq_wheel

AutoAWQ and AutoGPTQ need an older transformers to be imported whole; the modules used here do not: they are loaded
alone.

A file holds the stored tensors of the module `x` as a checkpoint stores them, and as metadata (`case`, JSON):
`settings`, the `quantization_config`; `shape`; `word`; `library`; `sha256` of the dequantized weight's bytes in `dtype`
(float32 where the library computes in float32; -0 counts as 0, since bitsandbytes' kernels do not agree on it), and its
`first` values.
"""

import hashlib
import importlib
import json
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

HERE = Path(__file__).resolve().parent / "quantized"
Case = tuple[str, dict[str, Any], str, dict[str, torch.Tensor], torch.Tensor]
"""Name, `quantization_config`, word, stored tensors, dequantized weight."""


def weight(rows: int, columns: int, seed: int) -> torch.Tensor:
    """A weight of about a trained one's sizes, with some large values."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(rows, columns, generator=generator) * 0.05
    return torch.where(torch.rand(rows, columns, generator=generator) < 0.01, values * 8, values)


def bitsandbytes_cases() -> Iterator[Case]:
    from bitsandbytes import functional as bnb  # noqa: PLC0415
    from bitsandbytes.backends.default.ops import _dequantize_4bit_compute  # noqa: PLC0415

    portable = _dequantize_4bit_compute.__wrapped__  # not compiled

    settings = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    wide = {"blocksize": 64, "compress_statistics": True, "quant_storage": torch.uint8}
    for name, shape, kind, more in (
        ("bnb_nf4_nested", (96, 200), "nf4", {}),  # 300 blocks: two of nested scales
        ("bnb_nf4", (40, 72), "nf4", {"compress_statistics": False}),
        ("bnb_nf4_short", (7, 50), "nf4", {}),  # the last block is cut short
        ("bnb_nf4_bf16_storage", (40, 64), "nf4", {"quant_storage": torch.bfloat16, "blocksize": 128}),
        ("bnb_fp4_nested", (40, 72), "fp4", {}),
    ):
        packed, state = bnb.quantize_4bit(weight(*shape, 1), quant_type=kind, **(wide | more))
        stored = {"x.weight": packed} | {f"x.weight.{key}": part for key, part in state.as_dict(packed=True).items()}
        scales = bnb.dequantize_blockwise(state.absmax, state.state2) + state.offset if state.nested else state.absmax
        expected = portable(
            packed.view(torch.uint8).reshape(-1), scales, state.code, state.blocksize, shape, state.dtype
        )
        # Its AVX-512 kernel is wrong where a block covers whole rows of a power of two (0.50.2: errors of 100 %).
        if shape[1] > state.blocksize and not expected.equal(bnb.dequantize_4bit(packed, state)):
            raise ValueError(f"{name}: bitsandbytes disagrees with itself")
        yield name, settings, f"{kind} (bitsandbytes)", stored, expected
    octets, scales, _ = bnb.int8_vectorwise_quant(weight(40, 72, 2).half())
    stored = {"x.weight": octets, "x.SCB": scales, "x.weight_format": torch.tensor(0, dtype=torch.uint8)}
    eight = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    yield "bnb_int8", eight, "int8 (bitsandbytes)", stored, bnb.int8_vectorwise_dequant(octets, scales)


def alone(package: str, folder: Path, module: str) -> Any:  # noqa: ANN401
    """A module of a package whose ``__init__`` cannot be imported."""
    for name in ("", ".modules", ".modules.linear", ".utils", ".nn_modules", ".nn_modules.qlinear"):
        empty = types.ModuleType(package + name)
        empty.__path__ = [str(folder.joinpath(*name.split(".")))]
        sys.modules[package + name] = empty
    return importlib.import_module(f"{package}.{module}")


def awq_cases() -> Iterator[Case]:
    folder = next(Path(path) / "awq" for path in sys.path if (Path(path) / "awq" / "utils").is_dir())
    packing = alone("awq", folder, "utils.packing_utils")
    generator = torch.Generator().manual_seed(3)
    order = packing.AWQ_ORDER
    for name, inputs, outputs, group in (("awq", 64, 40, 32), ("awq_one_group", 48, 16, -1)):
        size = inputs if group == -1 else group
        numbers = torch.randint(0, 16, (inputs, outputs), generator=generator)
        zeros = torch.randint(0, 16, (inputs // size, outputs), generator=generator)
        scales = (torch.rand(inputs // size, outputs, generator=generator) * 0.02).half()
        packed = [
            sum(part[:, place::8] << (4 * nibble) for nibble, place in enumerate(order)) for part in (numbers, zeros)
        ]
        words = [torch.where(part >= 2**31, part - 2**32, part).to(torch.int32) for part in packed]
        expected = packing.dequantize_gemm(*words, scales, 4, size).T.contiguous()
        settings = {"quant_method": "awq", "bits": 4, "group_size": group, "version": "gemm", "zero_point": True}
        yield name, settings, "int4 (AWQ)", {"x.qweight": words[0], "x.qzeros": words[1], "x.scales": scales}, expected


def gptq_cases(wheel: Path) -> Iterator[Case]:
    linear = alone("auto_gptq", wheel / "auto_gptq", "nn_modules.qlinear.qlinear_cuda").QuantLinear
    generator = torch.Generator().manual_seed(4)
    for name, bits, group, ordered in (
        ("gptq_4", 4, 32, False),
        ("gptq_4_desc_act", 4, 32, True),
        ("gptq_4_one_group", 4, -1, False),
        ("gptq_8", 8, 32, False),
        ("gptq_3", 3, 32, False),
        ("gptq_2", 2, 32, False),
    ):
        outputs, inputs = 64, 96
        size, most = (inputs if group == -1 else group), 2**bits - 1
        layer = linear(bits, group, inputs, outputs, bias=False, weight_dtype=torch.float32)
        plain = torch.nn.Linear(inputs, outputs, bias=False)
        plain.weight.data = weight(outputs, inputs, 5)
        which = torch.arange(inputs) // size
        which = which[torch.randperm(inputs, generator=generator)] if ordered else which
        scales = torch.rand(outputs, inputs // size, generator=generator) * 0.01 + 0.2 / most
        zeros = torch.randint(1, most + 1, scales.shape, generator=generator).float()
        grid = (plain.weight.data / scales[:, which] + zeros[:, which]).round().clamp(0, most)
        plain.weight.data = (grid - zeros[:, which]) * scales[:, which]  # on the grid, as GPTQ leaves it
        layer.pack(plain, scales.clone(), zeros.clone(), which.to(torch.int32))
        expected = layer(torch.eye(inputs)).T.contiguous()
        stored = {f"x.{key}": getattr(layer, key).contiguous() for key in ("qweight", "qzeros", "scales", "g_idx")}
        settings = {"quant_method": "gptq", "bits": bits, "group_size": group, "desc_act": ordered, "sym": False}
        yield name, settings, f"int{bits} (GPTQ)", stored, expected


def compressed_cases() -> Iterator[Case]:
    from compressed_tensors.compressors import BaseCompressor  # noqa: PLC0415
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme  # noqa: PLC0415
    from compressed_tensors.quantization.utils import calculate_qparams  # noqa: PLC0415

    four = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32}
    float8 = {"num_bits": 8, "type": "float"}
    for name, form, fields, dtype in (
        ("ct_int4", "pack-quantized", four, torch.float32),
        ("ct_int4_bf16", "pack-quantized", four, torch.bfloat16),
        ("ct_int4_zeros", "pack-quantized", four | {"symmetric": False}, torch.float32),
        ("ct_int3_zeros", "pack-quantized", four | {"num_bits": 3, "symmetric": False}, torch.float32),
        ("ct_int8_packed", "pack-quantized", {"num_bits": 8, "strategy": "channel"}, torch.float32),
        ("ct_int8", "int-quantized", {"num_bits": 8, "strategy": "channel"}, torch.float32),
        ("ct_int8_zeros", "int-quantized", {"num_bits": 8, "strategy": "channel", "symmetric": False}, torch.float32),
        ("ct_fp8_tensor", "float-quantized", float8 | {"strategy": "tensor"}, torch.float32),
        ("ct_fp8_channel", "float-quantized", float8 | {"strategy": "channel"}, torch.bfloat16),
        ("ct_fp8_block", "float-quantized", float8 | {"strategy": "block", "block_structure": [16, 32]}, torch.float32),
    ):
        args = QuantizationArgs(**fields)
        scheme = QuantizationScheme(targets=["Linear"], weights=args)
        values = weight(40, 96, 6).to(dtype)
        low, high = _ranges(values, args)
        scale, zero = calculate_qparams(low, high, args)
        state = {"weight": values, "weight_scale": scale.to(dtype), "weight_zero_point": zero.to(torch.int8)}
        state = state if not args.symmetric else {key: part for key, part in state.items() if "zero" not in key}
        tool = BaseCompressor.get_value_from_registry(form)
        stored = tool.compress(state, scheme)
        expected = tool.decompress(stored, scheme)["weight"]
        settings = {
            "quant_method": "compressed-tensors",
            "format": form,
            "quantization_status": "compressed",
            "ignore": ["lm_head"],
            "config_groups": {"group_0": {"targets": ["Linear"], "weights": json.loads(args.model_dump_json())}},
        }
        word = (
            "fp8 (compressed-tensors)" if fields.get("type") == "float" else f"int{args.num_bits} (compressed-tensors)"
        )
        yield name, settings, word, {f"x.{key}": part.contiguous() for key, part in stored.items()}, expected


def _ranges(values: torch.Tensor, args: Any) -> tuple[torch.Tensor, torch.Tensor]:  # noqa: ANN401
    """Smallest and largest value for each scale."""
    rows, columns = values.shape
    if args.strategy == "group":
        parts = values.reshape(rows, -1, args.group_size)
        return parts.amin(-1), parts.amax(-1)
    if args.strategy == "channel":
        return values.amin(1, keepdim=True), values.amax(1, keepdim=True)
    if args.strategy == "tensor":
        return values.amin().reshape(1), values.amax().reshape(1)
    high, wide = args.block_structure
    padded = torch.nn.functional.pad(values, (0, -columns % wide, 0, -rows % high))
    parts = padded.reshape(-(-rows // high), high, -(-columns // wide), wide)
    return parts.amin((1, 3)), parts.amax((1, 3))


def main() -> None:
    """Write every case."""
    HERE.mkdir(exist_ok=True)
    libraries = {
        "bitsandbytes 0.50.2": bitsandbytes_cases(),
        "AutoAWQ 0.2.9": awq_cases(),
        "AutoGPTQ 0.7.1": gptq_cases(Path(sys.argv[1])),
        "compressed-tensors 0.20.0": compressed_cases(),
    }
    for library, cases in libraries.items():
        for name, settings, word, stored, expected in cases:
            octets = (expected.detach() + 0).contiguous().view(torch.uint8).numpy().tobytes()
            case = {
                "library": library,
                "settings": settings,
                "word": word,
                "shape": list(expected.shape),
                "dtype": str(expected.dtype).removeprefix("torch."),
                "sha256": hashlib.sha256(octets).hexdigest(),
                "first": expected[0, :8].tolist(),
            }
            save_file(stored, HERE / f"{name}.safetensors", {"case": json.dumps(case)})
            print(f"{name}: {list(expected.shape)}, {expected.dtype}")  # noqa: T201


if __name__ == "__main__":
    main()
