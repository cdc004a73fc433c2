"""The methods of ``quantization_config`` that are read, and the view they give over a folder's tensors."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from exporter.errors import SourceError
from exporter.source.files import FLOATS, Stored, TensorFiles
from exporter.source.quantized import awq, bitsandbytes, compressed, fp8, gptq, mxfp4, scheme
from exporter.source.quantized.fields import Fields, check_fields
from exporter.source.quantized.values import Folder, Packed, refused
from exporter.source.quantized.view import Dequantized

ACTIVATIONS = "scales of quantized activations"
CACHE = "scales of a quantized key-value cache"


@dataclass(frozen=True)
class Method:
    """One ``quant_method``: its fields, how its weights are found, and the endings of what is knowingly left out."""

    find: Callable[[Folder], Iterator[Packed]]
    fields: Fields
    dropped: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


_CACHE = {CACHE: (".k_scale", ".v_scale", ".q_scale", ".kv_scale", ".k_zero_point", ".v_zero_point")}
METHODS: Mapping[str, Method] = {
    "bitsandbytes": Method(bitsandbytes.find, bitsandbytes.FIELDS),
    "fp8": Method(fp8.find, fp8.FIELDS, _CACHE | {ACTIVATIONS: ("activation_scale", ".input_scale")}),
    "fbgemm_fp8": Method(fp8.find_fbgemm, fp8.FBGEMM_FIELDS, {ACTIVATIONS: (".input_scale_ub",)}),
    "mxfp4": Method(mxfp4.find, mxfp4.FIELDS),
    "gptq": Method(gptq.find, gptq.FIELDS),
    "awq": Method(awq.find, awq.FIELDS),
    "compressed-tensors": Method(
        compressed.find,
        scheme.FIELDS,
        _CACHE | {ACTIVATIONS: (".input_scale", ".input_zero_point", ".output_scale", ".output_zero_point")},
    ),
}


def dequantized(files: TensorFiles, settings: object, where: str) -> TensorFiles | Dequantized:
    """A folder's tensors with its quantized weights as if they were stored plain; as they are without ``settings``.

    Args:
        files: the opened files; of their tensors only the small ones are read that hold shapes and tables.
        settings: ``quantization_config`` of config.json, or None.
        where: the folder, for messages.

    Raises:
        SourceError: an unknown method or field, a missing part, or one that belongs to no weight or to two.
    """
    if settings is None:
        return files
    if not isinstance(settings, dict):
        raise SourceError(f"{where}: config.json's quantization_config is {settings!r}, expected an object.")
    name = _method(settings)
    folder = Folder(where, files.tensors, settings, files.take)
    if name is None or name not in METHODS:
        raise refused(folder, "quantization_config.quant_method", f"is {name!r}; read are: {', '.join(METHODS)}")
    method = METHODS[name]
    check_fields(folder, "quantization_config", settings, method.fields)
    dropped = {part: [one for one in files.tensors if one.endswith(ends)] for part, ends in method.dropped.items()}
    out = {one for names in dropped.values() for one in names}
    kept = Folder(where, {one: stored for one, stored in files.tensors.items() if one not in out}, settings, files.take)
    packed = tuple(method.find(kept))
    return Dequantized(files, _plain(kept, packed), packed, tuple(part for part, names in dropped.items() if names))


def _method(settings: Mapping[str, object]) -> str | None:
    """The method's name; transformers takes a config without one, but with bitsandbytes' fields, for that."""
    name = settings.get("quant_method")
    if name is None and (settings.get("load_in_4bit") or settings.get("load_in_8bit")):
        return "bitsandbytes"
    return str(name).lower() if name is not None else None


def _plain(folder: Folder, packed: tuple[Packed, ...]) -> dict[str, Stored]:
    """What is stored plain. SourceError for a part of two weights, a weight stored twice, or a part of none."""
    owner: dict[str, str] = {}
    for weight in packed:
        for part in weight.parts:
            if part in owner:
                raise refused(folder, part, f"is a part of two weights, {owner[part]} and {weight.name}")
            owner[part] = weight.name
    plain = {name: stored for name, stored in folder.stored.items() if name not in owner}
    for weight in packed:
        if weight.name in plain:
            raise refused(folder, weight.name, f"is stored twice, plain and as {weight.parts[0]}")
    for name, stored in plain.items():
        if stored.dtype not in FLOATS and name.endswith((".weight", *_PARTS)):
            raise refused(folder, name, f"is stored as {stored.dtype}, and without the parts that say what it means")
    return plain


_PARTS = (".qweight", ".qzeros", ".g_idx", ".weight_packed", ".weight_shape", "_blocks", "_scales", ".absmax")
