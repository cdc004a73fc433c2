"""The shape of report.json: every field, its type, and whether it may be missing.

These types are the contract, and :func:`exporter.report.check_document` reads them: nothing is listed twice.
A field in ``NotRequired`` may be absent or null: then it was not measured, or does not apply. Further fields may
stand beside the ones named here; none of these changes its meaning unless ``schema`` rises.
"""

from typing import Literal, NotRequired, TypedDict

SCHEMA = 1
"""The version of the form that this program writes and reads."""

Status = Literal["pass", "fail", "undecided", "not measured", "error"]


class Weights(TypedDict):
    """The base weights: a folder or a model id. ``sha256`` is that of a folder."""

    name: NotRequired[str | None]
    path: NotRequired[str | None]
    sha256: NotRequired[str | None]


class Adapter(TypedDict):
    """One adapter laid over the base.

    ``weight`` is the factor it was given, ``given`` what ``--adapter`` named (null: it is the run's own), ``settings``
    the fields of adapter_config.json that say of what kind it is.
    """

    path: str
    sha256: NotRequired[str | None]
    method: NotRequired[str | None]
    weight: NotRequired[float | None]
    given: NotRequired[str | None]
    settings: NotRequired[dict[str, object] | None]


class SpecialToken(TypedDict):
    """A special token, and what names it."""

    id: int
    text: str
    source: str


class TokenizerFacts(TypedDict):
    """The tokenizer as written: ``chat_template`` is the file of the default one, null where there is none."""

    model: NotRequired[str | None]
    pre: NotRequired[str | None]
    tokens: NotRequired[int | None]
    special: NotRequired[dict[str, SpecialToken] | None]
    adds_bos: NotRequired[bool | None]
    chat_template: NotRequired[str | None]


class Vocabulary(TypedDict):
    """How many rows or tokens each part has, by what it is, and what the rules make of it."""

    rows: dict[str, int]
    rules: list[str]


class RunFacts(TypedDict):
    """What was exported."""

    path: str
    kind: Literal["lora", "full", "checkpoint"]
    trainer: NotRequired[str | None]
    architecture: NotRequired[str | None]
    family: NotRequired[str | None]
    parameters: NotRequired[int | None]
    left_out: NotRequired[list[str] | None]
    notes: NotRequired[list[str] | None]
    trainer_from: NotRequired[str | None]
    moe_lora_layout: NotRequired[str | None]
    qlora_base: NotRequired[str | None]
    dataset: NotRequired[dict[str, str] | None]
    tokenizer: NotRequired[TokenizerFacts | None]
    vocabulary: NotRequired[Vocabulary | None]
    base: NotRequired[Weights | None]
    adapters: NotRequired[list[Adapter] | None]


class LayerRounded(TypedDict):
    """Frobenius norms over a layer's trained weights: of what training added, of what rounding to 4 bits took."""

    layer: str
    weights: int
    delta: float
    error: float


class Qlora(TypedDict):
    """A run in 4 bits: what its adapter is laid over, which file says so, whose settings round the base, the cost."""

    base: str
    because: str
    settings: str
    layers: NotRequired[list[LayerRounded] | None]
    not_compared: NotRequired[str | None]


class Coverage(TypedDict):
    """Weights of one kind, in all layers: how many of them, and of the layers that have them, training changed."""

    kind: str
    changed: int
    weights: int
    layers_changed: NotRequired[int | None]
    layers: NotRequired[int | None]
    experts: NotRequired[bool | None]


class MergeTotals(TypedDict):
    """What the merge did: tensors counted; the largest ‖Δ‖/‖W‖ (Frobenius) over the changed weights."""

    adapter_tensors: NotRequired[int | None]
    used: NotRequired[int | None]
    weights_changed: NotRequired[int | None]
    unchanged: NotRequired[list[str] | None]
    largest_relative_delta: NotRequired[float | None]
    coverage: NotRequired[list[Coverage] | None]


class Check(TypedDict):
    """A proof of the finished files."""

    name: str
    status: Literal["pass", "fail", "skipped"]
    levels: NotRequired[list[str] | None]
    detail: NotRequired[str | None]


