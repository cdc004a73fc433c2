"""What a report says about its levels."""

from collections import Counter
from collections.abc import Sequence
from itertools import combinations

from exporter.report.blocks import Alert, Block, Cell, Code, Fold, Mark, Notes, Picture, Section, Table, Text
from exporter.report.numbers import NOT_MEASURED, bits, count, percent, plain, share, size, with_error
from exporter.report.schema import Document, Level, Perplexity

NORMAL_95 = 1.96
"""A 95 % interval is the value ± 1.96 standard errors (normal approximation of a mean over chunks)."""

SUMMARY = ("Level", "Verdict", "Size", "bpw", "Perplexity", "Ratio", "Mean KLD", "KLD p99", "Top-1, %")
NOTES = (
    ("±", "one standard error over windows of text, never over tokens; a 95 % interval is about twice as wide."),
    ("Perplexity", "how surprised the model is by the text; lower is better, on this text only."),
    ("Ratio", "the file's perplexity divided by the reference's; 1 means that nothing was lost."),
    (
        "Mean KLD",
        "KL divergence, how far the next-token probabilities are from the reference's, in nats; 0 means identical.",
    ),
    ("KLD p99", "the KL divergence that 99 % of the tokens stay below: how bad the rare bad places are."),
    (
        "Top-1",
        "top-1 agreement, the share of tokens where the file and the reference find the same next token most likely.",
    ),
    (
        "Top-5",
        "top-5 agreement, the share of the reference's five likeliest tokens that are among the file's five likeliest.",
    ),
    ("Verdict", "whether the level was measured; pass or fail of the gates where a report has any."),
    ("bpw", "bits per weight, the bits of all tensors, divided by the number of weights."),
)


SUBSTITUTES = (
    "Tensors stored in another type: the one that the profile wanted takes weights in blocks (K-quants 256), and the "
    "length of their rows is no multiple of that."
)


def level_sections(document: Document) -> list[Section]:
    """Return the sections about levels, those without content left out."""
    levels = document["levels"]
    sections = [
        Section("Levels", _summary(levels)),
        Section("Size against quality", (Picture(),) if any(map(is_measured, levels)) else ()),
        Section("Warnings", tuple(Alert("warning", "", text) for text in document.get("warnings") or ())),
        Section("Gates", _table(("Level", "Gate", "Value", "Status"), _gates(levels), {2})),
        Section("Beyond the mean", _beyond(levels)),
        Section("Tasks", _tasks(levels)),
        Section("Types of the weights", _types(levels)),
        Section("Files", _table(("Level", "File", "Bytes", "SHA-256"), _files(levels), {2})),
    ]
    return [section for section in sections if section.blocks]


def is_measured(level: Level) -> bool:
    """Return whether a level was measured against the reference, wholly or in part."""
    return bool(level.get("kld") or level.get("perplexity"))


def overlapping(levels: list[Level]) -> list[tuple[str, str]]:
    """Return the pairs of levels whose 95 % intervals of mean KL divergence overlap."""
    spans = []
    for level in levels:
        kld = level.get("kld")
        if kld:
            half = NORMAL_95 * (kld.get("error") or 0.0)
            spans.append((level["quant"], kld["mean"] - half, kld["mean"] + half))
    return [(one[0], two[0]) for one, two in combinations(spans, 2) if one[1] <= two[2] and two[1] <= one[2]]


def _summary(levels: list[Level]) -> tuple[Block, ...]:
    if not levels:
        return (Text("The report lists no level."),)
    alerts = [Alert("error", f"{level['quant']}: error", error) for level in levels if (error := level.get("error"))]
    rows = tuple(_summary_row(level) for level in levels)
    blocks: list[Block] = [Table(SUMMARY, rows, frozenset(range(2, len(SUMMARY)))), *alerts]
    if not any(map(is_measured, levels)):
        blocks.append(Text("Quality: not measured. The files were made; nothing here says how good they are."))
        return tuple(blocks)
    pairs = overlapping(levels)
    if pairs:
        names = "; ".join(f"{one} and {two}" for one, two in pairs)
        blocks.append(Text(f"The 95 % intervals of mean KL divergence overlap, so they do not rank these: {names}."))
    return (*blocks, Notes(NOTES))


