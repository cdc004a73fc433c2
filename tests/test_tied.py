"""Embedding and head trained apart or alike: the finished model answers as the live adapter does."""

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import (
    Weights,
    adapted,
    by_our_names,
    finished,
    largest_excess,
    load,
    merged,
    one_thread,
    source_of,
    store,
    train,
)
from checkpoints import write
from exported import planned
from tiny import make

from converters.spec import EMBEDDING, HEAD
from exporter.errors import GgufxError, MergeError, PlanError, SourceError

__all__ = ["one_thread"]
NAMES = ("qwen2", "llama", "gemma", "gemma3")
IDS = torch.tensor([[1, 17, 200, 33, 5, 290, 8, 64]])
ONE_OR_BOTH = [pair for pair in product(("none", "lora", "full"), repeat=2) if pair != ("none", "none")]
ALIKE = [pair for pair in ONE_OR_BOTH if pair != ("full", "lora")]  # PEFT itself stops on that one


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return {name: make(name, folder / name) for name in NAMES}


def _train(base: Path, folder: Path, ways: tuple[str, str], *, ensured: bool = False, rows: int | None = None) -> Path:
    """An adapter with a way (none, LoRA, full) of training the embedding, and one for the head."""
    modules = dict(zip(("embed_tokens", "lm_head"), ways, strict=True))
    targets = ["q_proj", *(name for name, way in modules.items() if way == "lora")]
    saved = [name for name, way in modules.items() if way == "full"]
    return train(
        load(base, rows=rows),
        folder,
        target_modules=targets,
        modules_to_save=saved or None,
        ensure_weight_tying=ensured,
    )


@torch.no_grad()
def _logits_of(base: Path, weights: Weights) -> torch.Tensor:
    """The logits of a model with these weights and a head of its own."""
    model = load(base, untied=True, rows=weights[EMBEDDING].shape[0])
    model.load_state_dict({HEAD: weights[EMBEDDING]} | weights)
    logits: torch.Tensor = model(IDS).logits
    return logits


@torch.no_grad()
def _answers_as_live(base: Path, adapter: Path, found: Weights) -> bool:
    rows = found[EMBEDDING].shape[0]
    live, before = adapted(load(base, rows=rows), adapter)(IDS).logits, load(base)(IDS).logits
    # What training did is a thousand times what is let pass.
    assert float((live[..., : before.shape[-1]] - before).abs().max()) > 0.1
    return float((_logits_of(base, found) - live).abs().max()) < 1e-4


@pytest.mark.parametrize("ways", ONE_OR_BOTH)
@pytest.mark.parametrize("name", ["qwen2", "llama"])  # a tied base, and one that is not
def test_embedding_and_head_trained_apart(
    name: str, ways: tuple[str, str], bases: dict[str, Path], tmp_path: Path
) -> None:
    _train(bases[name], tmp_path, ways)
    source = source_of(tmp_path, bases[name])
    found = finished(source)
    assert not source.tied
    expected = merged(load(bases[name], untied=True), tmp_path)
    assert largest_excess(found, expected, by_our_names(load(bases[name]).state_dict())) <= 1
    assert _answers_as_live(bases[name], tmp_path, found)


@pytest.mark.parametrize("ways", ALIKE)
@pytest.mark.parametrize("name", ["qwen2", "gemma"])
def test_ensured_tying_keeps_both_one(name: str, ways: tuple[str, str], bases: dict[str, Path], tmp_path: Path) -> None:
    _train(bases[name], tmp_path, ways, ensured=True)
    source = source_of(tmp_path, bases[name])
    found = finished(source)
    assert source.tied
    assert HEAD not in found
    assert not found[EMBEDDING].equal(by_our_names(load(bases[name]).state_dict())[EMBEDDING])
    assert _answers_as_live(bases[name], tmp_path, found)


@pytest.mark.parametrize("ways", ONE_OR_BOTH)
def test_ensured_tying_means_nothing_on_an_untied_base(
    ways: tuple[str, str], bases: dict[str, Path], tmp_path: Path
) -> None:
    _train(bases["llama"], tmp_path, ways, ensured=True)
    source = source_of(tmp_path, bases["llama"])
    assert not source.tied
    assert _answers_as_live(bases["llama"], tmp_path, finished(source))


def test_another_scale_for_the_head_unties(bases: dict[str, Path], tmp_path: Path) -> None:
    targets = ["embed_tokens", "lm_head"]
    scale = {"lm_head": 40}
    train(load(bases["qwen2"]), tmp_path, target_modules=targets, ensure_weight_tying=True, alpha_pattern=scale)
    source = source_of(tmp_path, bases["qwen2"])
    assert not source.tied
    assert _answers_as_live(bases["qwen2"], tmp_path, finished(source))


