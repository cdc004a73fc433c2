"""The adapters of a run: the one in its folder, and those that are asked for on top."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from shlex import quote

from exporter.config import read_json
from exporter.errors import RunError
from exporter.run.folder import ADAPTER_FILES, has_model
from exporter.run.hub import expanded, is_folder, resolve
from exporter.run.seen import seen_in
from exporter.run.shards import recovery
from exporter.run.values import Adapter

REPLICATION = "layer_replication"
LARGEST = 1e30
BESIDE = "lora_adapter"
"""Where verl's merger puts an adapter, inside the folder of its base."""
MOST_LAYERS = 4096
"""More than any model has."""


def own_adapter(folder: Path, *, base: str | None, over: bool = False, alone: bool = True) -> tuple[Adapter, ...]:
    """The adapter in a folder; none in a full model's.

    RunError where it is incomplete, or lies beside a whole model and no base was given, or a model was given one.

    Args:
        folder: the run's.
        base: ``--base``.
        over: whether the folder may hold a whole model too, since it is known what lies below.
        alone: whether no other adapter is to be laid over what the folder holds.
    """
    if not (folder / "adapter_config.json").exists():
        if base is not None:
            raise RunError(f"{folder}: is a full model, not an adapter, so --base {base} has no meaning. Leave it out.")
        if alone and (folder / BESIDE / "adapter_config.json").exists():
            raise RunError(
                f"{folder}: holds a whole model, and an adapter in {BESIDE}, as verl's merger leaves them: the model is"
                f" the one before training. To export the adapter over it, give {folder / BESIDE} and --base {folder}; "
                f"to export the model alone, move {BESIDE} away."
            )
        return ()
    seen = seen_in(folder)
    config = read_json(folder / "adapter_config.json")
    if "peft_type" not in config and ("lora_parameters" in config or "fine_tune_type" in config):
        raise RunError(_of_mlx(folder, config))
    if has_model(folder) and base is None and not over:
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
    return (Adapter(folder, config, weights, seen=seen),)


def more_adapters(asked: Sequence[str]) -> tuple[Adapter, ...]:
    """The adapters of ``--adapter DIR[:WEIGHT]``, in order. RunError for one that is none, or no number."""
    return tuple(_asked(one) for one in asked)


def laid_twice(adapters: Sequence[Adapter]) -> tuple[str, ...]:
    """A warning for each adapter that was given before."""
    files = [adapter.weights.resolve() for adapter in adapters]
    again = dict.fromkeys(str(one.folder) for k, one in enumerate(adapters) if files[k] in files[:k])
    return tuple(f"{folder}: was given more than once, so its changes are added as often." for folder in again)


def _asked(asked: str) -> Adapter:
    name, colon, tail = asked.rpartition(":")
    if not colon or is_folder(expanded(asked)):
        name, tail = asked, "1"
    try:
        weight = float(tail)
    except ValueError:
        weight = float("nan")
    if not 0 < abs(weight) < LARGEST:  # not a number is neither
        raise RunError(f"--adapter {asked}: the factor is {tail!r}, expected a number other than 0, such as 0.5.")
    folder = resolve(name, None, "adapter")
    found = own_adapter(folder, base=None, over=True)
    if not found:
        raise RunError(f"{folder}: holds no adapter (adapter_config.json). Give --adapter the folder of one.")
    given = folder if is_folder(expanded(name)) else Path(name)
    return replace(found[0], weight=weight, given=given)


def replication(adapters: Sequence[Adapter], layers: object) -> tuple[int, ...] | None:
    """Which of the base's layers each trained layer is (PEFT's ``layer_replication``); None: each is itself.

    RunError for ranges that the base has not, or of an adapter beside others.
    """
    asked = [adapter for adapter in adapters if adapter.config.get(REPLICATION)]
    if not asked:
        return None
    said = asked[0].config[REPLICATION]
    count = layers if isinstance(layers, int) else 0
    ranges = [range(*one) for one in said if _is_range(one, count)] if isinstance(said, list) else []
    whole = isinstance(said, list) and len(ranges) == len(said) and sum(map(len, ranges)) <= MOST_LAYERS
    if len(adapters) > 1 or not whole:
        raise RunError(
            f"{asked[0].folder}: {REPLICATION} is {said!r:.80}, the base has {layers} layers: expected pairs of a "
            "first layer and the one behind the last, in an adapter that is alone. The base may be another one: --base."
        )
    return tuple(layer for one in ranges for layer in one)


def _is_range(one: object, layers: int) -> bool:
    """Whether a value is a range of so many layers."""
    pair = isinstance(one, list) and len(one) == 2 and all(type(number) is int for number in one)  # noqa: PLR2004
    return pair and 0 <= one[0] < one[1] <= layers  # type: ignore[index]


def _of_mlx(folder: Path, config: Mapping[str, object]) -> str:
    """What to do with an adapter of mlx-lm."""
    model = config.get("model")
    name = model if isinstance(model, str) and model else "MODEL"
    return (
        f"{folder}: is an adapter of MLX (its adapter_config.json has lora_parameters and no peft_type); only PEFT's "
        f"are read. Merge it where MLX is installed: `mlx_lm.fuse --model {quote(name)} --adapter-path "
        f"{quote(str(folder))} --save-path {quote(str(folder / 'fused'))} --dequantize`, and give {folder / 'fused'}."
    )
