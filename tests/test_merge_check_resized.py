"""`ggufx merge --check` of runs whose vocabulary was resized before training: all of it is compared, and told so."""

from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import Weights, by_our_names, finished, load, one_thread, source_of, train
from safetensors.torch import load_file, save_file
from tiny import make

from converters.spec import EMBEDDING, HEAD
from exporter.merge_check import check_merge, require_passed
from exporter.report.changed import changed_weights
from exporter.run import open_run
from exporter.source import open_source

__all__ = ["one_thread"]
NAMES = ("llama", "llama-tied", "qwen2", "gemma3")
WAYS: dict[str, dict[str, Any]] = {
    "nothing else": {},
    "tokens": {"trainable_token_indices": [3, 5]},
    "tokens of the head": {"trainable_token_indices": {"lm_head": [3, 5]}},
    "a saved head": {"modules_to_save": ["lm_head"]},
    "both trained": {"target_modules": ["q_proj", "lm_head", "embed_tokens"]},
    "both by dora": {"target_modules": ["q_proj", "lm_head", "embed_tokens"], "use_dora": True},
}


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return {name: make(name, folder / name) for name in NAMES}


def check(adapter: Path, base: Path) -> dict[str, Any]:
    run = open_run(adapter, base=str(base))
    return check_merge(run, open_source(run), lambda *_: None)


def by_weight(document: dict[str, Any], part: str) -> dict[str, dict[str, Any]]:
    return {one["weight"]: one for one in document[part]}


def norms(before: torch.Tensor, after: torch.Tensor) -> tuple[float, float]:
    """Frobenius norms of a change and of what was before, in float64; a row that is not there is zero."""
    rows = max(len(before), len(after))
    filled = [torch.zeros(rows, one.shape[1], dtype=torch.float64) for one in (before, after)]
    for matrix, one in zip(filled, (before, after), strict=True):
        matrix[: len(one)] = one
    return float((filled[1] - filled[0]).norm()), float(filled[0].norm())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rows", [300, 530])
def test_a_resized_vocabulary_is_compared(
    rows: int, name: str, way: str, *, bases: dict[str, Path], tmp_path: Path
) -> None:
    base = bases[name]
    train(load(base, rows=rows), tmp_path, **({"target_modules": ["q_proj"]} | WAYS[way]))
    found = check(tmp_path, base)
    require_passed(found)
    assert {one["status"] for one in found["compared"]} == {"pass"}
    assert found["remarks"] == []
    after: Weights = finished(source_of(tmp_path, base))
    before = by_our_names(load(base).state_dict())
    measured, compared = by_weight(found, "weights"), by_weight(found, "compared")
    for weight in {EMBEDDING, HEAD} & after.keys():
        assert weight in compared
        assert measured[weight]["how"].startswith("resized")
        delta, norm = norms(before[weight], after[weight])
        assert (measured[weight]["delta"], measured[weight]["norm"]) == pytest.approx((delta, norm), rel=1e-5)


def test_rows_that_were_taken_away_are_a_change_though_they_were_zero(tmp_path: Path) -> None:
    base = make("llama", tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    for name in (EMBEDDING, HEAD):
        tensors[name][300:] = 0
    save_file(tensors, base / "model.safetensors", {"format": "pt"})
    train(load(base, rows=300), tmp_path / "run", target_modules=["q_proj"])
    found = check(tmp_path / "run", base)
    assert found["remarks"] == []
    assert by_weight(found, "weights")[EMBEDDING]["how"].startswith("resized")


@pytest.mark.parametrize("rows", [300, 530])
def test_a_wrong_resized_matrix_is_seen(
    rows: int, bases: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(load(bases["llama"], rows=rows), tmp_path, target_modules=["q_proj"], trainable_token_indices=[3, 5])
    source = source_of(tmp_path, bases["llama"])
    before = changed_weights(source)
    finished(source)
    assert before == changed_weights(source)  # by the headers, and by the rows
    from exporter.merge import layer  # noqa: PLC0415

    right = layer._with_tokens
    monkeypatch.setattr(layer, "_with_tokens", lambda *given: right(*given) * 1.001)
    found = by_weight(check(tmp_path, bases["llama"]), "compared")
    assert found[EMBEDDING]["status"] == "fail"
