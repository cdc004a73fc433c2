"""What --qlora-base nf4 rounds is what bitsandbytes quantizes: the linear modules of the training's transformers."""

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from adapters import quiet
from tiny import TINY, make
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.base import get_keys_to_not_convert
from transformers.quantizers.quantizers_utils import should_convert_module

from exporter.run import open_run, with_tower
from exporter.run.values import FourBit, Run
from exporter.source import open_source
from exporter.source.checkpoint import Checkpoint
from exporter.source.names import our_name
from exporter.source.qlora import quantized

BEFORE = json.loads((Path(__file__).parent / "reference" / "linear.json").read_text(encoding="utf-8"))
"""How many of each kind in transformers 4: the layers' and the experts' numbers are ``{i}``."""
NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)")
NOT_HERE = ("baichuan", "deepseek-", "exaone-", "gemma3n-vision", "internlm")
"""Their code is not in transformers, or needs another package."""
SURPLUS = ("gemma3n-keys", "gemma4-keys")
"""Stored with weights that are in no module."""
NOW = [name for name in TINY if not f"{name}-".startswith(NOT_HERE) and name not in SURPLUS]


def rounded_kinds(run: Run, version: int) -> Counter[str]:
    found, undecided = quantized(open_source(run).shapes(), replace(run, four_bit=FourBit(transformers=version)), {})
    assert not undecided
    return Counter(NUMBER.sub("{i}", name) for name in found)


def kinds(modules: Mapping[str, int], run: Run) -> Counter[str]:
    """Of the modules those that we have."""
    held = Counter(NUMBER.sub("{i}", name) for name in open_source(run).shapes())
    ours = ((our_name(f"{name}.weight".replace("{i}", "0"), run.names) or "", count) for name, count in modules.items())
    found = {NUMBER.sub("{i}", name): count for name, count in ours}
    return Counter({name: min(count, held[name]) for name, count in found.items() if name in held})


@pytest.mark.parametrize("name", sorted(set(BEFORE) - set(SURPLUS)))
def test_what_is_rounded_is_what_transformers_4_gives_to_bitsandbytes(name: str, tmp_path: Path) -> None:
    run = open_run(make(name, tmp_path / "base"))
    assert rounded_kinds(run, 4) == kinds(BEFORE[name], run)


@pytest.mark.filterwarnings("default")  # deprecations inside transformers
@pytest.mark.parametrize("name", NOW)
def test_what_is_rounded_is_what_transformers_gives_to_bitsandbytes(name: str, tmp_path: Path) -> None:
    base = make(name, tmp_path / "base")
    run = open_run(base)
    run = run if name == "qwen2vl" else with_tower(run)  # whose tower is another than Qwen2.5-VL's
    architecture = json.loads((base / "config.json").read_text())["architectures"][0]
    with quiet(), torch.device("meta"):
        model = getattr(transformers, architecture)(transformers.AutoConfig.from_pretrained(base))
    kept = [*get_keys_to_not_convert(model), *(model._keep_in_fp32_modules or ())]
    converted = [
        NUMBER.sub("{i}", module)
        for module, one in model.named_modules()
        if (isinstance(one, Conv1D) or type(one) is torch.nn.Linear) and should_convert_module(module, kept)
    ]
    assert rounded_kinds(run, 5) == kinds(Counter(converted), run)


@pytest.mark.parametrize(
    ("name", "entry", "kept"),
    [
        ("gpt2", "transformer.h.0.mlp", 2),
        ("gpt2-bare", "transformer.h.0.mlp", 2),
        ("gptneox", "gpt_neox.layers.1.mlp", 2),
        ("gptneox", "gpt_neox.layers.1.mlp.dense_4h_to_h", 1),
        ("internlm2", "model.layers.0.feed_forward", 3),
        ("phi3", "model.layers.0.mlp", 2),
    ],
)
def test_a_list_of_what_stays_may_name_modules_as_the_files_do(
    name: str, entry: str, kept: int, tmp_path: Path
) -> None:
    run = open_run(make(name, tmp_path / "base"))
    base = open_source(run).base
    assert isinstance(base, Checkpoint)
    for version in (4, 5):
        every, some = (
            quantized(base.shapes(), replace(run, four_bit=FourBit(skipped=one, transformers=version)), base.stored())[
                0
            ]
            for one in (("nothing",), (entry,))
        )
        assert len(every - some) == kept
        assert some < every
