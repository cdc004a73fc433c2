"""A run is opened: its weights' folder, its adapter, what the trainer left, its base, its family."""

from collections.abc import Mapping
from pathlib import Path
from shlex import quote

from converters import find, nearest
from converters.spec import Config, Family
from exporter.config import complete, read_config, read_json
from exporter.errors import RunError
from exporter.run.base import Base, find_base
from exporter.run.folder import ADAPTER_FILES, has_model, places, weights_folder
from exporter.run.hub import expanded, is_folder, resolve
from exporter.run.shards import recovery
from exporter.run.traces import read_traces
from exporter.run.values import Adapter, Run
from exporter.tokenizer.files import find_tokenizer_files


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
    given = resolve(str(path), revision, "run")
    named = given if is_folder(expanded(path)) else Path(path)
    folder, notes = weights_folder(given)
    adapters = _adapters(folder, base=base)
    traces = read_traces(places(given, folder), adapters[0].config if adapters else {})
    itself = Base(given.name if given == named else str(named), folder)
    found = find_base(adapters[0], traces, (base, base_revision), given) if adapters else itself
    stored = read_config(found.folder / "config.json")
    family = _family(stored, found.folder)
    config, warnings = complete(stored, family, found.folder / "config.json")
    return Run(
        path=named,
        folder=folder,
        kind="lora" if adapters else "full" if traces.trained else "checkpoint",
        trainer=traces.trainer or ("peft" if adapters else "unknown"),
        base=found.folder,
        base_name=found.name,
        adapters=adapters,
        family=family,
        config=config,
        tokenizer_files=find_tokenizer_files(folder if (folder / "tokenizer.json").exists() else given, found.folder),
        notes=(*notes, *found.notes, *traces.notes),
        warnings=warnings,
        trainer_from=traces.trainer_from,
        dataset=traces.dataset,
        dataset_from=traces.dataset_from,
        base_from=found.found_by,
    )


def _adapters(folder: Path, *, base: str | None) -> tuple[Adapter, ...]:
    """The adapter in a folder; none in a full model's.

    RunError where it is incomplete, or lies beside a whole model and no base was given, or a model was given one.
    """
    if not (folder / "adapter_config.json").exists():
        if base is not None:
            raise RunError(f"{folder}: is a full model, not an adapter, so --base {base} has no meaning. Leave it out.")
        return ()
    config = read_json(folder / "adapter_config.json")
    if "peft_type" not in config and ("lora_parameters" in config or "fine_tune_type" in config):
        raise RunError(_of_mlx(folder, config))
    if has_model(folder) and base is None:
        raise RunError(
            f"{folder}: holds an adapter (adapter_config.json) and a whole model, so it is unclear whether the adapter "
            "is merged already. To export the model, move adapter_config.json away; to export the adapter over its "
            "base, give --base DIR."
        )
    weights = next((folder / name for name in ADAPTER_FILES if (folder / name).exists()), None)
    if weights is None:
        raise RunError(
            f"{folder}: adapter_config.json is there, but neither of {', '.join(ADAPTER_FILES)}. "
            + (recovery(folder) or "Copy it from the run.")
        )
    return (Adapter(folder, config, weights),)


def _of_mlx(folder: Path, config: Mapping[str, object]) -> str:
    """What to do with an adapter of mlx-lm."""
    model = config.get("model")
    name = model if isinstance(model, str) and model else "MODEL"
    return (
        f"{folder}: is an adapter of MLX (its adapter_config.json has lora_parameters and no peft_type); only PEFT's "
        f"are read. Merge it where MLX is installed: `mlx_lm.fuse --model {quote(name)} --adapter-path "
        f"{quote(str(folder))} --save-path {quote(str(folder / 'fused'))} --dequantize`, and give {folder / 'fused'}."
    )


def _family(config: Config, folder: Path) -> Family:
    """The family of a model; RunError for one that is not supported."""
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
