"""QLoRA's base: which weights training saw in 4 bits, the base rounded so, and what the rounding cost."""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from converters.spec import HEAD
from exporter.errors import MergeError
from exporter.merge.qlora import by_layer, warning
from exporter.source.checkpoint import open_checkpoint
from exporter.source.files import FLOATS, open_file, open_model
from exporter.source.nf4 import BLOCK, SLICE, RoundTrip
from exporter.source.quantized import dequantized

if TYPE_CHECKING:
    from exporter.merge import Merged
    from exporter.run import Run
    from exporter.source.checkpoint import Checkpoint

EXPERT = re.compile(r"\.experts\.\d+\.")
ROUTER = re.compile(r"\.(?:(?:block_sparse_moe|mlp)\.gate|feed_forward\.router)\.weight")
NOT_LINEAR = re.compile(r"[._](?:embed(?:ding|_tokens\w*)?|wpe|norm)\.weight$|\.mlp\.router\.weight$")
"""Matrices of other modules than linear ones in every version: embeddings, norms by heads, the router of gpt-oss."""
PLAIN_ROUTERS = ("deepseek", "deepseek2")
"""Architectures whose routers are no linear modules in any version."""
FUSED_EXPERTS = ("gpt-oss", "granitemoe", "llama4", "qwen3vlmoe")
"""Architectures whose experts are none in any version, but where a trainer takes them apart."""
Progress = Callable[[int, int], None]
MATRIX = 2
FUSED = 5
"""The version of transformers from which on experts and routers are no linear modules, so bitsandbytes leaves them."""
PREFIXES = ("", "language_model.", "model.language_model.", "transformer.", "gpt_neox.")
"""What may stand before a module's name, or in place of its ``model.``, where the model is a part of a larger one."""
LAST = {
    "Gemma3nForCausalLM": re.compile(r"\.altup_unembed_projections\.\d+\.weight$"),
    "OlmoForCausalLM": re.compile(r"\.mlp\.down_proj\.weight$"),
}
"""Where the last parameter of a tied model is of a linear module: which transformers keeps in 16 bits by default."""


def round_trip(base: "Checkpoint", run: "Run") -> "Checkpoint | RoundTrip":
    """The base as the run's adapter is to be laid over it: as it is, or rounded to 4 bits and back.

    MergeError for a base that is stored quantized, or whose experts may or may not have been quantized in training.
    """
    if run.qlora_base == "full" or run.four_bit is None:
        return base
    stored = sorted(base.dtypes() - set(FLOATS))
    if stored:
        raise MergeError(
            f"{run.base}: the base is itself stored quantized ({stored[0]}): it is what training saw already, or "
            "training saw something else. Leave --qlora-base out, or give the 16-bit model with --base."
        )
    names, undecided = quantized(base.shapes(), run, base.stored())
    if undecided:
        raise MergeError(
            f"{run.path}: whether training saw {min(undecided)} in 4 bits is not known: experts and routers are linear "
            f"modules, which bitsandbytes quantizes, only before transformers {FUSED}, and from there on "
            "llm_int8_skip_modules is read otherwise. Leave --qlora-base out, or write the version of the training "
            "into the run's README.md, as a line such as '- Transformers 4.57.1'."
        )
    return RoundTrip(base, names, run.four_bit)


def quantized(
    shapes: Mapping[str, tuple[int, ...]], run: "Run", stored: Mapping[str, str]
) -> tuple[frozenset[str], frozenset[str]]:
    """Our names of the weights that bitsandbytes quantized in training, and of those of which that is not known.

    They are all linear modules but those that are left out; which are any, and left out, depends on transformers. A
    list of those that are left out may name modules as the files do: ``stored`` is what they call a weight.
    """
    settings = run.four_bit
    version = settings.transformers if settings is not None else None
    skipped = settings.skipped if settings is not None else None
    matrices = [name for name, shape in shapes.items() if len(shape) == MATRIX and name.endswith(".weight")]
    kept = {HEAD, _last(shapes, run)}
    told = _told_by_adapters(run) if any(map(EXPERT.search, matrices)) else None
    found: dict[bool | None, set[str]] = {True: set(), False: set(), None: set()}
    for name in matrices:
        stays = name in kept if skipped is None else _is_skipped({name, stored.get(name, name)}, skipped, version)
        is_linear = _is_linear(name, run.family.arch, told, version)
        known = False if stays or is_linear is False else None if stays is None or is_linear is None else True
        found[known].add(name)
    return frozenset(found[True]), frozenset(found[None])


