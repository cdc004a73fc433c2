"""A plan can be printed: every decision, and layers that are treated alike in one line."""

import json
import re
from pathlib import Path

from tiny import make

from exporter.pipeline import Options, prepare
from exporter.plan import Plan
from exporter.plan.show import as_document, render
from exporter.profiles import load_profile
from exporter.run import Run


def prepared(run: Path, *levels: str) -> tuple[Run, Plan]:
    opened, _, plan = prepare(str(run), [load_profile(level) for level in levels], Options(verify=False))
    return opened, plan


def test_a_plan_prints_every_decision(tmp_path: Path) -> None:
    run, plan = prepared(make("gemma3-vision", tmp_path / "run"), "q4_k_m", "f16")
    document = json.loads(json.dumps(as_document(plan)))
    assert [row["tensor"] for row in document["tensors"]] == [job.tensor for job in plan.jobs]
    assert sorted(document["left_out"]) == ["vision projector", "vision tower"]
    assert [(file["quant"], file["bytes"]) for file in document["files"]] == [(o.level, o.bytes) for o in plan.outputs]
    text = render(run, plan)
    assert _expanded(text) == {job.tensor: job.types for job in plan.jobs}
    assert all(output.file in text for output in plan.outputs)
    assert "left out: vision tower" in text
    assert f"base: {run.base_name}" in text
    assert "tokenizer: llama as GGUF names it; chat template: tokenizer_config.json" in text
    assert " x Q5_0 instead of Q4_K: row of 64" in text


def test_layers_that_are_treated_alike_are_one_line(tmp_path: Path) -> None:
    run, plan = prepared(make("gemma3-vision", tmp_path / "run"), "q4_k_m")
    lines = render(run, plan).splitlines()
    assert len(lines) < len(plan.jobs) / 2
    assert [line.split() for line in lines if "attn_v" in line] == [
        ["blk.{0-1,3-4}.attn_v.weight", "Q5_0", "64", "x", "64,", "model.layers.{i}.self_attn.v_proj.weight"],
        ["blk.{2,5-6}.attn_v.weight", "Q8_0", "64", "x", "64,", "model.layers.{i}.self_attn.v_proj.weight"],
    ]


def _expanded(text: str) -> dict[str, tuple[str, ...]]:
    """Each tensor's types by the lines of a printed plan, ranges of layers written out."""
    found = {}
    for name, rest in re.findall(r"^(\S+\.(?:weight|bias)) +(.*)$", text, re.MULTILINE):
        types = tuple(rest.split()[:2])
        stem, _, after = name.partition("{")
        numbers, _, end = after.partition("}")
        for part in numbers.split(",") if numbers else [""]:
            first, _, last = part.partition("-")
            layers = range(int(first), int(last or first) + 1) if first else [""]
            found |= {f"{stem}{layer}{end}": types for layer in layers}
    return found
