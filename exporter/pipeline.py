"""From a training run to measured files: the one place that knows the order of the steps."""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from exporter.check import Asked, prove
from exporter.errors import EngineError, OutputError
from exporter.inputs import hash_inputs, require_as_opened
from exporter.merge import Merged
from exporter.outputs import (
    file_hash,
    gguf_facts,
    made_folder,
    replaced_when_done,
    require_absent,
    require_files,
    require_space,
    require_unchanged,
    scratch_folder,
    shards,
)
from exporter.plan import Plan, Wishes, build
from exporter.profiles import Profile
from exporter.report import Document, write_report
from exporter.report.compose import (
    export_blocks,
    finished,
    level_block,
    nearest,
    new_document,
    projector_fields,
    run_block,
)
from exporter.report.grow import FILES, earlier_report, grown
from exporter.run import Run, open_run, with_projector
from exporter.source import comparison_fields, open_source
from exporter.verify import Options as Measuring
from exporter.verify import level_fields, measure, measured_on_fields, reference_fields
from exporter.verify.text import read_text, require_length
from exporter.verify.vocabulary import require_one_of
from exporter.writer import write

Progress = Callable[[str, int, int], None]  # called with a step's name, how much of it is done, and how much there is
CHUNKS = 40
REPORT_BYTES = 4_000_000  # room that is kept for a report: more than one of dozens of levels takes


@dataclass(frozen=True)
class Options:
    """What a user may ask beside the levels."""

    base: str | None = None
    revision: str | None = None
    base_revision: str | None = None
    adapters: tuple[str, ...] = ()
    packing: str | None = None
    qlora_base: str = "full"
    mmproj: str | None = None
    pre: str | None = None
    text: Path | None = None
    chunks: int | None = None
    mode: Literal["default", "llama.cpp"] = "default"
    threads: int = 0
    scratch: Path | None = None
    verify: bool = True
    overwrite: bool = False
    fallbacks: bool = True
    prove: bool = False
    command: tuple[str, ...] = ()


def export(
    path: str, profiles: Sequence[Profile], out: Path | None, *, options: Options, progress: Progress
) -> tuple[Document, Path]:
    """Turn a training run into quantized GGUF files, and say how good each one is.

    Args:
        path: the run's folder or Hub id.
        profiles: the levels, each once.
        out: the folder of the files; None: ``<run>-gguf`` in the current one.
        options: everything else.
        progress: told how far each step is.

    Returns:
        The report, and the folder that holds it with the files. GgufxError: no file has its name.
    """
    run, source, plan = prepare(path, profiles, options)
    folder = (out or Path(f"{run.path.name}-gguf")).absolute()
    with made_folder(folder), scratch_folder(options.scratch or folder) as scratch:
        hashes = hash_inputs(run, source)
        files, apart = _places(plan, folder, scratch)
        require_absent(files, overwrite=options.overwrite)
        earlier = _earlier(folder, (run, hashes), plan, options)
        with replaced_when_done(files, overwrite=options.overwrite) as partial:
            made = _made((run, source, plan), (partial, apart), options, progress)
            require_as_opened(run, source)
        fields = new_document(options.command) | export_blocks(run, source, plan, hashes) | made
        fields["folder"] = nearest(folder)
        fields |= comparison_fields(run, source, fields["warnings"], _step("compare", progress))
        document = _report(fields, earlier, folder)  # of what stands now, should the measuring be cut short
        if plan.reference and options.verify:
            reference = apart[0] if apart else folder / plan.output(plan.reference).file
            levels, compared = fields["levels"], (plan.reference, reference, files[: plan.levels])
            try:
                fields |= measured(levels, compared, _measuring(options, earlier), progress)
            except EngineError as error:  # the files are made and proved: they stay, and the report says why
                fields["levels"] = [level | {"verdict": "error", "error": str(error)} for level in levels]
            document = _report(fields, earlier, folder)
    return document, folder


