"""compressed-tensors' ``config_groups``: which scheme the weights of which modules have."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from exporter.source.quantized.fields import ANY, Fields, check_fields
from exporter.source.quantized.values import Folder, refused

FORMATS = ("pack-quantized", "int-quantized", "float-quantized", "naive-quantized")
FIELDS: Fields = dict.fromkeys(
    (
        *("quant_method", "config_groups", "ignore", "kv_cache_scheme", "global_compression_ratio", "version"),
        *("sparsity_config", "run_compressed", "dequantize", "use_optimized_inference"),
    ),
    ANY,
) | {
    "format": (*FORMATS, "dense", "mixed-precision"),
    "quantization_status": ("compressed", "frozen"),
    "transform_config": ({},),
    "moe_sparsity_config": ({},),
}
GROUP: Fields = dict.fromkeys(("targets", "weights", "input_activations", "output_activations"), ANY) | {
    "format": FORMATS
}
WEIGHTS: Fields = {
    **dict.fromkeys(("observer", "observer_kwargs", "scale_dtype", "zp_dtype", "group_size", "block_structure"), ANY),
    "symmetric": (True, False),
    "dynamic": (False,),
    "num_bits": (1, 2, 3, 4, 5, 6, 7, 8),
    "type": ("int", "float"),
    "strategy": ("tensor", "channel", "group", "block"),
    "actorder": ("weight", "static", "group", "dynamic", False, True),
}
EVERY = ("Linear", "Embedding", "ParallelLMHead", "VocabParallelEmbedding")
"""Classes as targets: which modules are of them, what is stored says."""


@dataclass(frozen=True)
class Scheme:
    """How the weights of some modules are stored."""

    targets: tuple[str, ...]
    bits: int
    kind: str
    symmetric: bool
    strategy: str
    group: int
    structure: tuple[int, ...]
    ordered: bool

    def block(self, folder: Folder, name: str, shape: tuple[int, ...]) -> tuple[int, int]:
        """How many rows and columns of a weight share a scale. SourceError where the scheme does not say."""
        rows, columns = shape[-2:]
        if self.strategy == "group" and self.group > 0:
            return 1, min(self.group, columns)
        if self.strategy == "block" and len(self.structure) == 2 and min(self.structure) > 0:  # noqa: PLR2004
            return min(self.structure[0], rows), min(self.structure[1], columns)
        if self.strategy in {"tensor", "channel"}:
            return (rows if self.strategy == "tensor" else 1), columns
        raise refused(folder, name, f"has scales by {self.strategy} without a size (quantization_config.config_groups)")


def read_schemes(folder: Folder) -> tuple[Scheme, ...]:
    """The schemes that quantize weights. SourceError for one that is not read here."""
    sparse = folder.settings.get("sparsity_config") or {}
    if not isinstance(sparse, dict) or sparse.get("format", "dense") != "dense":
        raise refused(folder, "quantization_config.sparsity_config", f"is {sparse!r}; read is dense")
    groups = folder.settings.get("config_groups")
    if not isinstance(groups, dict):
        raise refused(folder, "quantization_config.config_groups", f"is {groups!r}, expected named schemes")
    read = (_scheme(folder, f"quantization_config.config_groups.{name}", group) for name, group in groups.items())
    return tuple(scheme for scheme in read if scheme is not None)


def scheme_of(folder: Folder, module: str, schemes: Sequence[Scheme]) -> Scheme:
    """A module's scheme: the only one there is, or that whose target names it. SourceError for none, or several."""
    found = schemes if len(schemes) == 1 else [scheme for scheme in schemes if _fits(scheme.targets, module)]
    if len(found) > 1:  # a name or a pattern goes before a class
        found = [scheme for scheme in found if _fits(scheme.targets, module, classes=False)] or found
    if len(found) != 1:
        why = f"is stored quantized, and {len(found)} of {len(schemes)} schemes (config_groups) are for it"
        raise refused(folder, module, why)
    return found[0]


def _scheme(folder: Folder, where: str, group: object) -> Scheme | None:
    """One scheme; None for one that leaves the weights as they are."""
    if not isinstance(group, dict):
        raise refused(folder, where, f"is {group!r}, expected a scheme's fields")
    check_fields(folder, where, group, GROUP)
    weights = group.get("weights")
    if weights is None:
        return None
    if not isinstance(weights, dict):
        raise refused(folder, f"{where}.weights", f"is {weights!r}, expected fields")
    check_fields(folder, f"{where}.weights", weights, WEIGHTS)
    size, structure = weights.get("group_size"), _structure(weights.get("block_structure"))
    targets = group.get("targets") or []
    if structure is None or not isinstance(targets, list) or not isinstance(size, int | None):
        raise refused(folder, where, f"has no known targets, group_size or block_structure: {group!r}")
    for target in targets:
        _check_target(folder, where, str(target))
    strategy = weights.get("strategy") or ("tensor" if size is None else "channel" if size == -1 else "group")
    kind, bits = str(weights.get("type") or "int").lower(), weights.get("num_bits") or 8
    if kind == "float" and bits != 8:  # noqa: PLR2004
        raise refused(folder, f"{where}.weights", f"is float of {bits} bits; read is float of 8")
    return Scheme(
        targets=tuple(str(target) for target in targets),
        bits=bits,
        kind=kind,
        symmetric=weights.get("symmetric", True) is not False,
        strategy=str(strategy).lower(),
        group=size or 0,
        structure=structure,
        ordered=str(weights.get("actorder")).lower() in {"group", "dynamic", "true"},
    )


def _structure(value: object) -> tuple[int, ...] | None:
    """A block's height and width, ``[128, 128]`` or ``"128x128"``; empty where it is not given, None for no sizes."""
    parts = value.split("x") if isinstance(value, str) else [] if value is None else value
    if not isinstance(parts, list) or not all(str(one).isascii() and str(one).isdecimal() for one in parts):
        return None
    return tuple(int(one) for one in parts)


def _check_target(folder: Folder, where: str, target: str) -> None:
    """SourceError for a pattern that is none."""
    try:
        re.compile(target.removeprefix("re:") if target.startswith("re:") else "")
    except (re.error, OverflowError, RecursionError) as error:
        raise refused(folder, f"{where}.targets", f"holds {target!r:.80}, no regular expression ({error})") from None


def _fits(targets: Sequence[str], module: str, *, classes: bool = True) -> bool:
    """Whether a target is the module's name, a pattern that it begins with, or a class."""
    return any(
        target == module
        or (target.startswith("re:") and re.match(target.removeprefix("re:"), module) is not None)
        or (classes and target in EVERY)
        for target in targets
    )
