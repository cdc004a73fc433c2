"""What is in a run directory: adapter or full model, which trainer made it, which base it stands on."""

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from converters import find, nearest
from converters.spec import Config, Family
from exporter.config import complete, read_config, read_json
from exporter.errors import RunError
from exporter.tokenizer.files import find_tokenizer_files

ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")
# A file that only this trainer writes, or a word in the model card; looked for in this order.
TRAINER_FILES = {
    "llama-factory": ("trainer_log.jsonl", "llamaboard_config.yaml", "training_args.yaml"),
    "axolotl": ("axolotl_config.yaml", "axolotl_config.yml"),
    "torchtune": ("torchtune_config.yaml",),
}
TRAINER_WORDS = ("llama-factory", "axolotl", "unsloth", "trl")
TRAINED = ("trainer_state.json", "training_args.bin", "trainer_log.jsonl", "train_results.json", "all_results.json")
FETCHED = ("*.json", "*.safetensors", "*.model", "*.jinja", "*.md", "LICENSE*")
"""What is fetched of a Hub repository; ``*`` reaches into folders too."""
FETCHED_BIN = ("*adapter_model*.bin", "*pytorch_model*.bin")
"""Fetched as well where those give no weights: most repositories that hold such files hold safetensors too."""
NOT_A_NAME = re.compile(r"checkpoint-\d+|adapter|lora|merged|output|outputs|final|run|model", re.IGNORECASE)


@dataclass(frozen=True)
class Adapter:
    """One PEFT adapter: its folder, its configuration, its file of tensors."""

    folder: Path
    config: Mapping[str, object]
    weights: Path


@dataclass(frozen=True)
class Run:
    """A training run, or a plain checkpoint: everything that is known before a tensor is read."""

    path: Path
    """The folder as the user named it, or the Hub id."""
    folder: Path
    """Where its weights lie: the same, or the checkpoint that was taken."""
    kind: str
    """``lora``, ``full`` or ``checkpoint``."""
    trainer: str
    base: Path
    base_name: str
    adapters: tuple[Adapter, ...]
    family: Family
    config: Config
    tokenizer_files: Mapping[str, Path]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def name(self) -> str:
        """What the model is called: the run's folder, or the base where the folder's name says nothing."""
        names = [self.path.name, self.path.parent.name] if self.adapters else [self.path.name]
        return next((name for name in names if name and not NOT_A_NAME.fullmatch(name)), Path(self.base_name).name)


def open_run(
    path: str | Path, *, base: str | None = None, revision: str | None = None, base_revision: str | None = None
) -> Run:
    """Read what a run is. RunError where it is nothing known, or its base is missing or of no supported family.

    Args:
        path: a folder, or a Hub id.
        base: a folder or Hub id that replaces the base the adapter names.
        revision: the Hub revision of the run.
        base_revision: the Hub revision of the base.
    """
    given = _resolve(str(path), revision, "run")
    named = given if Path(path).expanduser().is_dir() else Path(path)
    folder, notes = _weights_folder(given)
    adapters = _adapters(folder, based=base is not None)
    if adapters:
        base_name, base_folder = _base(adapters[0], base, base_revision)
    elif base is not None:
        raise RunError(f"{folder}: is a full model, not an adapter, so --base {base} has no meaning. Leave it out.")
    else:
        base_name, base_folder = given.name if given == named else str(named), folder
    stored = read_config(base_folder / "config.json")
    family = _family(stored, base_folder)
    config, warnings = complete(stored, family, base_folder / "config.json")
    return Run(
        path=named,
        folder=folder,
        kind="lora" if adapters else "full" if _trained(folder) else "checkpoint",
        trainer=_trainer(folder, given, adapters),
        base=base_folder,
        base_name=base_name,
        adapters=adapters,
        family=family,
        config=config,
        tokenizer_files=find_tokenizer_files(folder if (folder / "tokenizer.json").exists() else given, base_folder),
        notes=notes,
        warnings=warnings,
    )


