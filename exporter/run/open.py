"""A run is opened: its weights' folder, its adapter, what the trainer left, its base, its family."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Unpack

from converters import REFUSED, find, llamacpp_knows, nearest
from converters.spec import Config, Family
from exporter.config import complete, read_config
from exporter.errors import RunError
from exporter.run.adapter import laid_twice, more_adapters, own_adapter, replication
from exporter.run.base import Base, check_bases, find_base
from exporter.run.folder import NATIVE, config_file, places, tokenizer_places, weights_folder
from exporter.run.four_bit import lay_over
from exporter.run.hub import cached_name, expanded, is_folder, resolve
from exporter.run.seen import seen_in
from exporter.run.traces import read_traces
from exporter.run.values import Adapter, Asked, Run
from exporter.tokenizer.files import find_tokenizer_files, tokenizer_folder
from exporter.tokenizer.made import with_tokenizer_json


def open_run(path: str | Path, **asked: Unpack[Asked]) -> Run:
    """Read what a run is: a folder, or a Hub id.

    RunError where it is nothing known, or its base is missing or of no supported family.
    """
    given = resolve(str(path), asked.get("revision"), "run")
    named = given if is_folder(expanded(path)) else Path(path)
    folder, notes = weights_folder(given)
    base, revision = asked.get("base"), asked.get("base_revision")
    own = own_adapter(folder, base=base, alone=not asked.get("adapters"))
    more = more_adapters(asked.get("adapters") or ())
    traces = read_traces(places(given, folder), own[0].config if own else {})
    found = find_base(own[0], traces, (base, revision), given) if own else _itself(named, (given, folder), revision)
    if base is None:
        check_bases(given, found, more)
    seen = seen_in(*tokenizer_places(given, folder), folder, found.folder)
    tokenizer_files, elsewhere = _tokenizer(given, folder, found.folder)
    family, config, warnings, layers = _described(found.folder, [*own, *more])
    run = Run(
        path=named,
        folder=folder,
        kind="lora" if own or more else "full" if traces.trained else "checkpoint",
        trainer=traces.trainer or ("peft" if own else "unknown"),
        base=found.folder,
        base_name=found.name,
        adapters=(*own, *more),
        family=_behind_the_last(family, config),
        config=config,
        tokenizer_files=tokenizer_files,
        notes=(*notes, *elsewhere, *found.notes, *_beside(found.folder), *traces.notes),
        warnings=(*warnings, *laid_twice((*own, *more))),
        trainer_from=traces.trainer_from,
        dataset=traces.dataset,
        dataset_from=traces.dataset_from,
        base_from=found.found_by,
        packing=asked.get("packing"),
        layers=layers,
        seen=seen,
    )
    return lay_over(run, asked.get("qlora_base", "full"))


def _itself(named: Path, places: tuple[Path, Path], revision: str | None) -> Base:
    """A full model, which is its own base, by its folder and that of its weights. RunError for --base-revision."""
    given, folder = places
    if revision is not None:
        raise RunError(
            f"{given}: is a full model, not an adapter, so --base-revision {revision} has no meaning. Leave it out; "
            "--revision tells the run's own."
        )
    return Base((cached_name(given) or given.name) if given == named else str(named), folder)


def _tokenizer(given: Path, folder: Path, base: Path) -> tuple[dict[str, Path], tuple[str, ...]]:
    """A tokenizer's files, and a note where it lies neither in the run's folder, nor beside its weights."""
    place = tokenizer_folder(tokenizer_places(given, folder)) or folder
    note = () if place in {given, folder, base} else (f"took the tokenizer of {place.parent.name}/{place.name}",)
    return with_tokenizer_json(find_tokenizer_files(place, base)), note


def _described(
    folder: Path, adapters: Sequence[Adapter]
) -> tuple[Family, dict[str, object], tuple[str, ...], tuple[int, ...] | None]:
    """The family of a model, its config with warnings, and which layers adapters make of it."""
    file = config_file(folder)
    stored = read_config(file)
    layers = replication(adapters, stored.get("num_hidden_layers"))
    family = _family(stored, folder)
    return family, *complete(_with_layers(stored, layers, folder), family, file), layers


def _beside(folder: Path) -> tuple[str, ...]:
    """A note where a model lies in a folder twice."""
    twice = config_file(folder).name == "config.json" and any(folder.glob(NATIVE))
    return (f"{NATIVE}, the model in Mistral's own format, is not read: config.json's weights are",) if twice else ()


def _with_layers(config: Mapping[str, object], layers: tuple[int, ...] | None, where: Path) -> dict[str, object]:
    """The config of a model with so many layers; RunError where its layers differ, which GGUF says by a pattern."""
    if layers is None:
        return dict(config)
    kinds = config.get("layer_types")
    alike = kinds is None or (isinstance(kinds, list) and len(set(map(str, kinds))) == 1)
    if not alike or (kinds is None and config.get("sliding_window_pattern") is not None):
        raise RunError(
            f"{where}: the adapter repeats layers (layer_replication), and this model's are of several kinds in turn, "
            "which a file can only say of an unchanged order. Such a run cannot be exported."
        )
    again = {"layer_types": kinds[:1] * len(layers)} if isinstance(kinds, list) else {}
    return {**config, "num_hidden_layers": len(layers)} | again


def _behind_the_last(family: Family, config: Config) -> Family:
    """The family with the number of this model's layers in the names of what it leaves out."""
    count = str(config["num_hidden_layers"])
    parts = {part: tuple(start.replace("{n}", count) for start in starts) for part, starts in family.left_out.items()}
    return replace(family, left_out=parts)


def _family(config: Config, folder: Path) -> Family:
    """The family of a model; RunError for one that is not supported."""
    architecture = str(config["architecture"])
    family = find(architecture)
    if architecture in REFUSED:
        raise RunError(
            f"{folder / 'config.json'}: {architecture} is not exported: {REFUSED[architecture]}. "
            "The finished file would answer differently from the trained model."
        )
    if family is None:
        near = nearest(architecture)
        raise RunError(
            f"{folder / 'config.json'}: the architecture {architecture} is not supported. "
            + ("llama.cpp knows it: docs/add-a-family.md tells how to add it. " if llamacpp_knows(architecture) else "")
            + "`ggufx families` lists all that are."
            + (f" Names that are spelt alike: {', '.join(near)}." if near else "")
        )
    return family
