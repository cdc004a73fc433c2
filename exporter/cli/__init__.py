"""The commands: the only place that prints, the only one that catches."""

import errno
import os
import sys
from functools import partial
from io import StringIO, TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from exporter.cli.options import RUN, options, takes
from exporter.cli.steps import Steps, stoppable
from exporter.errors import GgufxError, ProfileError
from exporter.text import json_text, printable, printable_lines

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exporter.profiles import Profile
    from exporter.report import Document

FAILED, REFUSED, INTERRUPTED = 1, 2, 130


class _StdoutError(OSError):
    """What was to be printed could not be: stdout is full, or closed."""


class _Command(click.Command):
    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401  (a command's status)
        """Run it. GgufxError for a file that fails where nothing said so, which is not to be taken for stdout."""
        try:
            return super().invoke(ctx)
        except _StdoutError:
            raise
        except OSError as error:
            what = f"{error.filename or 'a file'}: cannot be read or written ({error.strerror or error})"
            raise GgufxError(f"{what}. Check it and its disk, and run again.") from error


class _Group(click.Group):
    command_class = _Command


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="ggufx", prog_name="ggufx")
def cli() -> None:
    """From a fine-tuning run to quantized GGUF files, each level measured."""


@cli.command()
@click.argument("run")
@takes("quant", "out", *RUN, "mmproj", "pre", "text", "chunks", "compat", "no_verify", "no_fallback")
@takes("prove", "overwrite", "threads", "scratch", "quiet", "json")
def export(run: str, quant: tuple[str, ...], out: Path | None, **asked: Any) -> int:  # noqa: ANN401  (options, by name)
    """Merge, convert, quantize, verify, report a RUN.

    A RUN is a folder or a Hub id. More levels of the same run may be added to a folder later: they are measured as
    its first ones were.
    """
    from exporter.pipeline import export as run_export  # noqa: PLC0415  (slow to import)

    with Steps(quiet=asked["quiet"]) as steps:
        document, folder = run_export(run, _profiles(quant), out, options=options(asked), progress=steps)
    _print_report(document, as_json=asked["as_json"], where=folder / "report.html")
    return _status(document)


@cli.command()
@click.argument("run")
@takes(*RUN, "pre", "json")
def inspect(run: str, *, as_json: bool, **asked: Any) -> None:  # noqa: ANN401
    """Say what a RUN is.

    Trainer, family, base, adapter, licence, tokenizer with its special tokens and chat template, problems.
    """
    from exporter.inspect import inspect_run, render  # noqa: PLC0415

    facts = inspect_run(run, **asked)
    _say(json_text(facts) if as_json else render(facts))


@cli.command()
@click.argument("run")
@takes("quant", *RUN, "mmproj", "pre", "no_fallback", "json")
def plan(run: str, quant: tuple[str, ...], *, as_json: bool, **asked: Any) -> None:  # noqa: ANN401
    """Print every decision of an export.

    No weight is read, and nothing is written.
    """
    from exporter.pipeline import prepare  # noqa: PLC0415
    from exporter.plan.show import as_document, render  # noqa: PLC0415

    of, _, made = prepare(run, _profiles(quant), options(asked | {"no_verify": True}))
    _say(json_text(as_document(made)) if as_json else render(of, made))


@cli.command()
@click.argument("run")
@takes("merged", "check", "dtype", *RUN, "overwrite", "scratch", "quiet", "json")
def merge(run: str, out: Path | None, *, check: bool, dtype: str, **asked: Any) -> int:  # noqa: ANN401
    """Write a RUN's merged checkpoint, or check it.

    With --out, a Hugging Face checkpoint: config, tokenizer, licence and weights in the base's own names and layout,
    and merge.json, a record of the merge. With --check, how much every weight changed, and whether PEFT's own layers
    make the same of a sample of modules; the exit status is 1 where none of the sample could be compared.
    """
    from exporter.checkpoint import Wish, with_changed_tower, write_checkpoint  # noqa: PLC0415  (slow to import)
    from exporter.inputs import hash_inputs  # noqa: PLC0415
    from exporter.merge_check import check_merge, require_passed  # noqa: PLC0415
    from exporter.merge_check.show import render, render_written  # noqa: PLC0415
    from exporter.pipeline import opened, said_of_merge  # noqa: PLC0415
    from exporter.plan import check_weights  # noqa: PLC0415

    if check is (out is not None):
        raise click.UsageError("Give either --out DIR or --check, one of the two.")
    with Steps(quiet=asked["quiet"]) as steps:
        of, source = with_changed_tower(*opened(run, options(asked)))
        check_weights(of, source.shapes())
        if out is None:
            document = check_merge(of, source, partial(steps, "check"))
        else:
            wish = Wish(dtype, overwrite=asked["overwrite"], scratch=asked["scratch"])
            hashes = partial(hash_inputs, of, source)
            document = write_checkpoint(of, source, out, wish, progress=partial(steps, "write"), hashes=hashes)
        document |= said_of_merge(of, source, steps)
    text = render(document) if check else render_written(document)
    _say(json_text(document) if asked["as_json"] else text)
    if check:
        require_passed(document)
    return FAILED if document.get("status") == "unproved" else 0