def _summary_row(level: Level) -> tuple[Cell, ...]:
    perplexity, kld, top1 = level.get("perplexity"), level.get("kld"), level.get("top1")
    return (
        Code(level["quant"]),
        Mark(verdict(level)),
        size(level["bytes"]),
        bits(level.get("bpw")),
        with_error(perplexity["value"], perplexity.get("error")) if perplexity else NOT_MEASURED,
        ratio(perplexity),
        with_error(kld["mean"], kld.get("error")) if kld else NOT_MEASURED,
        plain(kld.get("p99"), 3) if kld else NOT_MEASURED,
        percent(top1["value"], top1.get("error")) if top1 else NOT_MEASURED,
    )


def verdict(level: Level) -> str:
    """Return a level's verdict in words: without gates there is nothing to pass, so "measured" is all to say."""
    return "measured" if level["verdict"] == "pass" and not level.get("gates") else level["verdict"]


def ratio(perplexity: Perplexity | None, sign: str = " ± ") -> str:
    """Return a level's perplexity ratio with its error."""
    return with_error(perplexity.get("ratio"), perplexity.get("ratio_error"), sign) if perplexity else NOT_MEASURED


def _gates(levels: list[Level]) -> list[tuple[Cell, ...]]:
    return [
        (Code(level["quant"]), Code(gate["gate"]), plain(gate.get("value")), Mark(gate["status"]))
        for level in levels
        for gate in level.get("gates") or ()
    ]


def _beyond(levels: list[Level]) -> tuple[Block, ...]:
    """The distribution of KL divergence, and what else was measured for some level."""
    head = ("Level", "Median", "p90", "p99", "p99.9", "Largest", "Floor")
    rows: list[tuple[Cell, ...]] = []
    for level in levels:
        kld = level.get("kld")
        if kld:
            values = (
                kld.get("median"),
                kld.get("p90"),
                kld.get("p99"),
                kld.get("p999"),
                kld.get("max"),
                kld.get("floor"),
            )
            rows.append((Code(level["quant"]), *map(plain, values)))
    if not rows:
        return _other_measures(levels)
    text = "KL divergence over tokens, in nats."
    if any(row[-1] != NOT_MEASURED for row in rows):
        text += " The floor is the reference measured against itself: the engine cannot measure less."
    return (Text(text), *_measured_columns(head, rows), *_other_measures(levels))


def _other_measures(levels: list[Level]) -> tuple[Block, ...]:
    head = ("Level", "Top-5 agreement, %", "Δp, mean, %", "Δp, RMS, %", "Survival of the fine-tune, %")
    rows: list[tuple[Cell, ...]] = []
    for level in levels:
        top5, change, survival = level.get("top5"), level.get("dp"), level.get("survival")
        if top5 or change or survival:
            rows.append(
                (
                    Code(level["quant"]),
                    percent(top5["value"], top5.get("error")) if top5 else NOT_MEASURED,
                    percent(change["mean"], change.get("error")) if change else NOT_MEASURED,
                    percent(change.get("rms"), None) if change else NOT_MEASURED,
                    percent(survival["value"], survival.get("error")) if survival else NOT_MEASURED,
                )
            )
    if not rows:
        return ()
    text = "Δp is the change in the probability of the text's own next token."
    if any(level.get("survival") for level in levels):
        text += " Survival is how much of the fine-tune's effect on the base model the file kept; 100 % is all of it."
    return (Text(text), *_measured_columns(head, rows))


def _measured_columns(head: Sequence[str], rows: list[tuple[Cell, ...]]) -> tuple[Block, ...]:
    """A table without the columns in which nothing was measured."""
    kept = [i for i in range(len(head)) if any(row[i] != NOT_MEASURED for row in rows)]
    narrow = [tuple(row[i] for i in kept) for row in rows]
    return _table(tuple(head[i] for i in kept), narrow, set(range(1, len(kept))))


