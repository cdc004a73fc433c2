"""Weights rounded to 4 bits as bitsandbytes rounds them (golden files), and runs that were trained over such a base."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from adapters import write_adapter
from safetensors import safe_open
from safetensors.torch import load_file
from tiny import make

from exporter.merge import Merged
from exporter.run import open_run
from exporter.run.values import FourBit
from exporter.source import open_source
from exporter.source.nf4 import RoundTrip

GOLDEN = Path(__file__).parent / "reference" / "nf4"
TRIPS = load_file(GOLDEN / "round_trip.safetensors")
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
DOUBLE = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
PEFT_LIST = "The following `bitsandbytes` quantization config was used during training:\n"


def told(name: str) -> dict[str, str]:
    """What a golden file says of itself."""
    with safe_open(GOLDEN / f"{name}.safetensors", framework="pt") as opened:
        found: dict[str, str] = opened.metadata()
    return found


def trip(weight: torch.Tensor, kind: str = "nf4", *, nested: bool = True) -> RoundTrip:
    """The view over one weight, `x`, that is stored as it is given."""

    def read(_name: str, start: int, stop: int) -> torch.Tensor:
        return weight[start:stop].float()

    base: Any = SimpleNamespace(shapes=lambda: {"x": tuple(weight.shape)}, read=read, left_out=())
    return RoundTrip(base, {"x"}, FourBit(kind, nested))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make("llama", tmp_path_factory.mktemp("base"), dtype="bfloat16")


@pytest.fixture
def lora(tmp_path: Path, base: Path) -> Path:
    """A run with a plain LoRA adapter of some modules; nothing says that it was trained in 4 bits."""
    return write_adapter(tmp_path / "lora-run", base, {})


def source_of_nf4(run: Path, base: Path | None = None) -> Merged:
    return open_source(open_run(run, base=str(base) if base else None, qlora_base="nf4"))
