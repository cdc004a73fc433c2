"""The vocabulary ledger: how many rows and tokens each part of a run has, and what becomes of them.

Embedding, head, adapter, tokenizer and config.json count the vocabulary each for themselves, and trainers change some
of them only. One table of rules says what is done where they differ, and what is refused.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from exporter.errors import GgufxError, MergeError, TokenizerError


@dataclass(frozen=True)
class Held:
    """What one adapter holds of the embedding, or of the head, counted in rows."""

    whole: int | None = None
    """Rows of the matrix itself: ``modules_to_save``, saved embedding layers, the layer below a wrapper."""
    factors: int | None = None
    """Rows that its LoRA changes."""
    last_token: int | None = None
    """The highest of the rows that were trained alone (``trainable_token_indices``)."""


@dataclass(frozen=True)
class Matrix:
    """Rows of the embedding, or of the head: the base's, and what each adapter holds of it, in order."""

    base: int
    held: tuple[Held, ...] = ()

    @property
    def rows(self) -> int:
        """Rows of the finished matrix: the last adapter that holds it whole decides, else the base."""
        return ([self.base] + [one.whole for one in self.held if one.whole is not None])[-1]

    def laid_over(self) -> Iterator[tuple[int, Held]]:
        """Each adapter's part, with the rows of what it is laid over."""
        for k, one in enumerate(self.held):
            yield one.whole if one.whole is not None else Matrix(self.base, self.held[:k]).rows, one


@dataclass(frozen=True)
class Tokens:
    """A tokenizer, counted."""

    count: int
    """Ids in use."""
    end: int
    """The highest id and one."""
    needed: tuple[str, ...] = ()
    """Tokens without a row that the model needs: text, id and why."""
    dropped: tuple[str, ...] = ()
    """Tokens without a row that it does not need."""
    own: bool = True
    """The tokenizer lies with the run; False: it is the base's, for the run has none."""


@dataclass(frozen=True)
class Counts:
    """What is counted; ``head`` None: the embedding is the head too. Tokens and config None: not looked at yet."""

    embedding: Matrix
    head: Matrix | None = None
    tokens: Tokens | None = None
    config: int | None = None

    @property
    def rows(self) -> int:
        """Rows of the finished embedding: so many tokens are written."""
        return self.embedding.rows

    @property
    def stored(self) -> tuple[int, int]:
        """Rows of the base's embedding and head."""
        return self.embedding.base, (self.head or self.embedding).base

    def matrices(self) -> dict[str, Matrix]:
        """The matrices by what they are called."""
        return {"embedding": self.embedding} | ({} if self.head is None else {"head": self.head})


@dataclass(frozen=True)
class Rule:
    """One row of the table: when it holds, and what is then said; a rule with an error refuses the run."""

    name: str
    holds: Callable[[Counts], bool]
    text: str
    """Fields in braces are those of `_words`."""
    error: type[GgufxError] | None = None


@dataclass(frozen=True)
class Finding:
    """A rule that held, and what it says of these counts."""

    rule: str
    text: str
    error: type[GgufxError] | None = None


@dataclass(frozen=True)
class Ledger:
    """The counts by what they are of, and every rule that held, in the table's order."""

    rows: dict[str, int] = field(hash=False)
    findings: tuple[Finding, ...]

    def as_document(self) -> dict[str, object]:
        """The counts, and the rules that held, for reports."""
        return {"rows": self.rows, "rules": [f"{one.rule}: {one.text}" for one in self.findings]}


SAVE = "save the adapter again with save_embedding_layers=True, or with embed_tokens and lm_head in modules_to_save"

RULES = (
    Rule(
        "LoRA of another size",
        lambda c: _odd_factors(c) is not None,
        "the LoRA of the {lora_matrix} is of {lora_rows} rows, what it is laid over has {lora_under}: the vocabulary "
        "was resized before training, and the resized {lora_matrix} is not in the adapter. From the trained model, "
        + SAVE
        + "; or give the resized base with --base.",
        MergeError,
    ),
    Rule(
        "trained tokens beyond the rows",
        lambda c: _odd_token(c) is not None,
        "token {token} of the {token_matrix} was trained alone (trainable_token_indices), what it is laid over has "
        "{token_under} rows: the vocabulary was resized before training, and the resized {token_matrix} is not in the "
        "adapter. From the trained model, " + SAVE + "; or give the resized base with --base.",
        MergeError,
    ),
    Rule(
        "only one of two resized",
        lambda c: c.head is not None and c.head.rows != c.rows and (c.rows, c.head.rows) != c.stored,
        "the embedding has {rows} rows, the head {head_rows}: the vocabulary was resized, and only one of the two was "
        "saved. From the trained model, " + SAVE + ".",
        MergeError,
    ),
    Rule(
        "cut through the tokenizer",
        lambda c: c.tokens is not None and c.rows < c.embedding.base and c.tokens.end > c.rows,
        "the adapter's {rows} rows replace the base's {base}, but the tokenizer's ids go up to {last_id}: tokens would "
        "lose their rows. Put the tokenizer that was trained with beside the adapter.",
        TokenizerError,
    ),
    Rule(
        "grown without its tokenizer",
        lambda c: c.tokens is not None and not c.tokens.own and c.embedding.base < c.rows > c.tokens.end,
        "the adapter's {rows} rows replace the base's {base}, and the run has no tokenizer of its own: the tokens that "
        "were added are not known, and the base's tokenizer ends at id {last_id}. Put the tokenizer that was trained "
        "with beside the adapter.",
        TokenizerError,
    ),
    Rule(
        "tokens without rows",
        lambda c: c.tokens is not None and bool(c.tokens.needed),
        "the embedding has {rows} rows, and these tokens of the tokenizer lie beyond: {needed}. Either they were added "
        "without resizing the model: take them out of the tokenizer files. Or the resized embedding was not saved: "
        "from the trained model, " + SAVE + ".",
        TokenizerError,
    ),
    Rule("as in the base", lambda c: c.rows == c.embedding.base, "the embedding keeps the base's {rows} rows"),
    Rule(
        "grown",
        lambda c: c.rows > c.embedding.base,
        "the adapter's {rows} rows replace the base's {base}: the vocabulary was grown",
    ),
    Rule(
        "shrunk",
        lambda c: c.rows < c.embedding.base,
        "the adapter's {rows} rows replace the base's {base}: the vocabulary was cut, no token lies beyond",
    ),
    Rule(
        "tokens left out",
        lambda c: c.tokens is not None and bool(c.tokens.dropped),
        "the embedding has no row for {dropped}",
    ),
    Rule(
        "padded",
        lambda c: c.tokens is not None and c.tokens.count - len(c.tokens.dropped) < c.rows,
        "{padded} rows belong to no token: written as unused tokens, [PADn]",
    ),
    Rule(
        "config.json differs",
        lambda c: c.config is not None and c.config != c.rows,
        "config.json says vocab_size {config}: the embedding decides, {rows} are written",
    ),
)
"""The one table: what refuses a run stands first."""


