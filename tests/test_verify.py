"""Measurements against llama-perplexity's, against float64, against transformers; and what is refused."""

import json
import re
import shutil
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader
from tiny import make

from exporter.errors import EngineError
from exporter.llamacpp import Engine, Shape
from exporter.pipeline import Options as Asked
from exporter.pipeline import verify_files
from exporter.verify import Options, Scores, level_fields, measure, reference_fields
from exporter.verify.evaluate import piece
from exporter.verify.metrics import Logits, compare, largest
from exporter.verify.text import read_text
from exporter.verify.vocabulary import require_one_of
from exporter.verify.windows import Windows, make_windows

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"
REFERENCE = ROOT / "tests" / "reference" / "perplexity"
BF16, Q4_0, TEXT = REFERENCE / "stories260K-BF16.gguf", REFERENCE / "stories260K-Q4_0.gguf", REFERENCE / "text.txt"
GOLDEN = json.loads((REFERENCE / "golden.json").read_text(encoding="utf-8"))

# llama-perplexity's names: ours of the value, of the error, and what it multiplies by before it prints.
NAMES = {
    "Mean PPL(Q)": ("ppl_q", "ppl_q_error", 1),
    "Mean PPL(base)": ("ppl_base", "ppl_base_error", 1),
    "Cor(ln(PPL(Q)), ln(PPL(base)))": ("correlation", None, 100),
    "Mean ln(PPL(Q)/PPL(base))": ("ln_ppl_ratio", "ln_ppl_ratio_error", 1),
    "Mean PPL(Q)/PPL(base)": ("ppl_ratio", "ppl_ratio_error", 1),
    "Mean PPL(Q)-PPL(base)": ("ppl_difference", "ppl_difference_error", 1),
    "Mean    KLD": ("kld_mean", "kld_error", 1),
    "Maximum KLD": ("kld_max", None, 1),
    "Median  KLD": ("kld_median", None, 1),
    "Minimum KLD": ("kld_min", None, 1),
    "Mean    Δp": ("dp_mean", "dp_error", 100),
    "Maximum Δp": ("dp_max", None, 100),
    "Median  Δp": ("dp_median", None, 100),
    "Minimum Δp": ("dp_min", None, 100),
    "RMS Δp": ("rms_dp", "rms_dp_error", 100),
    "Same top p": ("same_top", "same_top_error", 100),
}
QUANTILES = {
    "99.9%": "p999",
    "99.0%": "p99",
    "95.0%": "p95",
    "90.0%": "p90",
    "75.0%": "p75",
    "25.0%": "p25",
    "10.0%": "p10",
    "5.0%": "p05",
    "1.0%": "p01",
    "0.1%": "p001",
}


def _named(name: str) -> tuple[str, str | None, int]:
    if name in NAMES:
        return NAMES[name]
    share, kind = name.split()
    return (f"kld_{QUANTILES[share]}", None, 1) if kind == "KLD" else (f"dp_{QUANTILES[share]}", None, 100)


def _same(ours: float, printed: str) -> bool:
    """Whether a value is what was printed, to its last digit (which another build's kernels may move by one)."""
    return abs(ours - float(printed)) <= 1.5 * 10.0 ** -len(printed.partition(".")[2])


def test_compat_mode_gives_llama_perplexitys_figures() -> None:
    measurement = measure(BF16, [Q4_0], Options(text=TEXT, chunks=None, mode="llama.cpp"))
    base = reference_fields(measurement)["llama_cpp"]
    level = level_fields(measurement, measurement.levels[0])["llama_cpp"]
    assert isinstance(base, dict)
    assert isinstance(level, dict)
    for found, name in ((base, "base"), (level, "level")):
        assert _same(found["ppl"], GOLDEN["final_estimate"][name][0])
        assert _same(found["ppl_error"], GOLDEN["final_estimate"][name][1])
    assert len(GOLDEN["kl_divergence"]) == 34
    for name, (value, error) in GOLDEN["kl_divergence"].items():
        key, error_key, factor = _named(name)
        assert _same(factor * level[key], value), name
        assert error_key is None or _same(factor * level[error_key], error), name


def _direct(reference: Logits, level: Logits, targets: np.ndarray[tuple[int], np.dtype[np.intp]]) -> Scores:
    """The definitions, in float64, a token at a time."""
    rows: list[tuple[float, ...]] = []
    for x, y, token in zip(reference.astype(np.float64), level.astype(np.float64), targets, strict=True):
        p, q = np.exp(x) / np.exp(x).sum(), np.exp(y) / np.exp(y).sum()
        top5 = len(set(np.argsort(p)[-5:]) & set(np.argsort(q)[-5:])) / min(5, len(p))
        kld = float((p * np.log(p / q)).sum())
        top1 = float(p.argmax() == q.argmax())
        rows.append((-np.log(p[token]), -np.log(q[token]), kld, top1, top5, q[token] - p[token]))
    return Scores(*np.asarray(rows).T)