def _resolve(name: str, revision: str | None, what: str) -> Path:
    """A folder: the one named, else the Hub's cache, else the Hub."""
    folder = Path(name).expanduser()
    try:
        if folder.is_dir():
            return folder.resolve()
    except OSError as error:
        raise RunError(f"{name}: no folder can have this name ({error.strerror}). Give the {what}'s folder.") from error
    # A name that begins with a dot, or with a folder that is here, is a path that was mistyped, not the Hub's.
    local = name.startswith((".", "~")) or Path(name).parent.is_dir() or name.endswith(".gguf")
    if folder.exists() or local or not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        found = "is a file, expected a folder" if folder.exists() else "there is no such folder"
        advice = (
            "adapter_config.json names it, or --base; it was looked for relative to the run and to the current folder. "
            "Give the base model with --base DIR_OR_ID."
        )
        raise RunError(
            f"{name}: {found}. {advice if what == 'base' else 'Give the run, a folder or a Hub id such as org/name.'}"
        )
    return _download(name, revision, what)


def _download(name: str, revision: str | None, what: str) -> Path:
    """A Hub repository's folder in the cache; downloaded where it is not there whole."""
    from huggingface_hub import snapshot_download  # noqa: PLC0415  (slow to import)
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError  # noqa: PLC0415

    try:
        with suppress(LocalEntryNotFoundError):
            folder = Path(
                snapshot_download(name, revision=revision, allow_patterns=list(FETCHED), local_files_only=True)
            )
            if _is_whole(folder):
                return folder
        for patterns in (FETCHED, FETCHED + FETCHED_BIN):
            folder = Path(snapshot_download(name, revision=revision, allow_patterns=list(patterns)))
            if _is_whole(folder):
                return folder
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise RunError(
            f"{name}: the {what} is no folder here, not whole in the Hub's cache, and could not be fetched from the "
            f"Hub ({str(error).partition(chr(10))[0]}). Give its folder{' with --base DIR' if what == 'base' else ''}."
        ) from error
    raise RunError(
        f"{name}: neither the Hub's cache ({folder}) nor the Hub gave an adapter or a model with all its weights. "
        f"Fetch it with a network, or give a folder{' with --base DIR' if what == 'base' else ''}."
    )


def _is_whole(folder: Path) -> bool:
    """Whether a Hub repository's folder, or a checkpoint in it, holds an adapter's weights or all of a model's."""
    return any(
        ((place / "adapter_config.json").exists() and any((place / name).exists() for name in ADAPTER_FILES))
        or ((place / "config.json").exists() and _has_all_weights(place))
        for place in (folder, *folder.glob("checkpoint-*"))
    )


def _has_all_weights(folder: Path) -> bool:
    """Whether all files of a model's weights are there: by its index, or by the numbers in their names."""
    for stem, suffix in (("model", "safetensors"), ("pytorch_model", "bin")):
        index = folder / f"{stem}.{suffix}.index.json"
        if index.exists():
            places = read_json(index).get("weight_map")
            if isinstance(places, dict) and all(os.path.lexists(folder / str(file)) for file in places.values()):
                return True
            continue
        files = list(folder.glob(f"{stem}-*-of-*.{suffix}"))
        if (folder / f"{stem}.{suffix}").exists() or (files and len(files) == int(files[0].stem.rpartition("-")[2])):
            return True
    return False


