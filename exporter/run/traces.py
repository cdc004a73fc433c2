"""What a trainer left in a run: its name, the base and the data that it used, each with the file that says so."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from exporter.config import read_json
from exporter.run.pickled import class_of
from exporter.run.said import Said, read_card, read_yaml

# Files that only this trainer writes.
FILES = {
    "llama-factory": ("trainer_log.jsonl", "llamaboard_config.yaml", "training_args.yaml"),
    "axolotl": ("axolotl_config.yaml", "axolotl_config.yml"),
    "torchtune": ("torchtune_config.yaml",),
    "verl": ("model_world_size_*_rank_*.pt", "fsdp_config.json"),
}
# The package that the class of `training_args.bin` is of, by how its name begins.
PACKAGES = {
    "llamafactory": "llama-factory",
    "llmtuner": "llama-factory",
    "axolotl": "axolotl",
    "unsloth": "unsloth",
    "swift": "ms-swift",
    "trl": "trl",
}
TRAINED = ("trainer_state.json", "training_args.bin", "train_results.json", "all_results.json")
"""What the Trainer of transformers writes, and so all that is built on it."""
RECORD = "merge.json"
"""What ``ggufx merge --out`` writes beside a merged checkpoint."""
MANY = 32
"""Files of YAML that are looked at in a folder: a run has a few."""


@dataclass(frozen=True)
class Traces:
    """What a run's files say, each with the file, from the run's folder."""

    trainer: str | None
    trainer_from: str | None
    bases: tuple[tuple[str, str], ...]
    """Name and file, in the order in which they are trusted."""
    dataset: str | None
    dataset_from: str | None
    trained: bool
    """Whether a trainer wrote here at all; if not, it may be a plain checkpoint with a card."""
    notes: tuple[str, ...]


def _merged(file: Path) -> str:
    """What the record of a merged checkpoint says of where it is from."""
    record = read_json(file)
    base, adapters = record.get("base"), record.get("adapters")
    names = [one.get("name") for one in adapters if isinstance(one, dict)] if isinstance(adapters, list) else []
    over = base.get("name") if isinstance(base, dict) else None
    return f"{RECORD}: ggufx {record.get('ggufx')} merged {', '.join(map(str, names)) or 'no adapter'} into {over}."


def _recorded(file: Path) -> str | None:
    """The trainer of what was merged, by the record of a merged checkpoint; None where it was not known."""
    trainer = read_json(file).get("trainer") if file.is_file() else None
    return trainer if isinstance(trainer, str) and trainer != "unknown" else None


def read_traces(places: Sequence[Path], adapter: Mapping[str, object]) -> Traces:
    """Read what the trainer left.

    Args:
        places: the weights' folder and those above it, up to the run's.
        adapter: ``adapter_config.json``; empty for a full model.
    """
    settings = [one for place in places for file in _yamls(place) if (one := read_yaml(file))]
    cards = [read_card(place / "README.md") for place in places if (place / "README.md").is_file()]
    said = [*settings, *cards]
    found = _trainers(places, (settings, cards), adapter)
    merged = [_merged(place / RECORD) for place in places[:1] if (place / RECORD).is_file()]
    trainer, by = next(found, (None, None))
    data = next((one for one in said if one.datasets), None)
    named = dict.fromkeys((name, _name(one.file, places)) for one in said for name in one.bases)
    written = [*settings, *(name for names in FILES.values() for name in names if _found(places, name))]
    return Traces(
        trainer=trainer,
        trainer_from=_name(by, places) if by else None,
        bases=tuple(named),
        dataset=", ".join(data.datasets) if data else None,
        dataset_from=_name(data.file, places) if data else None,
        trained=bool(written) or any(_found(places, name) for name in TRAINED),
        notes=(*merged, *(f"{_name(card.file, places)}: {card.unread}" for card in cards if card.unread)),
    )


def _trainers(
    places: Sequence[Path], said: tuple[Sequence[Said], Sequence[Said]], adapter: Mapping[str, object]
) -> Iterator[tuple[str, Path]]:
    """Trainers and the files that say so, the surest first."""
    settings, cards = said
    for trainer, names in FILES.items():
        yield from ((trainer, file) for name in names if (file := _found(places, name)))
    yield from ((one.trainer, one.file) for one in settings if one.trainer)
    mapping = adapter.get("auto_mapping")
    if isinstance(mapping, dict) and "unsloth_fixed" in mapping:
        yield "unsloth", places[0] / "adapter_config.json"
    arguments = _found(places, "training_args.bin")
    package = (class_of(arguments) or "").lower() if arguments else ""
    named = next((trainer for begin, trainer in PACKAGES.items() if package.startswith(begin)), None)
    if arguments and named and named != "trl":
        yield named, arguments
    # Unsloth puts a class of its own under TRL's name: a card that names Unsloth knows more than that class.
    yield from ((one.trainer, one.file) for one in cards if one.trainer)
    if arguments and named:
        yield named, arguments
    config = places[0] / "config.json"
    if not adapter and config.is_file() and "unsloth_version" in read_json(config):
        yield "unsloth", config  # `unsloth_fixed` is also in the models that Unsloth only mirrors
    if merged := _recorded(places[0] / RECORD):
        yield merged, places[0] / RECORD
    yield from (("transformers", file) for name in TRAINED if (file := _found(places, name)))


def _found(places: Sequence[Path], pattern: str) -> Path | None:
    """The first file of a name, or pattern, in the places."""
    return next((file for place in places for file in sorted(place.glob(pattern)) if file.is_file()), None)


def _yamls(place: Path) -> list[Path]:
    """A folder's files of YAML, and the one that Hydra writes, which verl's command line uses."""
    files = [file for pattern in ("*.yaml", "*.yml", ".hydra/config.yaml") for file in sorted(place.glob(pattern))]
    return [file for file in files if file.is_file()][:MANY]


def _name(file: Path, places: Sequence[Path]) -> str:
    """A file's name from the run's folder."""
    return file.relative_to(places[-1]).as_posix()