@pytest.mark.parametrize("width", [3, 300, 2600, 20_011])
def test_scores_are_their_definitions(width: int) -> None:
    random = np.random.default_rng(width)
    reference = (random.standard_normal((40, width)) * 3).astype(np.float32)
    level = (reference + random.standard_normal((40, width)) * 0.3).astype(np.float32)
    targets = random.integers(0, width, 40)
    expected = _direct(reference, level, targets)
    nll, (found,) = compare(reference, [level.copy()], targets)
    np.testing.assert_array_equal(nll, found.nll_reference)
    for field in fields(Scores):
        ours, truth = getattr(found, field.name), getattr(expected, field.name)
        np.testing.assert_allclose(ours, truth, rtol=1e-5, atol=1e-6, err_msg=field.name)


def test_largest_are_found_wherever_they_are() -> None:
    logits = np.random.default_rng(0).standard_normal((64, 5000)).astype(np.float32)
    logits[0, :5], logits[1, -5:], logits[2, 700:705] = 9.0, 9.0, 9.0
    truth = np.argsort(logits, axis=1)[:, -5:]
    np.testing.assert_array_equal(np.sort(largest(logits)), np.sort(truth))


def test_a_copy_of_the_reference_has_no_divergence(tmp_path: Path) -> None:
    copy = tmp_path / "copy.gguf"
    shutil.copy(BF16, copy)
    told: list[tuple[int, int]] = []
    options = Options(text=TEXT, chunks=2)
    measurement = measure(BF16, [copy, BF16], options, lambda done, total: told.append((done, total)))
    assert told == [(i + 1, 6) for i in range(6)]
    for level in measurement.levels:
        assert level.scores is not None
        assert level.scores.kld.max() == 0.0
        assert level.scores.dp.max() == level.scores.dp.min() == 0.0
        assert level.scores.top5.min() == level.scores.top1.min() == 1.0
        np.testing.assert_array_equal(level.scores.nll, measurement.nll)


def test_perplexity_is_transformers() -> None:
    folder = SHARED / "models" / "stories260K"
    if not folder.exists():
        pytest.skip("the model's checkpoint is absent")
    import torch  # noqa: PLC0415  # slow to import
    from transformers import AutoModelForCausalLM  # noqa: PLC0415

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).to(torch.float32)
    with Engine(BF16) as engine:
        windows = make_windows(engine, TEXT.read_bytes(), most=2)
    ids = torch.from_numpy(windows.ids).long()
    with torch.no_grad():
        chances = model(ids).logits[:, :-1].double().log_softmax(-1)
    truth = -chances.gather(-1, ids[:, 1:, None])[..., 0].numpy()
    ours = measure(BF16, [], Options(text=TEXT, chunks=2)).nll
    # llama.cpp rounds activations to bf16 before it multiplies them by bf16 weights.
    np.testing.assert_allclose(ours.mean(), truth.mean(), rtol=2e-3)
    assert np.abs(ours - truth).mean() < 0.02


def test_default_windows_keep_every_token() -> None:
    text = TEXT.read_bytes()
    with Engine(BF16) as engine:
        ids = engine.tokenize(text, add_special=False, parse_special=False)
        every, some = make_windows(engine, text), make_windows(engine, text, most=4)
        theirs = make_windows(engine, text, mode="llama.cpp")
    assert (every.ids[:, 0] == 1).all()
    np.testing.assert_array_equal(every.ids[:, 1:].ravel(), ids[: len(every.ids) * 511])
    assert len(ids) - len(every.ids) * 511 < 511
    np.testing.assert_array_equal(every.targets(2), every.ids[2, 1:])
    assert every.scored == 511
    chosen = [int(np.flatnonzero((every.ids == row).all(axis=1))[0]) for row in some.ids]
    assert chosen == [0, 3, 6, 9]
    assert theirs.scored == 255
    np.testing.assert_array_equal(theirs.ids[1, 1:], np.concatenate([[1], ids])[513:1024])


def test_too_little_text_says_what_to_do(tmp_path: Path) -> None:
    short = tmp_path / "short.txt"
    short.write_text("Once upon a time", encoding="utf-8")
    with pytest.raises(EngineError, match="has 4 tokens; windows of 512 need at least 511"):
        measure(BF16, [], Options(text=short))
    with pytest.raises(EngineError, match="has 5 tokens; windows of 512 need at least 1024"):
        measure(BF16, [], Options(text=short, mode="llama.cpp"))
    short.write_bytes(b"abc\xff")
    with pytest.raises(EngineError, match="not UTF-8: byte 3 is 0xff"):
        read_text(short)
    with pytest.raises(EngineError, match="cannot be read"):
        read_text(tmp_path / "none.txt")


