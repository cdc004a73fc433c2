"""A vocabulary that training grew, cut or padded: merged as PEFT has it, loaded by llama.cpp, or refused by a rule."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from adapters import by_our_names, finished, largest_excess, load, merged, one_thread, source_of, store, train
from exported import change_json, planned, written
from report_document import changed
from tiny import TINY, make
from tokenizers import AddedToken
from vocabs import CONFIG, GROWN, PADDED, SAME, SHRUNK, add

from converters.spec import EMBEDDING, HEAD
from exporter.errors import MergeError, TokenizerError
from exporter.inspect import inspect_run, render
from exporter.llamacpp import load as load_in_llama
from exporter.report import render_markdown

__all__ = ["one_thread"]
MARKER = AddedToken("<|look|>", special=True, normalized=False)
WORD = AddedToken("Aspirin", special=False, normalized=False)
NEW = (MARKER, WORD)
FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "added_tokens.json", "special_tokens_map.json")
TOKENS = {"llama": 409, "qwen2": 312}  # of 409 and 320 rows
SAVED = ["embed_tokens", "lm_head"]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return {name: make(name, folder / name) for name in TOKENS}


def tokenizer_beside(run: Path, base: Path, *new: AddedToken) -> Path:
    """The base's tokenizer with further tokens, as a trainer saves it with the run."""
    for name in FILES:
        if (base / name).exists():
            shutil.copy(base / name, run)
    return add(run, *new)


@dataclass(frozen=True)
class Trained:
    """A way to train with two new tokens: the base, the rows it is resized to, and what PEFT is told."""

    base: str
    rows: int | None
    fields: dict[str, Any]
    rules: tuple[str, ...]
    untied: bool = False


LORA: dict[str, Any] = {"target_modules": ["q_proj"]}
RESIZED = LORA | {"save": {"save_embedding_layers": True}}
AGAIN = LORA | {"modules_to_save": SAVED}
ALONE = LORA | {"trainable_token_indices": [312, 313]}
ALONE_BY_NAME = LORA | {"trainable_token_indices": {"embed_tokens": [312, 313]}}
KEPT: dict[str, Any] = {"save": {"save_embedding_layers": True}}
NEWEST = RESIZED | {"trainable_token_indices": [409, 410]}
NEWEST_OF_BOTH = RESIZED | {"trainable_token_indices": {"embed_tokens": [409, 410], "lm_head": [410]}}
TRAINED = {
    "equal": Trained("qwen2", None, LORA, (SAME, PADDED)),
    "equal, all saved": Trained("qwen2", None, AGAIN, (SAME, PADDED), untied=True),
    "equal, tokens alone": Trained("qwen2", None, ALONE, (SAME, PADDED)),
    "shrink": Trained("qwen2", 314, RESIZED, (SHRUNK, CONFIG)),
    "shrink, all saved": Trained("qwen2", 314, AGAIN, (SHRUNK, CONFIG), untied=True),
    "grow": Trained("llama", 411, RESIZED, (GROWN, CONFIG)),
    "grow, all saved": Trained("llama", 411, AGAIN, (GROWN, CONFIG)),
    "grow, LoRA on both": Trained("llama", 411, {"target_modules": SAVED}, (GROWN, CONFIG)),
    "grow, tokens alone": Trained("llama", 411, NEWEST, (GROWN, CONFIG)),
    "grow, tokens alone in both": Trained("llama", 411, NEWEST_OF_BOTH, (GROWN, CONFIG)),
    "grow, tokens alone, tied": Trained("qwen2", 322, ALONE | KEPT, (GROWN, PADDED, CONFIG)),
    "grow, tokens alone, tied, by name": Trained("qwen2", 322, ALONE_BY_NAME | KEPT, (GROWN, PADDED, CONFIG)),
    "shrink, tokens alone, tied": Trained("qwen2", 314, ALONE | KEPT, (SHRUNK, CONFIG)),
    "grow by 64": Trained("llama", 448, RESIZED, (GROWN, PADDED, CONFIG)),
    "grow by 64, tied": Trained("qwen2", 384, RESIZED, (GROWN, PADDED, CONFIG)),
}


