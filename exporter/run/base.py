"""The base that an adapter stands on: who names it, whether they agree, and where its 16-bit weights are."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from exporter.config import read_json
from exporter.errors import RunError
from exporter.run.folder import config_file, has_model, is_native
from exporter.run.hub import (
    HUB_ID,
    cached_name,
    cached_spelling,
    expanded,
    in_cache,
    is_folder,
    refuse_revision,
    resolve,
)
from exporter.run.traces import Traces
from exporter.run.values import Adapter

FOUR_BIT = re.compile(r"(?:-unsloth)?(?:-dynamic)?(?:-bnb)?-4bit$", re.IGNORECASE)
"""How the names of Unsloth's 4-bit repositories end; without it they are the 16-bit source's, but for `SOURCES`."""
SOURCES = {
    "unsloth/codellama-13b": "codellama/CodeLlama-13b-hf",
    "unsloth/codellama-34b": "codellama/CodeLlama-34b-hf",
    "unsloth/solar-10.7b": "upstage/SOLAR-10.7B-v1.0",
    "unsloth/llama-3-70b": "meta-llama/Meta-Llama-3-70B",
    "unsloth/llama-3-70b-instruct": "meta-llama/Meta-Llama-3-70B-Instruct",
    "unsloth/meta-llama-3.1-405b": "meta-llama/Meta-Llama-3.1-405B",
    "unsloth/meta-llama-3.1-405b-instruct": "meta-llama/Meta-Llama-3.1-405B-Instruct",
    "unsloth/mistral-large-instruct-2407": "mistralai/Mistral-Large-Instruct-2407",
    "unsloth/c4ai-command-r-08-2024": "CohereForAI/c4ai-command-r-08-2024",
    "unsloth/c4ai-command-r-plus-08-2024": "CohereForAI/c4ai-command-r-plus-08-2024",
    "unsloth/hermes-3-llama-3.1-405b": "NousResearch/Hermes-3-Llama-3.1-405B",
    "unsloth/pixtral-12b-2409-base": "unsloth/Pixtral-12B-Base-2409",
    "unsloth/deepscaler-1.5b-preview": "agentica-org/DeepScaleR-1.5B-Preview",
}
"""The 16-bit source by a 4-bit name without its ending, in lower case: where Unsloth has no 16-bit copy of its own,
by the table that Unsloth keeps (``unsloth/models/mapper.py``)."""
ALSO_CALLED = {
    "mistral-7b": "mistral-7b-v0.1",
    "zephyr-sft": "mistral-7b-sft-beta",
    "tinyllama": "tinyllama-1.1b-intermediate-step-1431k-3t",
    "tinyllama-chat": "tinyllama-1.1b-chat-v1.0",
    "solar-10.7b": "solar-10.7b-v1.0",
}
"""Unsloth's names for models that their makers call otherwise, as `_model` writes them."""


@dataclass(frozen=True)
class Base:
    """A base model's name and folder, what named it, and what is to be said of that."""

    name: str
    folder: Path
    found_by: str | None = None
    notes: tuple[str, ...] = ()


def find_base(adapter: Adapter, traces: Traces, given: tuple[str | None, str | None], run: Path) -> Base:
    """The base of an adapter.

    Args:
        adapter: the adapter; its configuration names the base.
        traces: what else names it.
        given: ``--base`` and ``--base-revision``.
        run: the run's folder, beside which a base may lie.

    Raises:
        RunError: if nothing names a base, two files name different ones, or the one named is not to be had.
    """
    override, revision = given
    named = () if override else _named(adapter, traces)
    if not override and not named:
        raise RunError(f"{adapter.folder / 'adapter_config.json'}: names no base model. Give it with --base DIR_OR_ID.")
    name, found_by = (override, "--base") if override else named[0]
    beside = adapter.folder / name
    here = beside if override is None and is_folder(beside) else expanded(name)
    source = None if override or is_folder(here) else sixteen_bit(name)
    if is_folder(here):
        refuse_revision(name, "base", revision)
    told = adapter.config.get("revision")  # the base's, in PEFT's words; of the 4-bit one where that is named
    revision = revision or (told if not override and not source and isinstance(told, str) and told else None)
    hint = _hint(adapter, name, run) if not override else ""
    hint += _of_four_bits(name, source, found_by) if source else ""
    folder = here.resolve() if is_folder(here) else resolve(source or name, revision, "base", hint=hint)
    if not has_model(folder):
        found = "an adapter" if (folder / "adapter_config.json").exists() else "no config.json with weights"
        raise RunError(f"{folder}: the base model's folder holds {found}. Give the whole model with --base DIR_OR_ID.")
    require_hugging_face(folder)
    if not override:
        _check_one(adapter.folder, named, folder)
    return Base(_shown(source or name, folder), folder, found_by, _notes(name, source, found_by, told))


def _shown(name: str, folder: Path) -> str:
    """What a base is called: as it was named, or as its folder where that was a path; never as a commit."""
    path = Path(name).is_absolute() or name.startswith(".")
    return (cached_name(name) or cached_name(folder) or folder.name) if path else name


