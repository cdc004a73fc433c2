"""Every decision of an export, in one value."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

from converters.spec import EMBEDDING, HEAD
from exporter.errors import PlanError
from exporter.header import header
from exporter.plan.jobs import placed, size
from exporter.plan.metadata import Identity, general, harmless, identify, of_model
from exporter.plan.projector import of_text, plan_projector
from exporter.plan.tensors import Shapes, Tensor, lay_out
from exporter.plan.values import Job, Output, Plan, Value, padded
from exporter.profiles import Choice, Facts, Profile, choose_types, load_profile
from exporter.tokenizer import count_tokens, find_tokenizer_files, read_files, read_tokenizer
from exporter.tokenizer.files import of_tokens
from exporter.tokenizer.made import is_made, with_tokenizer_json
from exporter.vocabulary import Ledger, check, weigh

if TYPE_CHECKING:
    from exporter.merge import Merged
    from exporter.run import Run
    from exporter.tokenizer import Tokenizer
    from exporter.tokenizer.files import TokenizerFiles


@dataclass(frozen=True)
class Wishes:
    """What was asked of a plan beside the levels."""

    measured: bool = True
    fallbacks: bool = True
    pre: str | None = None
    """llama.cpp's name of the pre-tokenizer, where the tokenizer's own structure shall not decide."""


def build(run: "Run", profiles: Sequence[Profile], source: "Merged", wishes: Wishes = Wishes()) -> Plan:
    """Decide everything about an export. GgufxError where run, tokenizer, source and profiles do not fit together.

    Args:
        run: the run.
        profiles: the levels asked for, in order.
        source: the finished weights, of which only names, shapes and stored types are asked.
        wishes: what is to happen beside.
    """
    shapes = of_text(run, every := _shapes(run, source))
    config = dict(run.config) | {"vocab_size": shapes[EMBEDDING][0]}
    tensors, zeros = lay_out(run.family, config, shapes)
    ledger = _vocabulary(run, source, files := read_files(run.tokenizer_files))
    tokenizer = read_tokenizer(files, config, shapes[EMBEDDING][0], run.family.tokens, pre=wishes.pre)
    reference = _reference(profiles, source.dtypes()) if wishes.measured else None
    everything = _with_reference(profiles, reference)
    model = of_model(run.family, config)
    facts, sizes = _facts(run.family.arch, model, tensors), {tensor.name: tensor.shape for tensor in tensors}
    choices = [choose_types(profile, sizes, facts) for profile in everything]
    jobs = placed(tensors, choices)
    identity = identify(run, tensors)
    metadata, notes = _metadata(run, identity, model, tokenizer)
    outputs = [_output(k, profile, choices[k], (jobs, identity, metadata)) for k, profile in enumerate(everything)]
    plan = Plan(
        name=identity.name,
        arch=run.family.arch,
        jobs=jobs,
        outputs=tuple(outputs),
        levels=len(profiles),
        reference=reference,
        parameters=sum(job.weights for job in jobs if job.sources),
        zeros=zeros,
        left_out=source.left_out,
        notes=(*run.notes, *source.notes, *_head_note(run, source), *notes),
        warnings=(*run.warnings, *tokenizer.warnings, *(run.vision.warnings if run.vision else ())),
        tokenizer=tokenizer,
        vocabulary=ledger,
        projector=plan_projector(run, identity, every) if run.vision else None,
    )
    return plan if wishes.fallbacks else _without_fallbacks(plan)


def check_weights(run: "Run", shapes: Shapes) -> None:
    """PlanError where finished weights are not those of config.json: one is missing, of another shape, or too many."""
    text = of_text(run, shapes)
    text = {name: shape for name, shape in text.items() if name != HEAD or run.family.head != "never"}
    lay_out(run.family, dict(run.config) | {"vocab_size": text[EMBEDDING][0]}, text)


def _shapes(run: "Run", source: "Merged") -> dict[str, tuple[int, ...]]:
    """The finished weights' shapes. PlanError for a head of its own that the family's graph cannot hold."""
    if not source.tied and run.family.head == "never":
        raise PlanError(
            f"{run.path}: its head differs from its embedding, and llama.cpp's graph of {run.family.arch} has only one "
            "tensor for both. Train embedding and head alike (PEFT: ensure_weight_tying), or neither."
        )
    return source.shapes()


def _metadata(
    run: "Run", identity: Identity, model: Mapping[str, Value], tokenizer: "Tokenizer"
) -> tuple[dict[str, Value], tuple[str, ...]]:
    """What all files say but for their level, and a note where the name had to be spelled otherwise."""
    tokens = cast("tuple[str, ...]", tokenizer.metadata["tokenizer.ggml.tokens"])
    name, notes = harmless(identity.name, tokens)
    return {**general(identity, run), "general.name": name, **model, **tokenizer.metadata}, notes


def _vocabulary(run: "Run", source: "Merged", files: "TokenizerFiles") -> Ledger:
    """The vocabulary's ledger. MergeError or TokenizerError where its rules refuse the run."""
    counts = source.rows()
    base = with_tokenizer_json(find_tokenizer_files(run.base)) if run.adapters else None
    size = run.config.get("vocab_size")
    found = [file for file in of_tokens(run.tokenizer_files) if not is_made(file)]
    own = not run.adapters or any(file.parent != run.base for file in found)
    tokens = replace(count_tokens(files, counts.rows, base), own=own)
    ledger = weigh(replace(counts, tokens=tokens, config=size if isinstance(size, int) else None))
    check(ledger, run.path)
    return ledger