def comparison_fields(
    run: "Run", source: "Merged", warnings: Sequence[str], progress: Progress | None = None
) -> dict[str, object]:
    """What rounding to 4 bits took, against what LoRA added, by layer: a report's ``qlora``, and all its warnings.

    Nothing where the run says nothing of 4 bits, or its base is itself stored quantized. Else the changed weights are
    read, some megabytes at a time: twice, and as often again where their deltas are not known yet.
    """
    if run.four_bit is None:
        return {}
    said = run.four_bit
    block = {
        "base": run.qlora_base,
        "because": said.because or "--qlora-base",
        "settings": said.said_by or "QLoRA's own (NF4 in blocks of 64, nested scales)",
    }
    why = said.unknown or (None if run.layers is None else "the adapter repeats layers (layer_replication).")
    if why is not None:
        return {"qlora": block | {"not_compared": why}}
    files = dequantized(open_model(run.base), run.config.get("quantization_config"), str(run.base))
    base = open_checkpoint(files, run.names, str(run.base))
    if not base.dtypes() <= set(FLOATS):
        return {}
    trip = RoundTrip(base, quantized(base.shapes(), run, base.stored())[0], said)
    layers = by_layer(_norms(trip, base, source, progress))
    new = warning(layers, over=run.qlora_base)
    rows = [{"layer": one.layer, "weights": one.weights, "delta": one.delta, "error": one.error} for one in layers]
    return {"qlora": block | {"layers": rows}, "warnings": [*warnings, *([new] if new else [])]}


def _norms(
    trip: RoundTrip, base: "Checkpoint", source: "Merged", progress: Progress | None
) -> Iterator[tuple[str, float, float]]:
    """Name, ‖Δ‖ and ‖NF4(W) - W‖ (Frobenius) of each quantized weight to which a product was added."""
    changes, shapes, known = source.changes.by_weight, base.shapes(), source.deltas()
    changed = [name for name in shapes if name in trip.quantized and name in changes and changes[name].factors]
    squares = dict.fromkeys(changed, 0.0)
    for k, name in enumerate(changed):
        for rows in _slices(shapes[name]):
            squares[name] += float((trip.read(name, *rows) - base.read(name, *rows)).norm()) ** 2
            if name not in known:
                source.read(name, *rows)
        if progress is not None:
            progress(k + 1, len(changed))
    deltas = source.deltas()
    return ((name, deltas[name].change ** 0.5, square**0.5) for name, square in squares.items())


def _slices(shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """First row and the one behind the last of each slice of whole blocks; a short rest goes with the one before."""
    rows, columns = shape
    step = max(SLICE // columns // BLOCK, 1) * BLOCK
    starts = list(range(0, max(rows - BLOCK + 1, 1), step))
    return list(zip(starts, [*starts[1:], rows], strict=True))


def _last(shapes: Mapping[str, tuple[int, ...]], run: "Run") -> str | None:
    """The weight of a tied model's last parameter, where that is of a linear module (``get_keys_to_not_convert``)."""
    pattern = LAST.get(str(run.config.get("architecture")))
    if pattern is None or run.config.get("tie_word_embeddings") is False:
        return None
    return max(filter(pattern.search, shapes), key=lambda name: [int(part) for part in re.findall(r"\d+", name)])


def _is_skipped(names: Collection[str], skipped: tuple[str, ...], version: int | None) -> bool | None:
    """Whether a weight's module stayed in 16 bits: one that the settings list; None: not known.

    An entry of the list is, in transformers 4, a module's name, or any part of one inside it, with a dot behind; since
    then (``should_convert_module``) the beginning of a module's name up to a dot, or its ending.
    """
    modules = [name.removesuffix(".weight") for name in names]
    bare = {one for module in modules for one in (module, module.removeprefix("model."))}
    pairs = [(prefix + one, entry) for prefix in PREFIXES for one in bare for entry in skipped]
    before = any(one == entry or f"{entry}." in one for one, entry in pairs)
    since = any(f"{one}.".startswith(f"{entry}.") or one.endswith(entry) for one, entry in pairs)
    if before != since and version is None:
        return None
    return since if version is None or version >= FUSED else before


def _is_linear(name: str, arch: str, told: bool | None, version: int | None) -> bool | None:  # noqa: FBT001
    """Whether the module of a matrix was a linear one in training; None: not known.

    ``told`` is what the adapters tell of experts, ``version`` that of transformers.
    """
    expert, router = EXPERT.search(name), ROUTER.search(name)
    if NOT_LINEAR.search(name) or (router and arch in PLAIN_ROUTERS):
        return False
    if not expert and not router:
        return True
    if told is not None and (expert or arch not in FUSED_EXPERTS):
        return told
    if expert and arch in FUSED_EXPERTS:
        return False
    return None if version is None else version < FUSED


def _told_by_adapters(run: "Run") -> bool | None:
    """Whether experts, and routers with them, were linear modules in training; None: the adapters do not tell.

    Their tensors are of experts one by one, or of fused parameters.
    """
    for adapter in run.adapters:
        if adapter.config.get("target_parameters"):
            return False
        if any(EXPERT.search(name) for name in open_file(adapter.weights, integers=True).tensors):
            return True
    return None
