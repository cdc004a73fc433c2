"""Round weights to 4 bits and back with bitsandbytes, and run QLoRA's live layers on them: `nf4/*.safetensors`.

Run by hand, once for each new case; the tests only read the files. In an environment of its own, with torch,
transformers, accelerate, peft, safetensors and

    pip install --no-deps bitsandbytes==0.50.2
    PYTHONPATH=tests python tests/reference/make_nf4.py

bitsandbytes is imported without its C library, so that its portable kernels do the work, which go by the middles
between neighbouring values, as its CUDA kernels are written to. Of the C kernels for the CPU the one for 8 bits takes
the neighbouring value for one number in about 600, and the AVX-512 one for 4 bits is wrong where a block covers whole
rows.

`round_trip.safetensors` holds weights as they are stored, and as metadata (`cases`, JSON) for each of them `kind`,
`nested`, `sha256` of the round trip's bytes in float32 (-0 counts as 0), and its `first` values.

`live.safetensors` holds the logits of a tiny model in float32 that transformers quantized as it loaded it, with a LoRA
adapter of PEFT's live on it: `ids`, `logits`, and the adapter's tensors. Its metadata (JSON): `config`, of the adapter;
`quantization`, `quantization_config`; `model`, a name of `tiny.TINY`; `weights`, the round trips' sha256 by module.
"""

import ctypes
import hashlib
import json
import os
import tempfile
from pathlib import Path
from unittest import mock

os.environ["TORCHDYNAMO_DISABLE"] = "1"  # the kernels as they are written

import torch
from safetensors.torch import load_file, save_file

with mock.patch.object(type(ctypes.cdll), "LoadLibrary", side_effect=OSError("left out on purpose")):
    import bitsandbytes

HERE = Path(__file__).resolve().parent / "nf4"
CASES = (
    ("bf16", (96, 200), torch.bfloat16, "nf4", True),  # 300 blocks: two of nested scales; rows end within blocks
    ("bf16_plain", (96, 200), torch.bfloat16, "nf4", False),
    ("f16_short", (7, 50), torch.float16, "nf4", True),  # the last block is cut short
    ("f32_aligned", (64, 128), torch.float32, "nf4", True),
    ("narrow", (200, 24), torch.bfloat16, "nf4", True),  # a block covers whole rows
    ("fp4", (40, 72), torch.bfloat16, "fp4", True),
    ("fp4_plain", (40, 72), torch.float16, "fp4", False),
    ("zeros", (16, 64), torch.bfloat16, "nf4", True),  # blocks of zeros
)


def weight(rows: int, columns: int, seed: int) -> torch.Tensor:
    """A weight of about a trained one's sizes, with some large values."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(rows, columns, generator=generator) * 0.05
    return torch.where(torch.rand(rows, columns, generator=generator) < 0.01, values * 8, values)


def digest(values: torch.Tensor) -> str:
    return hashlib.sha256((values.detach().float() + 0).contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()


def rounded(values: torch.Tensor, kind: str, *, nested: bool) -> torch.Tensor:
    packed, state = bitsandbytes.functional.quantize_4bit(values, quant_type=kind, compress_statistics=nested)
    state.dtype = torch.float32  # what is dequantized is not rounded once more
    return bitsandbytes.functional.dequantize_4bit(packed, state)


def round_trips() -> None:
    stored, cases = {}, {}
    for seed, (name, shape, dtype, kind, nested) in enumerate(CASES):
        values = weight(*shape, seed).to(dtype)
        if name == "zeros":
            values[:5] = 0
        back = rounded(values, kind, nested=nested)
        stored[name] = values
        cases[name] = {"kind": kind, "nested": nested, "sha256": digest(back), "first": back[-1, :8].tolist()}
    save_file(stored, HERE / "round_trip.safetensors", {"cases": json.dumps(cases)})


def live() -> None:
    import peft  # noqa: PLC0415
    import transformers  # noqa: PLC0415
    from tiny import make  # noqa: PLC0415

    settings = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
    with tempfile.TemporaryDirectory() as place:
        base, adapter = make("llama", Path(place) / "base", dtype="bfloat16"), Path(place) / "adapter"
        model = transformers.LlamaForCausalLM.from_pretrained(
            base, dtype=torch.float32, device_map="cpu", quantization_config=transformers.BitsAndBytesConfig(**settings)
        )
        weights = {
            name: digest(bitsandbytes.functional.dequantize_4bit(module.weight, module.weight.quant_state))
            for name, module in model.named_modules()
            if isinstance(module, bitsandbytes.nn.Linear4bit)
        }
        config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"])
        tuned = peft.get_peft_model(model, config).eval()
        generator = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for name, parameter in tuned.named_parameters():
                if "lora_" in name:
                    parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
            ids = torch.randint(3, 400, (1, 24), generator=generator)
            logits = tuned(ids).logits
        assert type(tuned.base_model.model.model.layers[0].self_attn.q_proj).__module__ == "peft.tuners.lora.bnb"
        tuned.save_pretrained(adapter)
        written = json.loads((adapter / "adapter_config.json").read_text())
        told = {
            "config": json.dumps(written | {"base_model_name_or_path": None}),
            "quantization": json.dumps(model.config.quantization_config.to_dict()),
            "model": "llama",
            "weights": json.dumps(weights),
        }
        tensors = load_file(adapter / "adapter_model.safetensors")
        save_file({"ids": ids, "logits": logits.contiguous()} | tensors, HERE / "live.safetensors", told)


if __name__ == "__main__":
    HERE.mkdir(exist_ok=True)
    round_trips()
    live()
