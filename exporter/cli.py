"""The commands: the only file that prints, the only one that catches."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from exporter.errors import GgufxError, ProfileError

if TYPE_CHECKING:
    from exporter.pipeline import Options, Progress
    from exporter.plan import Plan
    from exporter.profiles import Profile
    from exporter.report import Document

FAILED, REFUSED, INTERRUPTED = 1, 2, 130
Command = TypeVar("Command", bound=Callable[..., Any])

OPTIONS: Mapping[str, Callable[[Command], Command]] = {
    "quant": click.option("--quant", default="q4_k_m", metavar="LEVEL[,…]", help="Levels, or paths of TOML profiles.", show_default=True),
    "out": click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Output folder; without it <run>-gguf here."),
    "base": click.option("--base", metavar="DIR_OR_ID", help="The base model, in place of the one the adapter names."),
    "base_revision": click.option("--base-revision", metavar="REV", help="Hub revision of the base."),
    "revision": click.option("--revision", metavar="REV", help="Hub revision of the run."),
    "text": click.option("--text", type=click.Path(path_type=Path), metavar="FILE", help="Evaluation text; without it one that comes along."),
    "chunks": click.option("--chunks", type=click.IntRange(1), metavar="N", help="At most so many windows of 512 tokens (default 40)."),
    "compat": click.option("--compat", type=click.Choice(["llama.cpp"]), help="llama-perplexity's windows, scoring and encoding."),
    "no_verify": click.option("--no-verify", is_flag=True, help="Do not measure; the files are proved all the same."),
    "no_fallback": click.option("--no-fallback", is_flag=True, help="Refuse instead of substituting a type."),
    "overwrite": click.option("--overwrite", is_flag=True, help="Replace existing outputs."),
    "threads": click.option("--threads", type=click.IntRange(0), default=0, metavar="N", help="Cores to use (default: all)."),
    "scratch": click.option("--scratch", type=click.Path(path_type=Path, file_okay=False, exists=True), metavar="DIR", help="Place for temporary files (default: the output folder)."),
    "json": click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout, nothing else."),
    "quiet": click.option("--quiet", is_flag=True, help="No progress on stderr."),
}  # fmt: skip


def takes(*names: str) -> Callable[[Command], Command]:
    """Give a command some of the options; each means the same wherever it is."""

    def decorate(command: Command) -> Command:
        for name in reversed(names):
            command = OPTIONS[name](command)
        return command

    return decorate


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="ggufx", prog_name="ggufx")
def cli() -> None:
    """From a fine-tuning run to quantized GGUF files, each level measured."""


@cli.command()
@click.argument("run")
@takes("quant", "out", "base", "base_revision", "revision", "text", "chunks", "compat", "no_verify", "no_fallback")
@takes("overwrite", "threads", "scratch", "quiet", "json")
def export(run: str, quant: str, out: Path | None, **asked: Any) -> int:  # noqa: ANN401  (options, by name)
    """Merge, convert, quantize, verify and report a RUN: a folder or a Hub id."""
    from exporter.pipeline import export as run_export  # noqa: PLC0415  (slow to import)

    with Steps(quiet=asked["quiet"]) as steps:
        document, folder = run_export(run, _profiles(quant), out, options=_options(asked), progress=steps)
    _print_report(document, as_json=asked["as_json"], where=folder / "report.html")
    return _status(document)


@cli.command()
@click.argument("run")
@takes("base", "base_revision", "revision", "json")
def inspect(run: str, *, as_json: bool, **asked: Any) -> None:  # noqa: ANN401
    """Say what a RUN is: trainer, family, base, adapter, tokenizer, problems."""
    from exporter.inspect import inspect_run, render  # noqa: PLC0415

    facts = inspect_run(run, **asked)
    click.echo(json.dumps(facts, indent=2, ensure_ascii=False) if as_json else render(facts))


@cli.command()
@click.argument("run")
@takes("quant", "base", "base_revision", "revision", "no_fallback", "json")
def plan(run: str, quant: str, *, as_json: bool, **asked: Any) -> None:  # noqa: ANN401
    """Print every decision of an export of a RUN, before a weight is read; writes nothing."""
    from exporter.pipeline import prepare  # noqa: PLC0415
    from exporter.plan.show import as_document, render  # noqa: PLC0415

    _, _, made = prepare(run, _profiles(quant), _options(asked | {"no_verify": True}))
    click.echo(json.dumps(as_document(made), indent=2, ensure_ascii=False) if as_json else render(made))


@cli.command()
@click.argument("reference")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False))
@takes("text", "chunks", "compat", "threads", "scratch", "quiet", "json")
def verify(reference: str, files: tuple[Path, ...], **asked: Any) -> int:  # noqa: ANN401
    """Measure GGUF FILES against a REFERENCE: a GGUF file, or a Hugging Face folder."""
    from exporter.pipeline import verify as run_verify  # noqa: PLC0415

    with Steps(quiet=asked["quiet"]) as steps:
        document = run_verify(reference, files, _options(asked), steps)
    _print_report(document, as_json=asked["as_json"], where=None)
    return _status(document)


@cli.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
@takes("json")
def report(folder: Path, *, as_json: bool) -> None:
    """Render the report.json of a FOLDER again, as Markdown and HTML."""
    from exporter.report import read_report, write_report  # noqa: PLC0415

    document = read_report(folder)
    place = folder if folder.is_dir() else folder.parent
    write_report(document, place)
    _print_report(document, as_json=as_json, where=place / "report.html")


@cli.command()
@takes("json")
def families(*, as_json: bool) -> None:
    """List the supported families and their architectures."""
    from converters import ALL  # noqa: PLC0415

    rows = [{"family": one.name, "arch": one.arch, "architectures": list(one.architectures)} for one in ALL]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    width = max(len(str(row["family"])) for row in rows)
    for row in rows:
        click.echo(f"{row['family']:<{width}}  {', '.join(row['architectures'])}")


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
        click.echo(json.dumps(rows[0] if name else rows, indent=2))
    elif name:
        click.echo(chosen[0].text, nl=False)
    else:
        for one in chosen:
            click.echo(f"{one.name:<8}  {one.default:<5}  {len(one.rules)} rules")


class Steps:
    """How far each step is, on stderr: a bar on a terminal, else a line at each tenth."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._bars: Any = None
        self._tasks: dict[str, Any] = {}
        self._tenths: dict[str, int] = {}

    def __enter__(self) -> "Progress":
        if not self._quiet and sys.stderr.isatty():
            from rich.console import Console  # noqa: PLC0415  (slow to import)
            from rich.progress import Progress  # noqa: PLC0415

            self._bars = Progress(console=Console(stderr=True), transient=True)
            self._bars.start()
        return self._tell

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def _tell(self, step: str, done: int, total: int) -> None:
        if self._bars is not None:
            if step not in self._tasks:
                self._tasks[step] = self._bars.add_task(step, total=total)
            self._bars.update(self._tasks[step], completed=done, total=total)
        elif not self._quiet and 10 * done // max(total, 1) > self._tenths.get(step, -1):
            self._tenths[step] = 10 * done // max(total, 1)
            click.echo(f"{step}: {10 * self._tenths[step]} %", err=True)


