"""The options: each means the same wherever it is."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from exporter.pipeline import Options

Command = TypeVar("Command", bound=Callable[..., Any])
FILE = click.Path(path_type=Path)
FOLDER = click.Path(path_type=Path, file_okay=False, exists=True)


def pre_name(_context: click.Context, _option: click.Parameter, name: str | None) -> str | None:
    """The name of a pre-tokenizer that llama.cpp knows; BadParameter with near ones for another."""
    from exporter.tokenizer.pre import unknown  # noqa: PLC0415  (slow to import)
    from exporter.tokenizer.pre_table import NAMES  # noqa: PLC0415

    if name is None or name in NAMES:
        return name
    raise click.BadParameter(unknown(name))


OPTIONS: Mapping[str, Callable[[Command], Command]] = {
    "quant": click.option(
        "--quant",
        multiple=True,
        default=("q4_k_m",),
        metavar="LEVEL[,…]",
        help="Levels, or paths of TOML profiles; `ggufx profiles` lists the levels.",
        show_default=True,
    ),
    "out": click.option("--out", type=FILE, metavar="DIR", help="Output folder; without it <run>-gguf here."),
    "merged": click.option("--out", type=FILE, metavar="DIR", help="Folder of the merged checkpoint."),
    "check": click.option("--check", is_flag=True, help="Write nothing: measure every change, compare with PEFT."),
    "dtype": click.option(
        "--dtype",
        type=click.Choice(["bf16", "f16", "f32"]),
        default="bf16",
        show_default=True,
        help="Type of the merged weights.",
    ),
    "base": click.option("--base", metavar="DIR_OR_ID", help="The base model, in place of the one the adapter names."),
    "base_revision": click.option("--base-revision", metavar="REV", help="Hub revision of the base."),
    "revision": click.option("--revision", metavar="REV", help="Hub revision of the run."),
    "adapter": click.option(
        "--adapter",
        "adapters",
        multiple=True,
        metavar="DIR[:WEIGHT]",
        help="One more adapter on top, times a factor; may be given several times.",
    ),
    "moe_lora_layout": click.option(
        "--moe-lora-layout",
        "packing",
        type=click.Choice(["rank_major", "grouped_by_expert"]),
        help="How lora_B of fused experts is packed, where the adapter does not say.",
    ),
    "qlora_base": click.option(
        "--qlora-base",
        type=click.Choice(["full", "nf4"]),
        default="full",
        show_default=True,
        help="Lay a QLoRA adapter over the 16-bit base, or over its 4-bit round trip, as in training.",
    ),
    "mmproj": click.option(
        "--mmproj",
        type=click.Choice(["f16", "bf16", "q8_0"]),
        help="Write the projector's file too, of a model that sees images.",
    ),
    "pre": click.option(
        "--pre",
        metavar="NAME",
        callback=pre_name,
        help="llama.cpp's name of the pre-tokenizer, in place of the one that the tokenizer's structure gives.",
    ),
    "text": click.option("--text", type=FILE, metavar="FILE", help="Evaluation text; without it one that comes along."),
    "chunks": click.option(
        "--chunks", type=click.IntRange(1), metavar="N", help="At most so many windows of 512 tokens (default 40)."
    ),
    "compat": click.option(
        "--compat", type=click.Choice(["llama.cpp"]), help="llama-perplexity's windows, scoring and encoding."
    ),
    "prove": click.option(
        "--prove", is_flag=True, help="Prove the logits too: those of transformers with the live adapter."
    ),
    "against": click.option("--against", metavar="RUN", required=True, help="The run that the file was made from."),
    "no_verify": click.option("--no-verify", is_flag=True, help="Do not measure; the files are proved all the same."),
    "no_fallback": click.option("--no-fallback", is_flag=True, help="Refuse instead of substituting a type."),
    "overwrite": click.option("--overwrite", is_flag=True, help="Replace existing outputs."),
    "threads": click.option(
        "--threads", type=click.IntRange(0), default=0, metavar="N", help="Cores to use (default: all)."
    ),
    "scratch": click.option(
        "--scratch",
        type=FOLDER,
        metavar="DIR",
        help="Place for temporary files, such as the 16-bit reference (default: the output folder).",
    ),
    "json": click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout, nothing else."),
    "quiet": click.option("--quiet", is_flag=True, help="No progress on stderr."),
}


RUN = ("base", "base_revision", "revision", "adapter", "moe_lora_layout", "qlora_base")
"""What says more of a RUN."""


def takes(*names: str) -> Callable[[Command], Command]:
    """Give a command some of the options; each means the same wherever it is."""

    def decorate(command: Command) -> Command:
        for name in reversed(names):
            command = OPTIONS[name](command)
        return command

    return decorate


def options(asked: Mapping[str, Any]) -> "Options":
    """The options of a command, as the pipeline takes them."""
    from exporter.pipeline import Options  # noqa: PLC0415

    return Options(
        base=asked.get("base"),
        revision=asked.get("revision"),
        base_revision=asked.get("base_revision"),
        adapters=tuple(asked.get("adapters") or ()),
        packing=asked.get("packing"),
        qlora_base=asked.get("qlora_base") or "full",
        mmproj=asked.get("mmproj"),
        pre=asked.get("pre"),
        text=asked.get("text"),
        chunks=asked.get("chunks"),
        mode=asked.get("compat") or "default",
        threads=asked.get("threads") or 0,
        scratch=asked.get("scratch"),
        verify=not asked.get("no_verify"),
        overwrite=bool(asked.get("overwrite")),
        fallbacks=not asked.get("no_fallback"),
        prove=bool(asked.get("prove")),
        command=("ggufx", *sys.argv[1:]),
    )