def _weights_folder(given: Path) -> tuple[Path, tuple[str, ...]]:
    """The folder with the weights, and a note where it is a checkpoint of the one given."""
    if _holds_run(given):
        return given, ()
    checkpoints = sorted(
        (folder for folder in given.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", folder.name)),
        key=lambda folder: int(folder.name.rpartition("-")[2]),
    )
    best = _best_checkpoint(given, checkpoints[-1]) if checkpoints else None
    chosen = (
        next((folder for folder in checkpoints if folder.name == best), None) if best else (checkpoints or [given])[-1]
    )
    if chosen is None:
        raise RunError(
            f"{given}: trainer_state.json names {best} as the best checkpoint, which is not there. Copy it from the "
            f"run, or give another one: {checkpoints[-1]}."
        )
    if not _holds_run(chosen):
        raise RunError(
            f"{chosen}: holds neither adapter_config.json (an adapter), nor config.json with weights (a model), nor "
            f"checkpoint-N folders. Found: {', '.join(sorted(p.name for p in chosen.iterdir())[:8]) or 'nothing'}."
        )
    which = "best checkpoint by trainer_state.json" if best else "last checkpoint"
    return chosen, (f"took {chosen.name}, the {which}",)


def _holds_run(folder: Path) -> bool:
    """Whether a folder itself holds an adapter or a model."""
    return (folder / "adapter_config.json").exists() or _has_model(folder)


def _best_checkpoint(given: Path, last: Path) -> str | None:
    """The name of the best checkpoint that the trainer noted, if it did."""
    for state in (given / "trainer_state.json", last / "trainer_state.json"):
        best = read_json(state).get("best_model_checkpoint") if state.exists() else None
        if isinstance(best, str):
            return re.split(r"[\\/]", best.rstrip("\\/"))[-1]
    return None


def _has_model(folder: Path) -> bool:
    """Whether a folder holds a whole model: its configuration and weights."""
    weights = [*folder.glob("model*.safetensors"), *folder.glob("pytorch_model*.bin"), *folder.glob("*.index.json")]
    return (folder / "config.json").exists() and bool(weights)


def _adapters(folder: Path, *, based: bool) -> tuple[Adapter, ...]:
    """The adapter in a folder; RunError where it is incomplete, or lies beside a whole model and no base was given."""
    if not (folder / "adapter_config.json").exists():
        return ()
    if _has_model(folder) and not based:
        raise RunError(
            f"{folder}: holds an adapter (adapter_config.json) and a whole model, so it is unclear whether the adapter "
            "is merged already. To export the model, move adapter_config.json away; to export the adapter over its "
            "base, give --base DIR."
        )
    weights = next((folder / name for name in ADAPTER_FILES if (folder / name).exists()), None)
    if weights is None:
        raise RunError(
            f"{folder}: adapter_config.json is there, but neither of {', '.join(ADAPTER_FILES)}. Copy it from the run."
        )
    return (Adapter(folder, read_json(folder / "adapter_config.json"), weights),)


def _base(adapter: Adapter, override: str | None, revision: str | None) -> tuple[str, Path]:
    """The base's name and folder: the one given, else the one the adapter names."""
    named = adapter.config.get("base_model_name_or_path")
    name = override or (named if isinstance(named, str) and named else None)
    if name is None:
        raise RunError(f"{adapter.folder / 'adapter_config.json'}: names no base model. Give it with --base DIR_OR_ID.")
    told = adapter.config.get("revision")  # the base's, in PEFT's words
    revision = revision or (told if override is None and isinstance(told, str) and told else None)
    beside = adapter.folder / name
    folder = beside.resolve() if override is None and beside.is_dir() else _resolve(name, revision, "base")
    if not _has_model(folder):
        found = "an adapter" if (folder / "adapter_config.json").exists() else "no config.json with weights"
        raise RunError(f"{folder}: the base model's folder holds {found}. Give the whole model with --base DIR_OR_ID.")
    return (folder.name if Path(name).is_absolute() or name.startswith(".") else name), folder


def _family(config: Config, folder: Path) -> Family:
    """The family of a model; RunError for one that is not supported, or whose weights are stored quantized."""
    if "quantization_config" in config:
        raise RunError(
            f"{folder / 'config.json'}: the weights are stored quantized ({config['quantization_config']!r}). "
            "Only f32, f16 and bf16 weights are read. Give the 16-bit model: --base DIR_OR_ID."
        )
    architecture = str(config["architecture"])
    family = find(architecture)
    if family is None:
        near = nearest(architecture)
        raise RunError(
            f"{folder / 'config.json'}: the architecture {architecture} is not supported. "
            + (f"Supported and near: {', '.join(near)}. " if near else "")
            + "`ggufx families` lists all."
        )
    return family


def _trained(folder: Path) -> bool:
    """Whether a model folder carries a trainer's traces."""
    return any((folder / name).exists() for name in TRAINED)


def _trainer(folder: Path, given: Path, adapters: tuple[Adapter, ...]) -> str:
    """The trainer's name, by the files it leaves and by the model card; ``peft`` or ``unknown`` without any."""
    for trainer, names in TRAINER_FILES.items():
        if any((place / name).exists() for place in (folder, given) for name in names):
            return trainer
    cards = [place / "README.md" for place in (folder, given) if (place / "README.md").exists()]
    text = cards[0].read_text(encoding="utf-8", errors="replace")[:20000].lower() if cards else ""
    for word in TRAINER_WORDS:
        if re.search(rf"\b{word}\b", text):
            return word
    return "peft" if adapters else "unknown"
