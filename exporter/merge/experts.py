"""LoRA on fused parameters of experts (``target_parameters``): which one a pair is of, and each expert's part of it."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from exporter.errors import MergeError
from exporter.merge.fields import other_base
from exporter.merge.values import Expert, Factors, Part

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exporter.merge.values import Given

# In the order in which transformers' modules of experts define them.
PARAMETERS = ("gate_up_proj", "gate_up_proj_bias", "down_proj", "down_proj_bias", "weight", "bias")
INNER = ".base_layer"
LAYOUTS = ("rank_major", "grouped_by_expert")
TURNED_UNTIL = (0, 18)
"""The last version of PEFT that took (experts, out, in) for (experts, in, out)."""


def parameter_of(module: str, config: Mapping[str, object]) -> str | None:
    """The parameter that a pair of factors is of; None for that of a plain module.

    PEFT wraps a module once for each of its parameters that is targeted, the first one innermost: of two, the
    outer pair is the second parameter's, and the pair under ``base_layer`` the first's.
    """
    targets = config.get("target_parameters") or []
    plain = module
    while plain.endswith(INNER):
        plain = plain.removesuffix(INNER)
    names = [f"{plain}.{parameter}" for parameter in PARAMETERS]
    found = (
        [name for name in names if any(_fits(name, str(key)) for key in targets)] if isinstance(targets, list) else []
    )
    depth = (len(module) - len(plain)) // len(INNER)
    return found[len(found) - 1 - depth] if depth < len(found) else None


def _fits(name: str, key: str) -> bool:
    return name == key or name.endswith(f".{key}")


def packing(config: Mapping[str, object], asked: str | None, trainer: str) -> str | None:
    """How lora_B of fused experts is packed: as asked, as the config says, else as PEFT does; None if that is unsure.

    Unsloth has trained both, and marks which since September 2026 only (``lora_B_layout``).
    """
    said = config.get("lora_B_layout")
    if asked is not None or isinstance(said, str):
        return asked or str(said)
    return None if trainer == "unsloth" else LAYOUTS[0]


def of_experts(pair: Factors, rank: int, parts: "Sequence[Part]", given: "Given") -> dict[str, Factors]:
    """Each weight's factors, of a pair over a fused parameter of all experts.

    Args:
        pair: the two tensors and the scale; A is (experts * rank, columns), B (rows, experts * rank), or the other way
            round in what PEFT before 0.19 saved.
        rank: of one expert.
        parts: the weights that the parameter holds.
        given: the adapter, and what it is laid over.

    Raises:
        MergeError: shapes that do not fit, or that do not tell which way round they are; a packing that is not known.
    """
    a, b = given.shapes[pair.a], given.shapes[pair.b]
    count, rest = divmod(a[0], rank)
    weights = {template.replace("{e}", str(e)): (e, part, of) for template, part, of in parts for e in range(count)}
    lacking = [name for name in weights if name not in given.base]
    beyond = [name for name, _, _ in parts if name.replace("{e}", str(count)) in given.base]
    if rest or not count or b[1] != a[0] or lacking or beyond:
        raise MergeError(
            f"{given.path}: {pair.a} is {list(a)} and {pair.b} is {list(b)}, with rank {rank} that is {a[0] / rank:g} "
            f"experts; the base model has {'more' if beyond else 'other'} ones. {other_base(given.config)}"
        )
    if given.packing not in LAYOUTS:
        said = "nothing says which" if given.packing is None else f"{given.packing!r} is neither"
        raise MergeError(
            f"{given.path}: lora_B of fused experts is packed in one of two ways ({', '.join(LAYOUTS)}), the file fits "
            f"both, and {said}: the wrong one mixes the experts. Say which with --moe-lora-layout; a "
            "run that answers well in training's own program and badly as a file has the other one."
        )
    rows, columns = _sides(next(iter(weights)), parts[0], given)
    turned = _is_turned((a[1], b[0]), (rows, columns), given)
    return {
        name: replace(
            pair,
            turned=turned,
            expert=Expert(e, count, rank, rows // of, part * (rows // of), given.packing == LAYOUTS[1]),
        )
        for name, (e, part, of) in weights.items()
    }


def _sides(weight: str, part: Part, given: "Given") -> tuple[int, int]:
    """Rows and columns of one expert in the fused parameter."""
    rows, columns = given.base[weight]
    return rows * part[2], columns


def _is_turned(found: tuple[int, int], sides: tuple[int, int], given: "Given") -> bool:
    """Whether A has the parameter's rows for columns, by the shapes, or by PEFT's version where they are equal."""
    rows, columns = sides
    if found not in {(columns, rows), (rows, columns)}:
        raise MergeError(
            f"{given.path}: lora_A and lora_B of the experts are for {found[1]} x {found[0]} matrices, the base "
            f"model's are {rows} x {columns}. {other_base(given.config)}"
        )
    if rows != columns:
        return found == (rows, columns)
    version = re.match(r"(\d+)\.(\d+)", str(given.config.get("peft_version")))
    if version is None:
        raise MergeError(
            f"{given.path}: the experts' matrices are square ({rows} x {columns}), and adapter_config.json does not "
            "say peft_version, on which it depends which way round lora_A and lora_B lie. Add the one of the training."
        )
    return (int(version[1]), int(version[2])) <= TURNED_UNTIL
