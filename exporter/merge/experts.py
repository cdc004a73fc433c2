"""LoRA on fused parameters of experts (``target_parameters``): which one a pair is of, and each expert's part of it."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from exporter.errors import MergeError
from exporter.merge.fields import other_base
from exporter.merge.keys import PREFIX
from exporter.merge.values import Expert, Factors, Part

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exporter.merge.values import Given

# In the order in which transformers' modules of experts define them.
PARAMETERS = ("gate_up_proj", "gate_up_proj_bias", "down_proj", "down_proj_bias", "weight", "bias")
INNER = ".base_layer"
A = ".lora_A.weight"
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
    weights = {part.weight.replace("{e}", str(e)): (e, part) for part in parts for e in range(count)}
    lacking = [name for name in weights if name not in given.base]
    beyond = [part for part in parts if part.weight.replace("{e}", str(count)) in given.base]
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
    turned = _is_turned((a[1], b[0]), parts[0], given)
    grouped = given.packing == LAYOUTS[1]
    return {
        name: replace(pair, turned=turned, expert=Expert(e, count, rank, *_rows(name, part, given), grouped))
        for name, (e, part) in weights.items()
    }


def _rows(weight: str, part: Part, given: "Given") -> tuple[int, int, int]:
    """How many rows of the fused parameter are a weight's, the first of them, and the step from one to the next."""
    rows = given.base[weight][0]
    return (rows, part.index, part.of) if part.mixed else (rows, part.index * rows, 1)


def _sides(part: Part, given: "Given") -> tuple[int, int]:
    """Rows and columns of one expert in the fused parameter, as if it did not lie turned over."""
    rows, columns = given.base[part.weight.replace("{e}", "0")]
    return rows * part.of, columns


def _is_turned(found: tuple[int, int], part: Part, given: "Given") -> bool:
    """Whether A has the parameter's rows for columns, by the shapes, or by PEFT's version where they are equal.

    Which way round PEFT takes a parameter that lies turned over is for the version of transformers too, so that other
    pairs of the adapter tell.
    """
    rows, columns = _sides(part, given)
    if found not in {(columns, rows), (rows, columns)}:
        raise MergeError(
            f"{given.path}: lora_A and lora_B of the experts are for {found[1]} x {found[0]} matrices, the base "
            f"model's are {rows} x {columns}. {other_base(given.config)}"
        )
    if rows != columns:
        return found == (rows, columns)
    version = re.match(r"(\d+)\.(\d+)", str(given.config.get("peft_version")))
    old = version is not None and (int(version[1]), int(version[2])) <= TURNED_UNTIL
    if part.turned is not False:
        return False if part.turned and old else _as_others(part, given)
    if version is None:
        raise MergeError(
            f"{given.path}: the experts' matrices are square ({rows} x {columns}), and adapter_config.json does not "
            "say peft_version, on which it depends which way round lora_A and lora_B lie. Add the one of the training."
        )
    return old


def _as_others(square: Part, given: "Given") -> bool:
    """Whether A has the rows for columns in pairs of other parameters that lie as this one; MergeError without any."""
    for name, shape in given.shapes.items():
        module = name.removeprefix(PREFIX).removesuffix(A)
        fused = parameter_of(module, given.config) if name.endswith(A) else None
        for part in given.split(fused)[:1] if fused else ():
            sides = _sides(part, given)
            if part.turned == square.turned and sides[0] != sides[1] and shape[1:] in {sides[:1], sides[1:]}:
                return shape[1] == sides[0]
    rows, columns = _sides(square, given)
    raise MergeError(
        f"{given.path}: the experts' matrices are square ({rows} x {columns}) and stored turned over, so that it "
        "depends on the versions of PEFT and transformers which way round lora_A and lora_B lie, and no other pair of "
        "the adapter tells. Merge it first with the PEFT and transformers of the training."
    )
