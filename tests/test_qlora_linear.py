"""What --qlora-base nf4 rounds is what bitsandbytes quantizes: the linear modules of the training's transformers."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from adapters import quiet
from tiny import TINY, make
from transformers.pytorch_utils import Conv1D

from converters.spec import HEAD
from exporter.run import open_run, with_tower
from exporter.run.values import FourBit, Run
from exporter.source import open_source
from exporter.source.names import our_name
from exporter.source.qlora import quantized

BEFORE = json.loads((Path(__file__).parent / "reference" / "linear.json").read_text(encoding="utf-8"))
"""In transformers 4, by kind: the layers' and the experts' numbers are ``{i}``."""
NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)")
NOT_HERE = ("baichuan", "deepseek-", "exaone-", "gemma3n-vision", "internlm")
"""Their code is not in transformers, or needs another package."""
NOW = [name for name in TINY if not f"{name}-".startswith(NOT_HERE)]


def rounded_kinds(run: Run, version: int) -> set[str]:
    found, undecided = quantized(open_source(run).shapes(), replace(run, four_bit=FourBit(transformers=version)))
    assert not undecided
    return {NUMBER.sub("{i}", name) for name in found}


def kinds(modules: list[str], run: Run) -> set[str]:
    """Of the linear modules those that we have, but for the head."""
    held = {NUMBER.sub("{i}", name) for name in open_source(run).shapes()}
    ours = {our_name(f"{name}.weight".replace("{i}", "0"), run.names) or "" for name in modules}
    return {NUMBER.sub("{i}", name) for name in ours} & held - {HEAD}


@pytest.mark.parametrize("name", BEFORE)
def test_what_is_rounded_is_linear_in_transformers_4(name: str, tmp_path: Path) -> None:
    run = open_run(make(name, tmp_path / "base"))
    assert rounded_kinds(run, 4) == kinds(BEFORE[name], run)


@pytest.mark.filterwarnings("default")  # deprecations inside transformers
@pytest.mark.parametrize("name", NOW)
def test_what_is_rounded_is_linear_in_transformers(name: str, tmp_path: Path) -> None:
    base = make(name, tmp_path / "base")
    run = open_run(base)
    run = run if name == "qwen2vl" else with_tower(run)  # whose tower is another than Qwen2.5-VL's
    architecture = json.loads((base / "config.json").read_text())["architectures"][0]
    with quiet(), torch.device("meta"):
        model = getattr(transformers, architecture)(transformers.AutoConfig.from_pretrained(base))
    linear = [module for module, one in model.named_modules() if isinstance(one, (torch.nn.Linear, Conv1D))]
    assert rounded_kinds(run, 5) == kinds(linear, run)