@pytest.mark.parametrize("way", TRAINED)
def test_a_resized_vocabulary_is_merged_exported_and_loaded(way: str, bases: dict[str, Path], tmp_path: Path) -> None:
    case = TRAINED[way]
    base, run = bases[case.base], tmp_path / "run"
    train(load(base, rows=case.rows), run, **case.fields)
    tokenizer_beside(run, base, *NEW)
    expected = merged(load(base, rows=case.rows, untied=case.untied), run)
    source = source_of(run)
    assert source.tied == (case.base == "qwen2" and not case.untied)
    assert largest_excess(finished(source), expected, by_our_names(load(base).state_dict())) <= 1

    plan, files = written(run, tmp_path / "out")
    assert tuple(one.rule for one in plan.vocabulary.findings) == case.rules
    rows = case.rows or TINY[case.base].config["vocab_size"]
    assert plan.vocabulary.rows["written"] == rows
    found = load_in_llama(files["f32"], ["<|look|>", "Aspirin", "to<|look|>you"])
    first = TOKENS[case.base]
    assert found.finite
    assert found.facts.n_vocab == rows
    assert [ids.parsed for ids in found.ids[:2]] == [(first,), (first + 1,)]
    assert first in found.ids[2].parsed


def _only_lora(base: Path, run: Path, rows: int, *new: AddedToken) -> Path:
    """A run whose resized embedding was not saved."""
    train(load(base, rows=rows), run, **LORA, save={"save_embedding_layers": False})
    return tokenizer_beside(run, base, *new)


@pytest.mark.parametrize(("new", "named"), [(NEW, r"'<\|look\|>' \(409\): not in the base"), ((WORD,), r"'Aspirin'")])
def test_an_added_token_without_its_row_is_refused(
    new: tuple[AddedToken, ...], named: str, bases: dict[str, Path], tmp_path: Path
) -> None:
    run = _only_lora(bases["llama"], tmp_path / "run", 411, *new)
    with pytest.raises(TokenizerError, match=rf"409 rows.*lie beyond: .*{named}.*save_embedding_layers"):
        planned(run, "f32")
    with pytest.raises(TokenizerError, match="lie beyond"):
        inspect_run(str(run))


PADDING = AddedToken("[PAD]", special=True, normalized=False)


def test_padding_without_a_row_is_left_out_and_named(bases: dict[str, Path], tmp_path: Path) -> None:
    run = _only_lora(bases["llama"], tmp_path / "run", 410, PADDING)
    change_json(run / "tokenizer_config.json", **dict.fromkeys(["pad_token"], "[PAD]"))
    plan, files = written(run, tmp_path / "out")
    assert [one.rule for one in plan.vocabulary.findings] == [SAME, "tokens left out"]
    assert any("'[PAD]' (409)" in warning for warning in plan.warnings)
    assert load_in_llama(files["f32"], ["to"]).facts.n_vocab == 409


PADS_TURNS = "{% for m in messages %}{{ m['content'] + pad_token }}{% endfor %}"


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"pad_token": "[PAD]", "chat_template": PADS_TURNS}, "the chat template writes it"),
        ({"chat_template": PADS_TURNS.replace("pad_token", "'[PAD]'")}, "the chat template writes it"),
        ({"pad_token": "[PAD]", "eos_token": "[PAD]"}, "begins or ends texts"),
        ({"pad_token": "[PAD]", "bos_token": "[PAD]"}, "the chat template writes it"),
        ({"pad_token": "[PAD]", "bos_token": "[PAD]", "chat_template": "{{ 1 }}"}, "begins or ends texts"),
        ({"pad_token": "[PAD]", "unk_token": "[PAD]"}, "added by the fine-tune"),
        ({}, "added by the fine-tune"),
    ],
)
def test_padding_that_is_more_than_padding_is_refused(
    fields: dict[str, object], why: str, bases: dict[str, Path], tmp_path: Path
) -> None:
    run = _only_lora(bases["llama"], tmp_path / "run", 410, PADDING)
    change_json(run / "tokenizer_config.json", **fields)
    with pytest.raises(TokenizerError, match=rf"lie beyond: '\[PAD\]' \(409\): .*{why}"):
        planned(run, "f32")


def test_a_token_that_the_base_has_without_a_row_too_is_left_out(tmp_path: Path) -> None:
    base = make("llama", tmp_path / "base")
    add(base, MARKER)
    run = _only_lora(base, tmp_path / "run", 409)
    assert [one.rule for one in planned(run, "f32").vocabulary.findings] == [SAME, "tokens left out"]
    assert "no row for '<|look|>' (409)" in render(
        inspect_run(str(base))
    )  # a model by itself: all rows that there ever were
    for name in FILES:
        (base / name).unlink(missing_ok=True)
    with pytest.raises(TokenizerError, match=r"'<\|look\|>' \(409\): not in the base's tokenizer"):
        planned(run, "f32")