def _tasks(levels: list[Level]) -> tuple[Block, ...]:
    head = ("Level", "Task", "Metric", "Questions", "Reference", "File", "Retained, %", "95 % bounds, %")
    rows = [
        (
            Code(level["quant"]),
            task["name"],
            task["metric"],
            count(task["n"]),
            plain(task.get("reference")),
            plain(task.get("value")),
            percent(task.get("retained"), None),
            _bounds(task.get("low"), task.get("high")),
        )
        for level in levels
        for task in level.get("tasks") or ()
    ]
    return _table(head, rows, set(range(3, len(head))))


def _bounds(low: float | None, high: float | None) -> str:
    return NOT_MEASURED if low is None or high is None else f"{percent(low, None)} to {percent(high, None)}"


def _types(levels: list[Level]) -> tuple[Block, ...]:
    """Which types hold how many weights, and where a profile's wish was not met."""
    shares, counts = [], []
    for level in levels:
        types = sorted((level.get("types") or {}).items(), key=lambda item: -item[1])
        total = sum(weights for _, weights in types)
        name = Code(level["quant"])
        if types:
            shares.append((name, ", ".join(f"{kind} {share(weights, total)}" for kind, weights in types)))
        counts += [(name, Code(kind), count(weights), share(weights, total)) for kind, weights in types]
    blocks = list(_table(("Level", "Share of the weights in each type"), shares, set()))
    if counts:
        full = Table(("Level", "Type", "Weights", "Share of weights"), tuple(counts), frozenset({2, 3}))
        blocks.append(Fold("Weights of each type, counted", full))
    summary = [row for level in levels for row in _fallback_rows(level)]
    if summary:
        blocks.append(Text(SUBSTITUTES))
        head = ("Level", "Wanted", "Got", "Tensors", "Share of all weights", "Why")
        blocks += _table(head, summary, {3, 4})
        blocks += [_fallback_list(level) for level in levels if level.get("fallbacks")]
    return tuple(blocks)


def _fallback_rows(level: Level) -> list[tuple[Cell, ...]]:
    fallbacks, types = level.get("fallbacks") or [], level.get("types") or {}
    counts = Counter((fallback["wanted"], fallback["got"]) for fallback in fallbacks)
    rows: list[tuple[Cell, ...]] = []
    for (wanted, got), tensors in counts.most_common():
        why = {f.get("why") or "not said" for f in fallbacks if (f["wanted"], f["got"]) == (wanted, got)}
        held = [f.get("weights") for f in fallbacks if (f["wanted"], f["got"]) == (wanted, got)]
        part = "not known" if None in held or not types else share(sum(map(int, held)), sum(types.values()))  # type: ignore[arg-type]
        rows.append((Code(level["quant"]), Code(wanted), Code(got), count(tensors), part, "; ".join(sorted(why))))
    return rows


def _fallback_list(level: Level) -> Fold:
    fallbacks = level.get("fallbacks") or []
    rows = tuple((Code(f["tensor"]), Code(f["wanted"]), Code(f["got"]), f.get("why") or "not said") for f in fallbacks)
    tensors = "tensor" if len(rows) == 1 else "tensors"
    return Fold(f"{level['quant']}: {len(rows)} {tensors} in full", Table(("Tensor", "Wanted", "Got", "Why"), rows))


def _files(levels: list[Level]) -> list[tuple[Cell, ...]]:
    """One row a file; size and hash, which are the level's, stand in the row of its first file."""
    rows: list[tuple[Cell, ...]] = []
    for level in levels:
        digest = level.get("sha256")
        rows.append(
            (Code(level["quant"]), Code(level["file"]), count(level["bytes"]), Code(digest) if digest else "not known")
        )
        rows += [(Code(level["quant"]), Code(name), "", "") for name in level["files"] if name != level["file"]]
    return rows


def _table(head: tuple[str, ...], rows: Sequence[tuple[Cell, ...]], numeric: set[int]) -> tuple[Block, ...]:
    return (Table(head, tuple(rows), frozenset(numeric)),) if rows else ()