def _made(
    what: tuple[Run, Merged, Plan], files: tuple[list[Path], list[Path]], options: Options, progress: Progress
) -> dict[str, Any]:
    """Write and prove the files, the projector's too; the document's blocks about them."""
    run, source, plan = what
    partial, apart = files
    texts, eyes = [*partial[: plan.levels], *apart], partial[plan.levels :]
    threads, told = cores(options.threads), _step("write", progress)
    write(plan, source, texts, threads=threads, progress=told)
    if plan.projector is not None:
        write(plan.projector, source, eyes, threads=threads, progress=told)
    asked = Asked(options.text, logits=options.prove, threads=options.threads, projectors=eyes)
    checks = prove(run, plan, texts, _step("prove", progress), asked=asked)
    levels = [level_block(plan, k, file_hash(file)) for k, file in enumerate(texts[: plan.levels])]
    processor = {file.name: file_hash(file) for file in (run.vision.processor if run.vision else ())}
    return {"checks": checks, "levels": levels, **projector_fields(plan, [*map(file_hash, eyes)], processor)}


def prepare(path: str, profiles: Sequence[Profile], options: Options) -> tuple[Run, Merged, Plan]:
    """The run, its finished weights, and the plan: everything before a tensor is read."""
    run, source = opened(path, options)
    wishes = Wishes(measured=options.verify or options.prove, fallbacks=options.fallbacks, pre=options.pre)
    plan = build(run, profiles, source, wishes)
    if options.verify:
        text = read_text(options.text)  # a text that cannot be read, or is too short, is found before the work
        require_length(text, run.tokenizer_files["tokenizer.json"], options.mode)
    return run, source, plan


def opened(path: str, options: Options) -> tuple[Run, Merged]:
    """A run as the options say more of it, and its finished weights."""
    run = open_run(
        path,
        base=options.base,
        revision=options.revision,
        base_revision=options.base_revision,
        adapters=options.adapters,
        packing=options.packing,
        qlora_base=options.qlora_base,
    )
    run = run if options.mmproj is None else with_projector(run, options.mmproj)
    return run, open_source(run)


def said_of_merge(run: Run, source: Merged, progress: Progress) -> dict[str, object]:
    """What a reader of a merge should know beside its figures: of the base, notes, warnings, QLoRA's rounding.

    As an export's report has it. Reads the changed weights again where the run was trained over 4 bits.
    """
    rounded = f", rounded to {run.rounded} as training saw it" if run.rounded else ""
    kept = () if run.adapters else (f"there is no adapter: weights stored as {', '.join(sorted(source.dtypes()))}",)
    told: dict[str, object] = {"over": f"{run.base_name}{rounded}", "notes": [*run.notes, *source.notes, *kept]}
    told["warnings"] = list(run.warnings)
    return told | comparison_fields(run, source, run.warnings, _step("compare", progress))


def measured(
    levels: Sequence[dict[str, Any]], files: tuple[str, Path, Sequence[Path]], measuring: Measuring, progress: Progress
) -> dict[str, Any]:
    """Measure files, and put what was found into their levels.

    Args:
        levels: one block for each file; filled in.
        files: the reference's kind, the reference, and the files.
        measuring: on what, and how.
        progress: told how far it is.

    Returns:
        The document's blocks about the measurement.

    Raises:
        EngineError: llama.cpp could not evaluate the reference, or the text is too short.
    """
    kind, reference, candidates = files
    found = measure(reference, candidates, measuring, _step("measure", progress))
    for block, level in zip(levels, found.levels, strict=True):
        block.update(level_fields(found, level), verdict="error" if level.error else "pass")
    return {"measured_on": measured_on_fields(found), "reference": {"kind": kind, **reference_fields(found)}}


def verify_files(reference: str, files: Sequence[Path], options: Options, progress: Progress) -> Document:
    """Measure GGUF files against a reference: a GGUF file, or a Hugging Face folder that is converted for it.

    Returns:
        A document as of an export, without what only an export knows.
    """
    place = nullcontext(Path()) if Path(reference).is_file() else scratch_folder(options.scratch or Path.cwd())
    with place as scratch:
        kind, file = _as_gguf(reference, files, scratch, (options, progress))
        levels: list[dict[str, Any]] = [
            {
                **dict(zip(("quant", "bpw"), gguf_facts(path), strict=True)),
                "files": [str(shard) for shard in shards(path)],
                "file": str(path),
                "bytes": sum(shard.stat().st_size for shard in shards(path)),
                "verdict": "error",
            }
            for path in files
        ]
        blocks = measured(levels, (kind, file, files), replace(_measuring(options), called=reference), progress)
    return finished(new_document(options.command) | blocks | {"levels": levels, "warnings": []})


