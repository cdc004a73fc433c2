"""The ledger of a vocabulary's rows: which rules hold for which counts, and what each says."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny import make
from vocabs import CONFIG, GROWN, PADDED, SAME, SHRUNK

from exporter import vocabulary
from exporter.errors import GgufxError
from exporter.tokenizer import find_tokenizer_files, read_files
from exporter.tokenizer.count import count
from exporter.vocabulary import RULES, Counts, Held, Matrix, Tokens, check, weigh


def both(rows: int, **held: Any) -> Counts:  # noqa: ANN401  (fields of Held)
    """Counts of a base of so many rows in both matrices, and of an adapter that holds the same of both."""
    matrix = Matrix(rows, (Held(**held),))
    return Counts(matrix, matrix)


PLAIN = both(100)
ROWS: tuple[tuple[Counts, tuple[str, ...]], ...] = (
    (Counts(Matrix(100)), (SAME,)),
    (PLAIN, (SAME,)),
    (Counts(Matrix(100), Matrix(90)), (SAME,)),  # the base's own matter, for the plan's shapes
    (both(100, whole=100, factors=100, last_token=99), (SAME,)),
    (both(100, whole=101), (GROWN,)),
    (both(100, whole=101, factors=101, last_token=100), (GROWN,)),
    (both(100, whole=99, factors=99, last_token=98), (SHRUNK,)),
    (both(100, factors=101), ("LoRA of another size",)),
    (both(100, factors=99), ("LoRA of another size",)),
    (both(100, whole=101, factors=100), ("LoRA of another size",)),
    (replace(PLAIN, head=Matrix(100, (Held(factors=99),))), ("LoRA of another size",)),
    (both(100, last_token=100), ("trained tokens beyond the rows",)),
    (both(100, whole=99, last_token=99), ("trained tokens beyond the rows",)),
    (replace(PLAIN, head=Matrix(100, (Held(whole=101),))), ("only one of two resized",)),
    (replace(PLAIN, embedding=Matrix(100, (Held(whole=101),))), ("only one of two resized",)),
    (replace(PLAIN, embedding=Matrix(100, (Held(whole=101),)), head=None), (GROWN,)),
    (Counts(Matrix(100, (Held(whole=101), Held(factors=101)))), (GROWN,)),
    (Counts(Matrix(100, (Held(factors=100), Held(whole=101)))), (GROWN,)),
    (Counts(Matrix(100, (Held(whole=101), Held(factors=100)))), ("LoRA of another size",)),
    (Counts(Matrix(100, (Held(whole=101), Held(last_token=101)))), ("trained tokens beyond the rows",)),
    (replace(PLAIN, tokens=Tokens(100, 100), config=100), (SAME,)),
    (replace(PLAIN, tokens=Tokens(98, 100)), (SAME, PADDED)),
    (replace(PLAIN, tokens=Tokens(99, 99)), (SAME, PADDED)),
    (replace(PLAIN, tokens=Tokens(101, 101, dropped=("'a' (100)",))), (SAME, "tokens left out")),
    (replace(PLAIN, tokens=Tokens(100, 101, dropped=("'a' (100)",))), (SAME, "tokens left out", PADDED)),
    (replace(PLAIN, tokens=Tokens(101, 101, needed=("'a' (100): why",))), ("tokens without rows",)),
    (replace(both(100, whole=90), tokens=Tokens(90, 90)), (SHRUNK,)),
    (replace(both(100, whole=90), tokens=Tokens(91, 91, dropped=("'a' (90)",))), ("cut through the tokenizer",)),
    (replace(both(100, whole=102), tokens=Tokens(100, 100, own=False)), ("grown without its tokenizer",)),
    (replace(both(100, whole=102), tokens=Tokens(101, 101, own=False)), ("grown without its tokenizer",)),
    (replace(both(100, whole=102), tokens=Tokens(102, 102, own=False)), (GROWN,)),
    (replace(both(100, whole=102), tokens=Tokens(100, 100)), (GROWN, PADDED)),
    (replace(PLAIN, tokens=Tokens(98, 98, own=False)), (SAME, PADDED)),
    (replace(both(100, whole=99), tokens=Tokens(98, 98, own=False)), (SHRUNK, PADDED)),
    (replace(PLAIN, config=101), (SAME, CONFIG)),
    (replace(both(100, whole=128), tokens=Tokens(102, 102), config=100), (GROWN, PADDED, CONFIG)),
)


@pytest.mark.parametrize(("counts", "rules"), ROWS)
def test_every_row_of_the_table(counts: Counts, rules: tuple[str, ...]) -> None:
    ledger = weigh(counts)
    assert tuple(one.rule for one in ledger.findings) == rules
    assert ledger.rows["written"] == counts.rows
    assert "{" not in "".join(one.text for one in ledger.findings)
    errors = [one.error for one in ledger.findings if one.error is not None]
    if not errors:
        check(ledger, "here")
        return
    with pytest.raises(errors[0], match=r"^here: .*\(Counted: base's embedding 100, ") as stopped:
        check(ledger, "here")
    assert isinstance(stopped.value, GgufxError)


@pytest.mark.parametrize("holds", [lambda _: True, lambda _: False])
@pytest.mark.parametrize("place", range(len(RULES)), ids=[rule.name for rule in RULES])
def test_a_rule_that_is_broken_is_noticed(
    place: int, holds: Callable[[Counts], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = [replace(rule, holds=holds) if k == place else rule for k, rule in enumerate(RULES)]
    monkeypatch.setattr(vocabulary, "RULES", tuple(broken))
    monkeypatch.setattr(vocabulary, "_words", lambda _: _Any())
    assert any(tuple(one.rule for one in weigh(counts).findings) != rules for counts, rules in ROWS)


class _Any(dict[str, object]):
    """A word for every field."""

    def __missing__(self, key: str) -> str:
        return key


def test_words_tell_the_numbers() -> None:
    (one,) = weigh(both(100, factors=101)).findings
    assert one.text.startswith("the LoRA of the embedding is of 101 rows, what it is laid over has 100: ")
    (one,) = weigh(both(100, last_token=107)).findings
    assert one.text.startswith("token 107 of the embedding was trained alone")
    needed = tuple(f"'{k}' ({k}): why" for k in range(100, 105))
    (one,) = weigh(replace(PLAIN, tokens=Tokens(105, 105, needed))).findings
    assert "'102' (102): why and 2 more. Either" in one.text


def test_tokens_are_counted_by_their_ids(tmp_path: Path) -> None:
    base = make("qwen2", tmp_path)
    spec = json.loads((base / "tokenizer.json").read_text())
    spec["added_tokens"].append({**spec["added_tokens"][0], "id": 318, "content": "<|far|>"})
    # In the vocabulary too, or the tokenizers library gives the next id, whatever is declared.
    spec["model"]["vocab"] |= {item["content"]: item["id"] for item in spec["added_tokens"]}
    (base / "tokenizer.json").write_text(json.dumps(spec))
    files = read_files(find_tokenizer_files(base))
    assert count(files, 320, None) == Tokens(313, 319)
    assert count(files, 318, None) == Tokens(313, 319, dropped=("'<|far|>' (318)",))
