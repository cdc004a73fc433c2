"""Adapters that PEFT merges, in whole exports: over a tied head, and with several threads."""

from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import adapted, by_our_names, finished, largest_excess, load, merged, one_thread, quiet, source_of, train
from exported import planned, written
from peft_cases import CASES, IDS, Case, case
from peft_cases import train as train_other
from tiny import make

from converters.spec import EMBEDDING
from exporter.errors import PlanError
from exporter.report.changed import changed_weights

__all__ = ["one_thread"]
ON_HEAD = {
    "loha": case("LOHA", "qwen2", target_modules=["lm_head"]),
    "loha and more": case("LOHA", "qwen2", target_modules=["lm_head", "q_proj"]),
    "oft": case("OFT", "qwen2", target_modules=["lm_head"], oft_block_size=4),
    "ia3": case("IA3", "qwen2", target_modules=["lm_head"], feedforward_modules=[]),
    "vera": case("VERA", "qwen2", target_modules=["lm_head", "q_proj"], r=8),
    "both": case("HIRA", "qwen2", target_modules=["embed_tokens", "lm_head"]),
}


@pytest.mark.parametrize("name", ON_HEAD)
def test_a_method_on_a_tied_head_unties_it_as_the_live_adapter_does(name: str, tmp_path: Path) -> None:
    base = make("qwen2", tmp_path / "base")
    run = train_other(ON_HEAD[name], base, tmp_path / "run")
    source = source_of(run, base)
    found = finished(source, rows=load(base).config.vocab_size)
    assert not source.tied
    before = by_our_names(load(base, untied=True).state_dict())
    assert largest_excess(found, merged(load(base, untied=True), run), before) <= 1
    assert found[EMBEDDING].equal(before[EMBEDDING]) == (name != "both")
    model = load(base, untied=True)
    model.load_state_dict(found)
    with torch.no_grad(), quiet():
        live = adapted(load(base), run)(IDS).logits
        assert torch.allclose(model(IDS).logits, live, atol=1e-4 * float(live.std()), rtol=0)


def test_a_graph_without_a_head_says_that_it_cannot_hold_one(tmp_path: Path) -> None:
    base = make("gemma", tmp_path / "base")
    run = train_other(case("LOHA", "gemma", target_modules=["lm_head"]), base, tmp_path / "run")
    with pytest.raises(PlanError, match=r"its head differs from its embedding, and llama\.cpp's graph of gemma has"):
        planned(run, "f16", base=str(base))


THREADED: dict[str, Case | dict[str, Any]] = {
    "loha": CASES["loha"],
    "oft": CASES["oft"],
    "vera-redrawn": CASES["vera-redrawn"],
    "fourierft": CASES["fourierft"],
    "ia3-bias": CASES["ia3-bias"],
    "dora": {"target_modules": ["q_proj", "v_proj", "down_proj"], "use_dora": True},
    "dora of the embedding": {"target_modules": ["embed_tokens", "lm_head"], "use_dora": True},
}


@pytest.mark.parametrize("name", THREADED)
def test_four_threads_write_the_bytes_of_one(name: str, tmp_path: Path) -> None:
    one = THREADED[name]
    base = make(one.base if isinstance(one, Case) else "llama", tmp_path / "base")
    run = (
        train_other(one, base, tmp_path / "run")
        if isinstance(one, Case)
        else train(load(base), tmp_path / "run", **one)
    )
    levels = ("f32", "q8_0", "q4_k_m")
    _, alone = written(run, tmp_path / "one", levels, threads=1)
    _, together = written(run, tmp_path / "four", levels, threads=4)
    for level in levels:
        assert alone[level].read_bytes() == together[level].read_bytes(), level
    _, plain = written(base, tmp_path / "base-gguf", ("f32",))
    assert plain["f32"].read_bytes() != alone["f32"].read_bytes()


@pytest.mark.parametrize("name", ["beft", "ia3-bias", "glora-no-bias", "hira-embedding"])
def test_weights_are_counted_before_reading_as_after(name: str, tmp_path: Path) -> None:
    base = make(CASES[name].base, tmp_path / "base")
    source = source_of(train_other(CASES[name], base, tmp_path / "run"), base)
    before = changed_weights(source)
    finished(source)
    assert before == changed_weights(source) == [one for one, delta in source.deltas().items() if delta.change > 0]
    assert name != "beft" or all(one.endswith(".bias") for one in before)