class MeasuredOn(TypedDict):
    """The text and the way of measuring; ``context`` is the length of a chunk in tokens."""

    text: str
    sha256: NotRequired[str | None]
    chunks: NotRequired[int | None]
    asked: NotRequired[int | None]
    context: NotRequired[int | None]
    tokens: NotRequired[int | None]
    mode: NotRequired[Literal["default", "llama.cpp"] | None]
    engine: NotRequired[str | None]


class Estimate(TypedDict):
    """A value and its standard error over chunks (absent where there is only one chunk)."""

    value: float
    error: NotRequired[float | None]


class Reference(TypedDict):
    """The unquantized model that the levels are measured against."""

    kind: str
    perplexity: NotRequired[Estimate | None]


class Perplexity(Estimate):
    """A level's perplexity, and its ratio to the reference's."""

    ratio: NotRequired[float | None]
    ratio_error: NotRequired[float | None]


class Divergence(TypedDict):
    """KL divergence from the reference, in nats per token; ``floor`` is that of the reference against itself."""

    mean: float
    error: NotRequired[float | None]
    median: NotRequired[float | None]
    p90: NotRequired[float | None]
    p99: NotRequired[float | None]
    p999: NotRequired[float | None]
    max: NotRequired[float | None]
    floor: NotRequired[float | None]


class ProbabilityChange(TypedDict):
    """The change in probability of the text's own next token."""

    mean: float
    rms: NotRequired[float | None]
    error: NotRequired[float | None]


class Task(TypedDict):
    """A task with answers; ``low`` and ``high`` are 95 % bounds of ``retained``."""

    name: str
    metric: str
    n: int
    reference: NotRequired[float | None]
    value: NotRequired[float | None]
    retained: NotRequired[float | None]
    low: NotRequired[float | None]
    high: NotRequired[float | None]


class Gate(TypedDict):
    """A condition that a level had to meet."""

    gate: str
    value: NotRequired[float | None]
    status: Literal["pass", "fail", "undecided", "not measured"]


class Fallback(TypedDict):
    """A tensor that was stored in another type than its profile wanted."""

    tensor: str
    wanted: str
    got: str
    why: NotRequired[str | None]
    weights: NotRequired[int | None]


class Level(TypedDict):
    """One level: its files, what is in them, and how good they are."""

    quant: str
    files: list[str]
    file: str
    bytes: int
    bpw: NotRequired[float | None]
    sha256: NotRequired[str | None]
    types: NotRequired[dict[str, int] | None]
    fallbacks: NotRequired[list[Fallback] | None]
    perplexity: NotRequired[Perplexity | None]
    kld: NotRequired[Divergence | None]
    top1: NotRequired[Estimate | None]
    top5: NotRequired[Estimate | None]
    dp: NotRequired[ProbabilityChange | None]
    survival: NotRequired[Estimate | None]
    tasks: NotRequired[list[Task] | None]
    gates: NotRequired[list[Gate] | None]
    verdict: Status
    error: NotRequired[str | None]


class ProjectorFile(TypedDict):
    """The file of vision tower and projector, beside the text model's; ``types`` counts weights.

    ``processor`` has the SHA-256 of each of the image processor's files, of which the file's metadata are made too.
    """

    quant: str
    file: str
    bytes: int
    sha256: str
    types: dict[str, int]
    fallbacks: NotRequired[list[Fallback] | None]
    processor: NotRequired[dict[str, str] | None]


class Document(TypedDict):
    """The whole of report.json. ``run`` and ``merge`` are missing where files were measured without an export."""

    schema: int
    ggufx: str
    created: str
    command: list[str]
    folder: NotRequired[str | None]
    run: NotRequired[RunFacts | None]
    merge: NotRequired[MergeTotals | None]
    qlora: NotRequired[Qlora | None]
    checks: NotRequired[list[Check] | None]
    measured_on: NotRequired[MeasuredOn | None]
    reference: NotRequired[Reference | None]
    projector: NotRequired[ProjectorFile | None]
    levels: list[Level]
    warnings: NotRequired[list[str] | None]