def _profiles(quant: str) -> "Sequence[Profile]":
    """The profiles of ``--quant``; ProfileError for one named twice."""
    from exporter.profiles import load_profile  # noqa: PLC0415

    found = [load_profile(name.strip()) for name in quant.split(",") if name.strip()]
    names = [profile.name for profile in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or not names:
        raise ProfileError(f"--quant {quant}: {f'{twice[0]} is named twice' if twice else 'names no level'}.")
    return found


def _options(asked: Mapping[str, Any]) -> "Options":
    """The options of a command, as the pipeline takes them."""
    from exporter.pipeline import Options  # noqa: PLC0415

    return Options(
        base=asked.get("base"),
        revision=asked.get("revision"),
        base_revision=asked.get("base_revision"),
        text=asked.get("text"),
        chunks=asked.get("chunks"),
        mode=asked.get("compat") or "default",
        threads=asked.get("threads") or 0,
        scratch=asked.get("scratch"),
        verify=not asked.get("no_verify"),
        overwrite=bool(asked.get("overwrite")),
        fallbacks=not asked.get("no_fallback"),
        command=("ggufx", *sys.argv[1:]),
    )


def _print_report(document: "Document", *, as_json: bool, where: Path | None) -> None:
    """A report on stdout: the document, or its table and the path of its page."""
    from exporter.report import render_table  # noqa: PLC0415

    if as_json:
        click.echo(json.dumps(document, indent=2, ensure_ascii=False))
        return
    click.echo(render_table(document), nl=False)
    if where is not None:
        click.echo(f"\n{where}")


def _status(document: "Document") -> int:
    """The exit status: 0, or 1 where a level failed or could not be measured."""
    return FAILED if any(level["verdict"] in {"fail", "undecided", "error"} for level in document["levels"]) else 0


def main() -> None:
    """Run a command; end with the contract's exit status."""
    try:
        sys.exit(cli.main(standalone_mode=False) or 0)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted: nothing that was unfinished is kept", err=True)
        sys.exit(INTERRUPTED)
    except GgufxError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(REFUSED)