def weigh(counts: Counts) -> Ledger:
    """The ledger of these counts: a line for each, and the rules that hold."""
    words = _words(counts)
    held = [rule for rule in RULES if rule.holds(counts)]
    refused = any(rule.error for rule in held)
    findings = [
        Finding(rule.name, rule.text.format_map(words), rule.error) for rule in held if rule.error or not refused
    ]
    return Ledger(_lines(counts), tuple(findings))


def check(ledger: Ledger, where: object) -> None:
    """Raise the first refusal of a ledger, with all of its counts: MergeError or TokenizerError.

    Args:
        ledger: what was found.
        where: the file or folder that is named in front.
    """
    for one in ledger.findings:
        if one.error is not None:
            counts = ", ".join(f"{name} {count}" for name, count in ledger.rows.items())
            raise one.error(f"{where}: {one.text} (Counted: {counts}.)")


def _odd_factors(counts: Counts) -> tuple[str, int, int] | None:
    """The first LoRA that is of other rows than what it is laid over: of which matrix, its rows, and those below."""
    found = (
        (name, one.factors, rows)
        for name, matrix in counts.matrices().items()
        for rows, one in matrix.laid_over()
        if one.factors is not None and one.factors != rows
    )
    return next(found, None)


def _odd_token(counts: Counts) -> tuple[str, int, int] | None:
    """The first token trained alone without a row below: of which matrix, its id, and the rows below."""
    found = (
        (name, one.last_token, rows)
        for name, matrix in counts.matrices().items()
        for rows, one in matrix.laid_over()
        if one.last_token is not None and one.last_token >= rows
    )
    return next(found, None)


def _lines(counts: Counts) -> dict[str, int]:
    """Every count that is known, by what it is of, in the order in which they are decided."""
    lines: dict[str, int | None] = {}
    for name, matrix in counts.matrices().items():
        lines[f"base's {name}"] = matrix.base
        for k, one in enumerate(matrix.held):
            adapter = "adapter's" if len(matrix.held) == 1 else f"adapter {k + 1}'s"
            lines[f"{adapter} {name}"] = one.whole
            lines[f"{adapter} LoRA of the {name}"] = one.factors
            lines[f"{adapter} highest token trained alone, {name}"] = one.last_token
    if counts.tokens is not None:
        lines |= {"tokens": counts.tokens.count, "highest id": counts.tokens.end - 1}
    lines |= {"config.json": counts.config, "written": counts.rows}
    return {name: count for name, count in lines.items() if count is not None}


def label(line: str) -> str:
    """What a line of a ledger counts, in words for whoever reads it by itself."""
    plain = {
        "tokens": "tokens in the tokenizer",
        "highest id": "highest token id",
        "config.json": "vocab_size in config.json",
        "written": "rows in the file",
    }
    return plain.get(line) or (line if "highest" in line else f"rows of the {line}")


def _words(counts: Counts) -> dict[str, object]:
    """What the rules' texts name."""
    tokens = counts.tokens or Tokens(0, 0)
    lora = zip(("lora_matrix", "lora_rows", "lora_under"), _odd_factors(counts) or (), strict=False)
    alone = zip(("token_matrix", "token", "token_under"), _odd_token(counts) or (), strict=False)
    return dict([*lora, *alone]) | {
        "rows": counts.rows,
        "base": counts.embedding.base,
        "head_rows": counts.head.rows if counts.head else counts.rows,
        "config": counts.config,
        "last_id": tokens.end - 1,
        "needed": ", ".join(tokens.needed[:3]) + (f" and {len(tokens.needed) - 3} more" if tokens.needed[3:] else ""),
        "dropped": ", ".join(tokens.dropped),
        "padded": counts.rows - tokens.count + len(tokens.dropped),
    }
