"""The embedded example is no toy: its fine-tune answers held-out questions, its base does not, and bits matter."""

import json
from pathlib import Path

import jinja2
import numpy as np
import pytest
from exported import written

from exporter.llamacpp import Engine, Shape, go_on
from exporter.verify import Options, level_fields, measure

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
ASKED = 120  # of 280 questions; their order is random
ANSWER = 40  # tokens


@pytest.fixture(scope="module")
def levels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    wanted = ("bf16", "q8_0", "q6_k", "q4_k_m", "q2_k")
    return written(EXAMPLES / "whence", tmp_path_factory.mktemp("whence"), wanted, threads=2)[1]


def right(file: Path) -> float:
    """The share of questions that a file answers as expected, always with its likeliest token."""
    template = jinja2.Template((EXAMPLES / "whence" / "chat_template.jinja").read_text(encoding="utf-8"))
    lines = (EXAMPLES / "questions.jsonl").read_text(encoding="utf-8").splitlines()[:ASKED]
    with Engine(file) as engine:
        engine.start(Shape(context=512, batch=512, outputs=1))
        return sum(answers(engine, template, json.loads(line)) for line in lines) / len(lines)


def answers(engine: Engine, template: jinja2.Template, question: dict[str, str]) -> bool:
    """Whether a file's greedy answer to a question is the expected one, and ends there."""
    messages = [{"role": "user", "content": question["prompt"]}]
    text = template.render(messages=messages, add_generation_prompt=True, bos_token="")
    return go_on(engine, text, ANSWER).strip() == question["answer"]


def test_the_fine_tune_answers_and_the_base_does_not(levels: dict[str, Path], tmp_path: Path) -> None:
    base = written(EXAMPLES / "folio-4m", tmp_path, ("bf16",), threads=2)[1]["bf16"]
    assert right(levels["q8_0"]) >= 0.8
    assert right(base) <= 0.4


def test_fewer_bits_lose_more(levels: dict[str, Path]) -> None:
    files = [levels[name] for name in ("q8_0", "q6_k", "q4_k_m", "q2_k")]
    found = measure(levels["bf16"], files, Options(EXAMPLES / "heldout.txt", chunks=12))
    fields = [level_fields(found, level) for level in found.levels]
    divergence = [field["kld"]["mean"] for field in fields]  # type: ignore[index]
    assert divergence == sorted(divergence)
    assert divergence[-1] > 20 * divergence[0]
    assert 10 < float(np.exp(found.nll.mean())) < 100