def cores(threads: int) -> int:
    """How many threads to work with: those asked for, else all cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    return threads or (len(affinity(0)) if affinity else os.cpu_count() or 1)


def _places(plan: Plan, folder: Path, scratch: Path) -> tuple[list[Path], list[Path]]:
    """Where levels and projector go, and where a reference of its own; OutputError where names or disks say no."""
    levels, apart = plan.outputs[: plan.levels], plan.outputs[plan.levels :]
    levels += plan.projector.outputs if plan.projector else ()
    files = [folder / output.file for output in levels]
    require_files([*files, *(folder / name for name in FILES)])
    needed, needed_apart = (sum(output.bytes for output in outputs) for outputs in (levels, apart))
    one_disk = folder.stat().st_dev == scratch.stat().st_dev
    require_space(folder, needed + REPORT_BYTES + (needed_apart if one_disk else 0))
    require_space(scratch, needed_apart)
    return files, [scratch / output.file for output in apart]


def _report(fields: Mapping[str, Any], earlier: Document | None, folder: Path) -> Document:
    """The document of an export and of the folder's earlier levels, written; OutputError where that fails."""
    document = finished(grown(dict(fields), earlier))
    try:
        write_report(document, folder)
    except OutputError as error:
        files = ", ".join(level["file"] for level in fields["levels"])
        raise OutputError(f"{error} The files are made and whole, in {folder}: {files}.") from error
    return document


def _measuring(options: Options, earlier: Document | None = None) -> Measuring:
    """What to measure on: as asked, else as the folder's earlier levels were."""
    before: Mapping[str, Any] = (earlier.get("measured_on") if earlier else None) or {}
    chunks = options.chunks or before.get("chunks") or CHUNKS
    return Measuring(options.text, chunks, options.mode, threads=cores(options.threads))


def _as_gguf(reference: str, files: Sequence[Path], scratch: Path, how: tuple[Options, Progress]) -> tuple[str, Path]:
    """A reference's type and file; a folder is written to the scratch folder in 16 bits, if a file may be its own."""
    path, (options, progress) = Path(reference), how
    if path.is_file():
        return gguf_facts(path)[0], path
    if path.suffix == ".gguf":
        raise EngineError(f"{path}: there is no such file, expected the reference, a GGUF file. Mend its path.")
    run, source, plan = prepare(reference, [], options)
    tokens: tuple[str, ...] = plan.tokenizer.metadata["tokenizer.ggml.tokens"]  # type: ignore[assignment]
    require_one_of(reference, tokens, files)
    file = scratch / plan.outputs[0].file
    require_space(scratch, plan.outputs[0].bytes)
    write(plan, source, [file], threads=cores(options.threads), progress=_step("write", progress))
    prove(run, plan, [file], _step("prove", progress))
    return plan.outputs[0].level, file


def _earlier(folder: Path, inputs: tuple[Run, Mapping[Path, str]], plan: Plan, options: Options) -> Document | None:
    """The report of earlier levels of the same run, if the folder holds one."""
    run, hashes = inputs
    asked: dict[str, Any] = {}
    if options.verify:
        text = read_text(options.text)
        asked = {"sha256": text.sha256, "text": text.name, "mode": options.mode, "chunks": options.chunks}
        asked["reference"] = plan.reference
    replaced = {output.level for output in plan.outputs[: plan.levels]} if options.overwrite else set()
    report = earlier_report(folder, run_block(run, plan, hashes), asked, replaced=replaced)
    for level in report["levels"] if report else []:
        if level["quant"] not in replaced:
            require_unchanged(folder / level["file"], level["bytes"], level.get("sha256"))
    seen = report.get("projector") if report and plan.projector is None else None
    if seen:
        require_unchanged(folder / seen["file"], seen["bytes"], seen["sha256"])
    return report


def _step(name: str, progress: Progress) -> Callable[[int, int], None]:
    return lambda done, total: progress(name, done, total)