def test_rows_are_not_cut_off_under_a_token(bases: dict[str, Path], tmp_path: Path) -> None:
    train(load(bases["qwen2"], rows=310), tmp_path, **RESIZED)
    with pytest.raises(
        TokenizerError, match=r"310 rows replace the base's 320, .* ids go up to 311.*Put the tokenizer"
    ):
        planned(tmp_path, "f32")
    tokenizer_beside(tmp_path, bases["qwen2"], MARKER)
    with pytest.raises(TokenizerError, match="ids go up to 312"):
        planned(tmp_path, "f32")


def test_a_vocabulary_that_was_grown_needs_the_runs_tokenizer(tmp_path: Path) -> None:
    base = make("llama", tmp_path / "base")
    run = train(load(base, rows=410), tmp_path / "run", **RESIZED)
    with pytest.raises(TokenizerError, match=r"410 rows replace .* 409, .* has no tokenizer .* ends at id 408"):
        planned(run, "f32")
    tokenizer_beside(run, base)
    assert [one.rule for one in planned(run, "f32").vocabulary.findings] == [GROWN, PADDED, CONFIG]
    for name in FILES:
        (run / name).unlink(missing_ok=True)
    add(base, WORD)  # the base's tokenizer has had the token from the beginning, and training gave it a row
    assert [one.rule for one in planned(run, "f32").vocabulary.findings] == [GROWN, CONFIG]


@pytest.mark.parametrize("module", ["embed_tokens", "lm_head"])
@pytest.mark.parametrize("rows", [400, 411])
def test_lora_of_another_size_than_the_base_is_refused(
    module: str, rows: int, bases: dict[str, Path], tmp_path: Path
) -> None:
    train(load(bases["llama"], rows=rows), tmp_path, target_modules=[module], save={"save_embedding_layers": False})
    name = {"embed_tokens": "embedding", "lm_head": "head"}[module]
    with pytest.raises(
        MergeError, match=rf"LoRA of the {name} is of {rows} rows.* has 409.*save_embedding_layers=True"
    ):
        source_of(tmp_path, bases["llama"])


def test_tokens_trained_alone_without_the_resized_embedding_are_refused(bases: dict[str, Path], tmp_path: Path) -> None:
    train(load(bases["llama"], rows=411), tmp_path, **NEWEST)
    lost = ("model.embed_tokens.token_adapter.base_layer.weight", HEAD)
    store(tmp_path, {f"base_model.model.{name}": None for name in lost})
    with pytest.raises(MergeError, match=r"token 410 of the embedding was trained alone .* has 409 rows: the vocabula"):
        source_of(tmp_path, bases["llama"])


@pytest.mark.parametrize("kept", SAVED)
def test_one_of_two_resized_matrices_is_refused(kept: str, bases: dict[str, Path], tmp_path: Path) -> None:
    train(load(bases["llama"], rows=411), tmp_path, **RESIZED)
    lost = {"embed_tokens": HEAD, "lm_head": EMBEDDING}[kept]
    store(tmp_path, {f"base_model.model.{lost}": None})
    with pytest.raises(MergeError, match=r"only one of the two was saved.*\(Counted: base's embedding 409, "):
        source_of(tmp_path, bases["llama"])


def test_inspect_and_the_report_show_the_ledger(bases: dict[str, Path], tmp_path: Path) -> None:
    train(load(bases["llama"], rows=448), tmp_path, **RESIZED)
    tokenizer_beside(tmp_path, bases["llama"], *NEW)
    facts = inspect_run(str(tmp_path))
    shown = {"base's embedding": 409, "adapter's embedding": 448, "base's head": 409, "adapter's head": 448}
    shown |= {"tokens": 411, "highest id": 410, "config.json": 409, "written": 448}
    assert facts["vocabulary"]["rows"] == shown
    text = render(facts)
    assert "\n  rows of the adapter's embedding: 448\n" in text
    assert "\n  37 rows belong to no token: " in text
    document: Any = changed("run.vocabulary", facts["vocabulary"])
    page = render_markdown(document)
    assert "adapter's embedding" in page
    assert "448" in page
    assert "padded: 37 rows belong to no token" in page