def require_hugging_face(base: Path) -> None:
    """RunError for a base in Mistral's own format: PEFT trains on transformers' rows, which are in another order."""
    if is_native(base):
        raise RunError(
            f"{base}: holds the base in Mistral's own format (params.json, consolidated*.safetensors), and the adapter "
            "was trained on Hugging Face's, whose rows are in another order. Give that one with --base DIR_OR_ID."
        )


def _named(adapter: Adapter, traces: Traces) -> Sequence[tuple[str, str]]:
    """Names of the base, and the files that name it; the adapter's own first."""
    named = adapter.config.get("base_model_name_or_path")
    own = ((named, "adapter_config.json"),) if isinstance(named, str) and named else ()
    return (*own, *traces.bases)


def sixteen_bit(name: str) -> str | None:
    """The Hub id of the 16-bit weights of a repository that holds them in 4 bits; None for every other name.

    Unsloth's by their names; others' where the repository is in the Hub's cache and its configuration says from what
    it was made. Where nothing says so, the 4-bit weights are what there is.
    """
    if not HUB_ID.fullmatch(name) or not FOUR_BIT.search(name):
        return None
    plain = FOUR_BIT.sub("", name)
    if plain.lower() in SOURCES:
        return cached_spelling(SOURCES[plain.lower()])
    if plain.lower().startswith("unsloth/"):
        return cached_spelling(plain)
    config = in_cache(name, "config.json")
    made_of = read_json(config).get("_name_or_path") if config else None
    fits = isinstance(made_of, str) and HUB_ID.fullmatch(made_of) and not FOUR_BIT.search(made_of)
    return cached_spelling(str(made_of)) if fits else None


def _notes(name: str, source: str | None, found_by: str, told: object) -> tuple[str, ...]:
    """What is to be said of a base that was not simply taken as named."""
    if source is None:
        return (
            ()
            if found_by in {"adapter_config.json", "--base"}
            else (f"adapter_config.json names no base; took {name}, which {found_by} names",)
        )
    lost = f"; its revision {told} is the 4-bit one's, so --base-revision tells the source's" if told else ""
    return (f"{found_by} names {name}, stored in 4 bits; took its 16-bit source {source}{lost}",)


def _of_four_bits(name: str, source: str, found_by: str) -> str:
    """A sentence on a 16-bit source that is not to be had, which no file of the run names."""
    return (
        f" {source} is the 16-bit source of {name}, which {found_by} names; --base {name} takes it as it is stored, in "
        "4 bits."
    )


def _check_one(run: Path, named: Sequence[tuple[str, str]], folder: Path) -> None:
    """RunError where two files name different bases, both shown."""
    (first, by), *others = named
    config: Mapping[str, object] = read_json(folder / "config.json")
    made_of = config.get("_name_or_path")
    known = {_model(first), _model(str(folder)), _model(made_of) if isinstance(made_of, str) else ""}
    for other, other_by in others:
        if _model(other) and _model(other) not in known:
            raise RunError(
                f"{run}: the base is {first} by {by}, {other} by {other_by}. An adapter fits only the model that it "
                f"was trained on; settle it with --base {first} or --base {other}."
            )


def check_bases(run: Path, found: Base, more: Sequence[Adapter]) -> None:
    """RunError where an adapter on top names another base than the run's, or the run is of Mistral's own format.

    One that names none is taken.
    """
    if more:
        require_hugging_face(found.folder)
    for adapter in more:
        name = adapter.config.get("base_model_name_or_path")
        if isinstance(name, str) and name:
            _check_one(run, ((found.name, "the run"), (name, str(adapter.folder))), found.folder)


def _model(name: str) -> str:
    """What is left of a model's name to compare: no owner or folder, no case, no 4-bit ending, one of its spellings."""
    last = re.split(r"[\\/]", (cached_name(name) or name).rstrip("\\/"))[-1].replace("___", ".")  # ModelScope's dots
    plain = FOUR_BIT.sub("", last.lower()).removeprefix("meta-").removesuffix("-hf").strip(".")
    return ALSO_CALLED.get(plain, plain)


def _hint(adapter: Adapter, name: str, run: Path) -> str:
    """A sentence on a model of the base's name beside the run; empty where there is none, or it is of another class."""
    last = re.split(r"[\\/]", name.rstrip("\\/"))[-1]
    mapping = adapter.config.get("auto_mapping")
    expected = mapping.get("base_model_class") if isinstance(mapping, dict) else None
    for place in dict.fromkeys((run.parent, adapter.folder.parent)) if last.strip(".") else ():
        if is_folder(place / last) and has_model(place / last):
            architectures = read_json(config_file(place / last)).get("architectures")
            if expected is None or (isinstance(architectures, list) and expected in architectures):
                return f" A model of that name lies beside the run: if it is that one, --base {place / last}."
    return ""