@cli.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@takes("against", *RUN, "pre", "text", "threads", "quiet", "json")
def check(file: Path, against: str, **asked: Any) -> None:  # noqa: ANN401
    """Prove a finished FILE against the run it was made from.

    That llama.cpp loads it; its fields, and a part of each tensor, byte by byte; its tokens, and the ids of thousands
    of texts (with --text, of that too); its chat template, by a second engine; one BOS; and, where it is not quantized,
    its logits against transformers with the live adapter. What cannot be run is skipped, with the reason. Status 2: a
    proof failed.
    """
    from exporter.check import Asked, check_file, require_passed  # noqa: PLC0415  (slow to import)
    from exporter.check.show import as_document, render  # noqa: PLC0415
    from exporter.pipeline import cores, prepare  # noqa: PLC0415

    with Steps(quiet=asked["quiet"]) as steps:
        what = prepare(against, [], options(asked | {"no_verify": True, "prove": True}))
        steps("check", 0, 1)
        checks = check_file(what, file, Asked(asked["text"], threads=cores(asked["threads"])))
        steps("check", 1, 1)
    document = as_document(file, against, checks)
    _say(json_text(document) if asked["as_json"] else render(checks))
    require_passed(file, checks)


@cli.command()
@click.argument("reference")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False))
@takes("text", "chunks", "compat", "threads", "scratch", "quiet", "json")
def verify(reference: str, files: tuple[Path, ...], **asked: Any) -> int:  # noqa: ANN401
    """Measure GGUF FILES against a REFERENCE.

    The REFERENCE is a GGUF file, or a run or Hugging Face folder, which is converted to 16 bits for it.
    """
    from exporter.pipeline import verify_files  # noqa: PLC0415

    with Steps(quiet=asked["quiet"]) as steps:
        document = verify_files(reference, files, options(asked), steps)
    _print_report(document, as_json=asked["as_json"], where=None)
    return _status(document)


@cli.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
@takes("json")
def report(folder: Path, *, as_json: bool) -> None:
    """Render the report.json of a FOLDER again."""
    from exporter.report import read_report, write_report  # noqa: PLC0415

    document = read_report(folder)
    place = folder if folder.is_dir() else folder.parent
    write_report(document, place)
    _print_report(document, as_json=as_json, where=place / "report.html")


@cli.command()
@takes("json")
def families(*, as_json: bool) -> None:
    """List the supported families and models.

    Of each, the architectures in config.json, and which models have them.
    """
    from converters import ALL, about  # noqa: PLC0415

    if as_json:
        rows = [{"family": one.name, "arch": one.arch, "architectures": list(one.architectures)} for one in ALL]
        _say(json_text([row | {"about": about(one)} for row, one in zip(rows, ALL, strict=True)]))
        return
    for one in ALL:
        _say(f"{one.name}: {', '.join(one.architectures)}\n    {about(one)}")


@cli.command()
@click.argument("name", required=False)
@takes("json")
def profiles(name: str | None, *, as_json: bool) -> None:
    """List the levels; with a NAME, print that profile's own text."""
    from exporter.profiles import load_profile, profile_names  # noqa: PLC0415

    chosen = [load_profile(one) for one in ((name,) if name else profile_names())]
    if as_json:
        rows = [
            {"name": one.name, "file_type": one.file_type, "default": one.default, "text": one.text} for one in chosen
        ]
        _say(json_text(rows[0] if name else rows))
    elif name:
        _say(chosen[0].text, end="")
    else:
        width = max(len(one.name) for one in chosen)
        for one in chosen:
            _say(f"{one.name:<{width}}  {one.default:<5}  {len(one.rules)} rules")


def _profiles(quants: tuple[str, ...]) -> "Sequence[Profile]":
    """The profiles of ``--quant``; ProfileError for one named twice."""
    from exporter.profiles import load_profile  # noqa: PLC0415

    quant = ",".join(quants)
    found = [load_profile(name.strip()) for name in quant.split(",") if name.strip()]
    names = [profile.name for profile in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or not names:
        raise ProfileError(f"--quant {quant}: {f'{twice[0]} is named twice' if twice else 'names no level'}.")
    return found


def _print_report(document: "Document", *, as_json: bool, where: Path | None) -> None:
    """A report on stdout: the document, or its table and the path of its page."""
    from exporter.report import render_table  # noqa: PLC0415
    from exporter.report.compose import nearest  # noqa: PLC0415

    if as_json:
        _say(json_text(document))
        return
    _say(render_table(document), end="")
    if where is not None:
        _say(f"\n{printable(nearest(where))}")


def _say(text: str, end: str = "\n") -> None:
    """Text on stdout; nothing in it steers the terminal."""
    try:
        click.echo(printable_lines(text) + end, nl=False)
    except OSError as error:
        raise _StdoutError(error.errno, error.strerror) from error


def _status(document: "Document") -> int:
    """The exit status: 0, or 1 where a level failed or could not be measured."""
    return FAILED if any(level["verdict"] in {"fail", "undecided", "error"} for level in document["levels"]) else 0


def main() -> None:
    """Run a command; end with the contract's exit status."""
    if isinstance(sys.stdout, TextIOWrapper):  # a path need not be text: print it as stderr does, not fail
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        status = stoppable(partial(cli.main, standalone_mode=False)) or 0
        sys.stdout.flush()
        sys.exit(status)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        shown = StringIO()
        error.show(shown)
        click.echo(printable_lines(shown.getvalue()), nl=False, err=True)
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted: what was finished and has its name is kept, what was not is removed", err=True)
        sys.exit(INTERRUPTED)
    except GgufxError as error:
        # Further lines are set in, so that none passes for a message of its own.
        click.echo("error: " + printable_lines(str(error)).replace("\n", "\n  "), err=True)
        sys.exit(REFUSED)
    except OSError as error:
        # What a command reads and writes is none of these by now: this is stdout, full or closed.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if error.errno != errno.EPIPE:
            click.echo(f"error: stdout: {error.strerror}. What was made is made.", err=True)
        sys.exit(FAILED)