def _head_note(run: "Run", source: "Merged") -> tuple[str, ...]:
    """A note where training gave a tied model a head of its own, which makes its files larger."""
    shape = source.shapes().get(HEAD)
    trained = any(name in source.changes.by_weight for name in (EMBEDDING, HEAD))
    one = HEAD not in source.stored() or run.config.get("tie_word_embeddings") is True
    if shape is None or not trained or not one or run.family.head == "always":
        return ()
    rows, columns = shape
    note = (
        "head and embedding are one tensor in the base, and training made them differ: the files hold a head of their "
        f"own (output.weight), {rows * columns:,} weights more ({rows} x {columns})"
    )
    return (note,)


def _with_reference(profiles: Sequence[Profile], reference: str | None) -> list[Profile]:
    """The levels asked for, then the reference where it is none of them."""
    names = {profile.name for profile in profiles}
    return [*profiles, *(load_profile(name) for name in (reference,) if name is not None and name not in names)]


def _reference(profiles: Sequence[Profile], dtypes: set[str]) -> str:
    """The level everything is measured against: f32 if asked for, f16 where all weights are stored so, else bf16."""
    if any(profile.name == "f32" for profile in profiles):
        return "f32"
    return "f16" if dtypes == {"F16"} else "bf16"


def _facts(arch: str, model: Mapping[str, Value], tensors: Sequence[Tensor]) -> Facts:
    heads = _first(model[f"{arch}.attention.head_count"])
    return Facts(
        arch=arch,
        layers=_first(model[f"{arch}.block_count"]),
        heads=heads,
        kv_heads=_first(model.get(f"{arch}.attention.head_count_kv", heads)),
        experts=_first(model.get(f"{arch}.expert_count", 0)),
        tied=all(tensor.name != "output.weight" for tensor in tensors),
    )


def _first(value: Value) -> int:
    """A number, or the first of an array of them, one for each layer."""
    return int(cast("int", value[0] if isinstance(value, tuple) else value))


def _output(
    k: int,
    profile: Profile,
    choices: Mapping[str, Choice],
    common: tuple[tuple[Job, ...], Identity, Mapping[str, Value]],
) -> Output:
    """The k-th file, with its sizes."""
    jobs, identity, shared = common
    metadata = dict(shared) | {"general.file_type": profile.file_type_id}
    sizes = [size(job, job.types[k]) for job in jobs]
    return Output(
        level=profile.name,
        file=identity.file(profile.name),
        metadata=metadata,
        choices=choices,
        data_bytes=sum(padded(one) for one in sizes),
        header_bytes=len(header(metadata, [(job.tensor, job.axes or job.shape, job.types[k]) for job in jobs])),
        tensor_bytes=sum(sizes),
    )


def _without_fallbacks(plan: Plan) -> Plan:
    """The plan; PlanError where a level asked for has a tensor whose rows force another type."""
    asked = [(output.level, plan.fallbacks(k)) for k, output in enumerate(plan.outputs[: plan.levels])]
    asked += [("--mmproj", plan.projector.fallbacks)] if plan.projector else []
    for level, fallbacks in asked:
        if fallbacks:
            one = fallbacks[0]
            raise PlanError(
                f"{level}: {one.tensor} cannot be {one.wanted} ({one.why}) and would become {one.got}; "
                f"so would {len(fallbacks) - 1} more. Leave out --no-fallback, or choose a level such as q8_0."
            )
    return plan