def test_equal_modules_to_save_stay_tied(bases: dict[str, Path], tmp_path: Path) -> None:
    _train(bases["qwen2"], tmp_path, ("full", "full"))
    embedding = adapted(load(bases["qwen2"]), tmp_path).get_input_embeddings().weight.detach().clone()
    store(tmp_path, {f"base_model.model.{HEAD}": embedding})
    source = source_of(tmp_path, bases["qwen2"])
    assert source.tied
    assert _answers_as_live(bases["qwen2"], tmp_path, finished(source))


@pytest.mark.parametrize("kept", ["lm_head", "embed_tokens"])
def test_ensured_tying_with_one_of_the_two_in_the_file_is_refused(
    kept: str, bases: dict[str, Path], tmp_path: Path
) -> None:
    _train(bases["qwen2"], tmp_path, ("lora", "none"), ensured=True)
    other, slots = ("model.embed_tokens", ("lora_embedding_A", "lora_embedding_B", "base_layer.weight"))
    if kept == "embed_tokens":
        other, slots = ("lm_head", ("lora_A.weight", "lora_B.weight", "base_layer.weight"))
    store(tmp_path, {f"base_model.model.{other}.{slot}": None for slot in slots})
    with pytest.raises(MergeError, match=rf"ensure_weight_tying, but the file changes only .*{kept}"):
        source_of(tmp_path, bases["qwen2"])


@pytest.mark.parametrize("ways", ONE_OR_BOTH)
def test_a_graph_without_a_head_refuses_an_untied_run(
    ways: tuple[str, str], bases: dict[str, Path], tmp_path: Path
) -> None:
    run = _train(bases["gemma"], tmp_path / "run", ways)
    with pytest.raises(PlanError, match=r"its head differs from its embedding.*gemma.*ensure_weight_tying"):
        planned(run, "f16", base=str(bases["gemma"]))
    write(run, bases["gemma"], tmp_path / "out", dtype="f32")  # transformers can hold one
    assert _answers_as_live(bases["gemma"], run, by_our_names(load(tmp_path / "out").state_dict()))


def test_a_graph_with_a_head_takes_an_untied_run_of_a_tied_family(bases: dict[str, Path], tmp_path: Path) -> None:
    _train(bases["gemma3"], tmp_path, ("none", "lora"))
    source = source_of(tmp_path, bases["gemma3"])
    assert not source.tied
    assert _answers_as_live(bases["gemma3"], tmp_path, finished(source))


@pytest.mark.parametrize(("ensured", "ways"), [*product([False], ONE_OR_BOTH), *product([True], ALIKE)])
def test_a_resized_vocabulary_of_a_tied_base(
    ensured: bool,  # noqa: FBT001
    ways: tuple[str, str],
    bases: dict[str, Path],
    tmp_path: Path,
) -> None:
    _train(bases["qwen2"], tmp_path, ways, ensured=ensured, rows=330)
    source = source_of(tmp_path, bases["qwen2"])
    assert source.shapes()[EMBEDDING] == (330, 64)
    assert source.tied == ensured
    assert _answers_as_live(bases["qwen2"], tmp_path, finished(source))


@pytest.mark.parametrize("ways", [("none", "lora"), ("lora", "none")])
def test_a_resized_vocabulary_saved_for_one_of_two_is_refused(
    ways: tuple[str, str], bases: dict[str, Path], tmp_path: Path
) -> None:
    _train(bases["llama"], tmp_path, ways, rows=420)
    with pytest.raises(MergeError, match=r"vocabulary was resized.*save_embedding_layers"):
        source_of(tmp_path, bases["llama"])