def _patched(path: Path, place: str, value: bytes) -> Path:
    """A copy of the reference with the first bytes of a tensor, or of a metadata value, replaced."""
    data = bytearray(BF16.read_bytes())
    reader = GGUFReader(BF16)
    tensor = next((tensor for tensor in reader.tensors if tensor.name == place), None)
    field = reader.fields.get(place)
    if tensor is not None:
        offset = int(tensor.data_offset)
    else:
        assert field is not None
        offset = int(field.offset) + sum(part.nbytes for part in field.parts[:-1])
    data[offset : offset + len(value)] = value
    path.write_bytes(data)
    return path


def test_a_level_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(BF16.read_bytes()[:300_000])
    other = _patched(tmp_path / "other.gguf", "tokenizer.ggml.eos_token_id", (3).to_bytes(4, "little"))
    nan = _patched(tmp_path / "nan.gguf", "output_norm.weight", np.float32("nan").tobytes())
    files = [cut, other, nan, tmp_path / "none.gguf", Q4_0]
    measurement = measure(BF16, files, Options(text=TEXT, chunks=1))
    errors = [level.error for level in measurement.levels]
    expected = ("not within the file bounds", "eos is 3, in", "chunk 1: llama.cpp computed logits", "No such file")
    for error, words in zip(errors, expected, strict=False):
        assert error is not None
        assert words in error
    assert level_fields(measurement, measurement.levels[0]) == {"error": errors[0]}
    assert errors[4] is None
    assert measurement.levels[4].scores is not None
    with pytest.raises(EngineError, match=r"nan\.gguf: chunk 1"):
        measure(nan, [], Options(text=TEXT, chunks=1))


def test_the_reference_is_not_evaluated_for_files_of_another_vocabulary(tmp_path: Path) -> None:
    other = _patched(tmp_path / "other.gguf", "tokenizer.ggml.eos_token_id", (3).to_bytes(4, "little"))
    told: list[tuple[int, int]] = []
    measurement = measure(BF16, [other], Options(text=TEXT, chunks=1), lambda *step: told.append(step))
    assert (told, measurement.nll, reference_fields(measurement)) == ([], None, {})
    assert f"its vocabulary is not the reference's: eos is 3, in {BF16} 2. " in str(measurement.levels[0].error)
    called = measure(BF16, [other], Options(text=TEXT, chunks=1, called="./run")).levels[0].error
    assert "eos is 3, in ./run 2. " in str(called)


def test_a_run_of_another_vocabulary_is_not_converted(tmp_path: Path) -> None:
    run = make("mistral", tmp_path / "run")
    words = f"{run}: this run has another vocabulary, of 411 tokens; {BF16} has 512 tokens. "
    with pytest.raises(EngineError, match=re.escape(words)):
        verify_files(str(run), [BF16], Asked(scratch=tmp_path), lambda *step: pytest.fail(str(step)))
    with pytest.raises(EngineError, match=r"512 of them others, .*Q4_0.gguf has 512 .* the files came from"):
        require_one_of("run", [f"x{token}" for token in range(512)], [BF16, Q4_0])
    require_one_of("run", [], [BF16, TEXT])  # llama.cpp says what is wrong with the second


def test_pieces_hold_at_most_64_mb_of_logits() -> None:
    windows = Windows(np.zeros((1, 512), np.int32), 0)
    assert piece(windows, 512, "default", 1) == Shape(512, 512, 512, 1)
    assert piece(windows, 262_144, "default", 1) == Shape(512, 64, 64, 1)
    assert piece(Windows(windows.ids, 256), 262_144, "llama.cpp", 2) == Shape(512, 512, 256, 2)


def test_a_window_in_pieces_is_scored_as_a_whole_one(monkeypatch: pytest.MonkeyPatch) -> None:
    options = Options(text=TEXT, chunks=2)
    whole = measure(BF16, [Q4_0], options)
    monkeypatch.setattr("exporter.verify.evaluate._PIECE", 100 * 512 * 4)
    monkeypatch.setattr("exporter.verify.evaluate._BLOCK", 30 * 512 * 4)
    parts = measure(BF16, [Q4_0], options)
    np.testing.assert_allclose(parts.nll, whole.nll, atol=0.05)
    one, other = whole.levels[0].scores, parts.levels[0].scores
    assert one is not None
    assert other is not None
    np.testing.assert_allclose(other.kld.mean(), one.kld.mean(), rtol=0.01)


def test_the_default_text_is_what_training_left_out() -> None:
    text = read_text()
    assert text.name == "ggufx default"
    assert 100_000 < len(text.data) < 200_000
    books = [SHARED / "text" / name for name in ("war-and-peace.txt", "tinyshakespeare.txt")]
    if not all(book.exists() for book in books):
        pytest.skip("the books are absent")
    seen = b"".join(book.read_bytes()[: -(book.stat().st_size // 10)] for book in books)
    lines = [line for line in text.data.split(b"\n") if len(line) > 60]
    assert len(lines) > 800
    assert not any(line in seen for line in lines)
