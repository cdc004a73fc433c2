"""llama.cpp runs in a process of its own: what it says of a file, and what becomes of its failures."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from exporter.errors import EngineError
from exporter.llamacpp import Engine, Shape, generate, load

ROOT = Path(__file__).resolve().parents[1]
BF16 = ROOT / "tests" / "reference" / "perplexity" / "stories260K-BF16.gguf"
STORIES = ROOT.parent / "shared" / "data" / "models" / "stories260K"

HOLDER = """
import sys
from pathlib import Path
import numpy as np
from exporter.llamacpp import Engine, Shape
with Engine(Path(sys.argv[1])) as engine:
    engine.start(Shape(512, 512, 512, 1))
    print(engine._child.pid, flush=True)
    while True:
        engine.decode(np.arange(512, dtype=np.int32) % 300 + 100, 0)
"""


def test_load_says_what_the_file_is() -> None:
    loaded = load(BF16, ["Once upon a time"])
    facts = loaded.facts
    assert (facts.n_vocab, facts.n_ctx_train, facts.n_params) == (512, 512, 260032)
    assert (facts.bos, facts.eos, facts.eot, facts.eog) == (1, 2, None, (2,))
    assert facts.add_bos
    assert not facts.add_eos
    assert facts.chat_template is None
    assert "llama" in facts.description
    assert loaded.finite


def test_ids_of_any_text_are_the_tokenizers() -> None:
    texts = ["Once upon a time", "", " ", "a\0b", "é 漢 🙂 שלום", "\n\n\t x", "<s>", "e\u0301", "x" * 5000]
    ids = load(BF16, texts).ids
    assert all(some.special == (1, *some.plain) for some in ids)
    assert ids[6].parsed == (1,)
    if not STORIES.exists():
        pytest.skip("the model's own tokenizer.json is absent")
    truth = Tokenizer.from_file(str(STORIES / "tokenizer.json"))
    # tokenizers knows special tokens in any text: "<s>" was compared above.
    for text, some in zip(texts, ids, strict=True):
        assert text == "<s>" or some.plain == tuple(truth.encode(text, add_special_tokens=False).ids)


def test_greedy_text_is_the_models() -> None:
    assert generate(BF16, "Once upon a time", 20).startswith(", there was a little girl named Lily.")


def test_pieces_of_a_window_give_the_logits_of_the_whole() -> None:
    ids = np.arange(100, dtype=np.int32) * 7 % 400 + 100
    whole, parts = np.empty((100, 512), np.float32), np.empty((100, 512), np.float32)
    with Engine(BF16) as engine:
        engine.start(Shape(128, 128, 128, 1))
        assert engine.decode(ids, 0) == 100
        engine.rows(0, whole)
        for start in range(0, 100, 32):
            count = engine.decode(ids[start : start + 32], start)
            engine.rows(0, parts[start : start + count])
        assert engine.decode(ids, 0, 90) == 10
        last = np.empty((4, 512), np.float32)
        engine.rows(6, last)
    # Other batches take other kernels, which round activations to bf16 at other places.
    assert np.abs(parts - whole).mean() < 0.02
    assert np.abs(parts - whole).max() < 0.3
    np.testing.assert_array_equal(last, whole[96:])


def test_a_cut_file_is_an_error_with_llamacpps_words(tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(BF16.read_bytes()[:300_000])
    with pytest.raises(EngineError, match=r"cut\.gguf.*load this file(.|\n)*not within the file bounds"):
        load(cut, [])
    with pytest.raises(EngineError, match="No such file"):
        load(tmp_path / "none.gguf", [])


def test_a_failed_assertion_ends_the_child_alone() -> None:
    with Engine(BF16) as engine:
        engine.start(Shape(64, 64, 1, 1))
        with pytest.raises(EngineError, match=r"signal 6(.|\n)*GGML_ASSERT"):
            engine.decode(np.full(8, 100, np.int32), 0)
        assert engine._child.returncode == -signal.SIGABRT
        with pytest.raises(EngineError, match="run this file"):
            engine.decode(np.full(8, 100, np.int32), 0)


def test_what_a_child_refuses_it_survives() -> None:
    with Engine(BF16) as engine:
        with pytest.raises(EngineError, match="do not fit in a batch of 0"):
            engine.decode(np.full(8, 100, np.int32), 0)
        engine.start(Shape(64, 64, 64, 1))
        with pytest.raises(EngineError, match=r"llama_decode gave -1(.|\n)*invalid token"):
            engine.decode(np.full(8, 99_999, np.int32), 0)
        assert engine.decode(np.full(8, 100, np.int32), 0) == 8
        with pytest.raises(EngineError, match="rows 0 to 9"):
            engine.rows(0, np.empty((9, 512), np.float32))
    with pytest.raises(EngineError, match="after it was closed"):
        engine.tokenize(b"", add_special=False, parse_special=False)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_the_child_goes_with_its_parent(end: signal.Signals) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(BF16)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT, text=True
    )
    with parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        os.kill(parent.pid, end)
        parent.communicate(timeout=10)
    waited = time.monotonic() + 5
    while _runs(child) and time.monotonic() < waited:
        time.sleep(0.05)
    assert not _runs(child)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not (status.exists() and status.read_text().rsplit(")", 1)[1].split()[0] == "Z")