def _with_head(base: Path, folder: Path, change: float, *, tie: bool) -> Path:
    """A copy of a tied model that stores a head too."""
    from safetensors.torch import load_file, save_file  # noqa: PLC0415

    make(base.name, folder)
    weights = load_file(folder / "model.safetensors")
    head = weights[EMBEDDING].clone()
    head[-1, -1] += change
    save_file(weights | {HEAD: head}, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": tie}))
    return folder


@pytest.mark.parametrize("tie", [False, True])
@pytest.mark.parametrize("change", [0.0, 2.0**-10])
def test_the_tensors_decide_not_the_flag(change: float, tie: bool, bases: dict[str, Path], tmp_path: Path) -> None:  # noqa: FBT001
    source = source_of(_with_head(bases["qwen2"], tmp_path, change, tie=tie))
    assert source.tied == (change == 0.0)
    assert (HEAD in source.shapes()) == (change != 0.0)


def test_a_graph_without_a_head_refuses_a_model_that_has_one(bases: dict[str, Path], tmp_path: Path) -> None:
    assert source_of(_with_head(bases["gemma"], tmp_path / "equal", 0.0, tie=True)).tied
    with pytest.raises(PlanError, match="its head differs from its embedding"):
        planned(_with_head(bases["gemma"], tmp_path / "other", 0.5, tie=True), "f16")


def _headless(folder: Path) -> Path:
    """An untied model that lost its head."""
    from safetensors.torch import load_file, save_file  # noqa: PLC0415

    make("llama", folder)
    weights = load_file(folder / "model.safetensors")
    del weights[HEAD]
    save_file(weights, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("ways", [("none", "none"), ("none", "lora"), ("lora", "none"), ("full", "none")])
def test_a_lost_head_is_refused(ways: tuple[str, str], bases: dict[str, Path], tmp_path: Path) -> None:
    base = _headless(tmp_path / "base")
    adapter = _train(bases["llama"], tmp_path / "run", ways)
    # PEFT saves the head with its LoRA: then it is not lost.
    store(adapter, {"base_model.model.lm_head.base_layer.weight": None})
    for run in (adapter, base):
        with pytest.raises(GgufxError, match=r"holds no lm_head.weight.*tie_word_embeddings is false"):
            source_of(run, None if run == base else base)


def test_a_lost_head_is_not_missed_where_the_adapter_holds_one(bases: dict[str, Path], tmp_path: Path) -> None:
    adapter = _train(bases["llama"], tmp_path / "run", ("none", "full"))
    found = finished(source_of(adapter, _headless(tmp_path / "base")))
    expected = merged(load(bases["llama"]), adapter)
    assert largest_excess(found, expected, by_our_names(load(bases["llama"]).state_dict())) <= 1


def test_a_checkpoint_without_an_embedding_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file  # noqa: PLC0415

    weights = load_file(make("qwen2", tmp_path) / "model.safetensors")
    del weights[EMBEDDING]
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(SourceError, match=r"holds no model.embed_tokens.weight.*incomplete"):
        source_of(tmp_path)


@pytest.mark.parametrize("targets", [["q_proj"], ["lm_head"], ["lm_head", "q_proj"]])
def test_trained_tokens_of_a_tied_base_lie_below_what_is_added_to_the_head(
    targets: list[str], bases: dict[str, Path], tmp_path: Path
) -> None:
    base = bases["qwen2"]
    train(load(base), tmp_path, target_modules=targets, trainable_token_indices=[3, 7])
    assert _answers_as_live(base, tmp_path, finished(source_of(tmp_path, base)))


def test_trained_tokens_change_a_head_of_its_own_only_where_it_was_trained(
    bases: dict[str, Path], tmp_path: Path
) -> None:
    base = _with_head(bases["qwen2"], tmp_path / "base", 0.0, tie=False)
    train(load(base), tmp_path / "run", target_modules=["q_proj"], trainable_token_indices=[3, 7])
    found = finished(source_of(tmp_path / "run", base))
    expected = merged(load(base), tmp_path / "run")
    assert largest_excess(found, expected, by_our_names(load(base).state_dict())) <= 1
    assert HEAD in found


@pytest.mark.parametrize(
    ("indices", "tied"),
    [
        ({"embed_tokens": [1, 2, 5]}, True),
        ([1, 2, 5], True),
        ({"embed_tokens": [3, 4], "lm_head": [3, 4]}, True),
        ({"lm_head": [3, 4]}, False),  # PEFT ties rows of the embedding alone
    ],
)
def test_ensured_tying_of_tokens_is_as_in_peft(*, indices: Any, tied: bool, bases: Any, tmp_path: Path) -> None:  # noqa: ANN401
    base = bases["qwen2"]
    fields = {"target_modules": ["q_proj"], "ensure_weight_tying": True}
    train(load(base), tmp_path, trainable_token_indices=indices, **fields)
    source = source_of(tmp_path, base)
    assert source.tied == tied
    assert _answers_as_live(base, tmp_path, finished(source))


@pytest.mark.parametrize(
    "patterns",
    [
        {"rank_pattern": {"embed_tokens": 2}, "alpha_pattern": {"lm_head": 3}},
        {"rank_pattern": {"lm_head": 2}, "alpha_pattern": {"embed_tokens": 3}},
    ],
)
def test_a_tied_head_has_the_rank_of_the_embedding(
    patterns: dict[str, Any], bases: dict[str, Path], tmp_path: Path
) -> None:
    base, targets = bases["qwen2"], ["q_proj", "embed_tokens"]
    train(load(base), tmp_path, target_modules=targets, ensure_weight_tying=True, **patterns)
    assert _answers_as_live(base, tmp_path, finished(source_of(tmp_path, base)))
