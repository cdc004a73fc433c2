"""What is measured, in the fields of report.json: values, errors over chunks, and warnings."""

import json
import re
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from exporter.report.compose import finished, new_document
from exporter.verify import Options, Scores, level_fields, measure, measured_on_fields, reference_fields
from exporter.verify.summary import standard_error
from exporter.verify.text import read_text

REFERENCE = Path(__file__).resolve().parent / "reference" / "perplexity"
BF16, Q4_0, TEXT = REFERENCE / "stories260K-BF16.gguf", REFERENCE / "stories260K-Q4_0.gguf", REFERENCE / "text.txt"


FEW = (
    ({"chunks": 1, "asked": 1}, "1 window of 512 tokens: no error can be given. Give --chunks 10 or more"),
    ({"chunks": 3, "asked": 40}, "3 windows .* uncertain by about 50 %. The text has no more: give a longer one"),
    ({"chunks": 3, "asked": 3}, "uncertain by about 50 %. Give --chunks 10 or more"),
    ({"chunks": 3, "asked": None}, "The text has no more"),
    ({"chunks": 10, "asked": 10}, None),
)


@pytest.mark.parametrize(("on", "words"), FEW)
def test_few_windows_are_a_warning_as_long_as_their_figures_stand(on: dict[str, int | None], words: str | None) -> None:
    level = {"quant": "q8_0", "files": [], "file": "a.gguf", "bytes": 1, "verdict": "pass", "kld": {"mean": 0.1}}
    fields = new_document(["ggufx"]) | {"measured_on": on | {"text": "a", "context": 512}, "warnings": ["another"]}
    warnings = finished(fields | {"levels": [level]}).get("warnings") or []
    assert len(warnings) == 1 + (words is not None)
    assert words is None or re.search(words, warnings[1])
    unmeasured = level | {"kld": None, "verdict": "not measured"}
    assert finished(fields | {"levels": [unmeasured]}).get("warnings") == ["another"]


def test_the_ratio_is_that_of_the_perplexities_shown_also_as_llama_cpp_measures() -> None:
    measurement = measure(BF16, [Q4_0], Options(text=TEXT, chunks=2, mode="llama.cpp"))
    level = json.loads(json.dumps(level_fields(measurement, measurement.levels[0])))
    reference = json.loads(json.dumps(reference_fields(measurement)))["perplexity"]["value"]
    assert level["perplexity"]["ratio"] == pytest.approx(level["perplexity"]["value"] / reference, rel=1e-12)
    encoded = level["llama_cpp"]["ppl_q"] / level["llama_cpp"]["ppl_base"]
    assert level["llama_cpp"]["ppl_ratio"] == pytest.approx(encoded)


def test_fields_and_their_errors() -> None:
    measurement = measure(BF16, [Q4_0], Options(text=TEXT, chunks=5))
    scores = measurement.levels[0].scores
    assert scores is not None
    assert scores.kld.shape == (5, 511)
    assert not any(np.isnan(getattr(scores, field.name)).any() for field in fields(Scores))
    found = json.loads(json.dumps(level_fields(measurement, measurement.levels[0])))
    means = scores.kld.mean(axis=1)
    assert found["kld"]["error"] == pytest.approx(np.sqrt(((means - means.mean()) ** 2).sum() / 4 / 5))
    assert found["kld"]["mean"] == pytest.approx(means.mean())
    assert found["kld"]["p999"] <= found["kld"]["max"]
    reference = json.loads(json.dumps(reference_fields(measurement)))["perplexity"]
    assert found["perplexity"]["ratio"] == pytest.approx(found["perplexity"]["value"] / reference["value"])
    # Paired over chunks, the ratio is known far better than either perplexity.
    assert found["perplexity"]["ratio_error"] < 0.2 * reference["error"] / reference["value"]
    assert measured_on_fields(measurement) == {
        "text": str(TEXT),
        "sha256": read_text(TEXT).sha256,
        "chunks": 5,
        "asked": 5,
        "context": 512,
        "tokens": 2560,
        "scored": 511,
        "mode": "default",
        "engine": "llama.cpp of llama-cpp-python 0.3.36",
    }
    assert standard_error(scores.kld[:1]) is None
