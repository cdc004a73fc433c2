"""TOML -> Profile: every field is checked, and what is not known is refused by its name."""

import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from fnmatch import translate
from functools import cache
from importlib import resources
from itertools import product
from pathlib import Path

import gguf

from exporter.errors import ProfileError
from exporter.profiles.rules import PATTERNS, SIZE_CLASSES, TYPES, Profile, Rule, quantizes_name

KINDS: dict[str, tuple[str, Callable[[object], bool]]] = {
    "text": ("a text", lambda value: isinstance(value, str)),
    "texts": (
        "a list of texts",
        lambda value: isinstance(value, list) and all(isinstance(v, str) for v in value or [0]),
    ),
    "count": ("a whole number", lambda value: type(value) is int and value >= 0),
    "switch": ("true or false", lambda value: isinstance(value, bool)),
    "tables": ("[[rule]] tables", lambda value: isinstance(value, list) and all(isinstance(v, dict) for v in value)),
}
PROFILE_FIELDS = {"name": "text", "file_type": "text", "default": "text", "rule": "tables"}
RULE_FIELDS = (
    dict.fromkeys(("tensors", "arch"), "texts")
    | dict.fromkeys(("layers", "size_class", "type"), "text")
    | dict.fromkeys(("experts", "gqa_min"), "count")
    | dict.fromkeys(("tied", "imatrix"), "switch")
)
NAMES: dict[str, tuple[str, ...]] = {
    "default": TYPES,
    "type": TYPES,
    "file_type": tuple(kind.name for kind in gguf.LlamaFileType if kind.name != "GUESSED"),
    "layers": tuple(PATTERNS),
    "size_class": tuple(SIZE_CLASSES),
    "arch": tuple(gguf.MODEL_ARCH_NAMES.values()),
}
LAYERS_TRIED = 256  # a glob may name single layers: so many are tried before it is called a mistake


@cache
def profile_names() -> tuple[str, ...]:
    """The built-in levels, from most to fewest bits; at the same default type llama.cpp's richer mixture first."""
    files = (file for file in resources.files("quant_profiles").iterdir() if file.name.endswith(".toml"))
    profiles = [parse_profile(file.read_text(encoding="utf-8"), file.name) for file in files]
    profiles.sort(key=lambda profile: (_fewest_bits(profile), profile.file_type_id), reverse=True)
    return tuple(profile.name for profile in profiles)


def load_profile(name_or_path: str) -> Profile:
    """Return a built-in level by its name (in any case), or the profile in a ``.toml`` file.

    Raises:
        ProfileError: There is no such level or file, or the file is not a profile, or it takes a built-in level's name.
    """
    if not name_or_path.lower().endswith(".toml"):
        name = name_or_path.lower()
        if name not in profile_names():
            hint = "A profile of your own is given as the path of a .toml file."
            raise ProfileError(f"there is no level {name_or_path!r}. {_known(name, profile_names())} {hint}")
        return _built_in(name)
    try:
        text = Path(name_or_path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise ProfileError(
            f"{name_or_path}: the profile cannot be read: {why}. Give a level's name, or the path of a TOML file."
        ) from error
    profile = parse_profile(text, name_or_path)
    if profile.name in profile_names() and text != _built_in(profile.name).text:
        raise ProfileError(
            f"{name_or_path}: field `name`: {profile.name!r} is a built-in level, and this file differs from it. "
            "Give it a name of its own: it becomes part of the output's file name."
        )
    return profile


def parse_profile(text: str, where: str) -> Profile:
    """Return the profile that TOML text describes; ``where`` is its file, for messages.

    Raises:
        ProfileError: Not TOML, or an unknown, missing or wrong field; names the file, the rule and the field.
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ProfileError(f"{where}: this is not TOML: {error}.") from error
    _check(table, where, PROFILE_FIELDS, ("name", "file_type", "default"))
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", table["name"]):
        wanted = "small letters, digits and . _ - (it becomes part of the output's file name)"
        raise ProfileError(f"{where}: field `name`: {table['name']!r} is not a name of {wanted}.")
    rules = tuple(_rule(row, f"{where}: rule {number}") for number, row in enumerate(table.get("rule", []), 1))
    return Profile(table["name"], table["file_type"], table["default"], rules, text)


def bits_per_weight(name: str) -> float:
    """Bits that a type takes for each weight, its scales included: 4.5 for Q4_K."""
    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]
    return 8 * float(size) / float(block)


def _fewest_bits(profile: Profile) -> float:
    """The bits for each weight of the smallest type that a profile gives."""
    return min(bits_per_weight(name) for name in (profile.default, *(rule.type for rule in profile.rules)))


def _built_in(name: str) -> Profile:
    text = (resources.files("quant_profiles") / f"{name}.toml").read_text(encoding="utf-8")
    return parse_profile(text, f"{name}.toml")


def _rule(row: Mapping[str, object], where: str) -> Rule:
    _check(row, where, RULE_FIELDS, ("type",))
    if len(row) == 1:
        raise ProfileError(f"{where}: it has no condition, so it fits every tensor. Use the field `default` for that.")
    values = {field: tuple(value) if isinstance(value, list) else value for field, value in row.items()}
    rule = Rule(**values)  # type: ignore[arg-type]  # _check has compared every value with its kind
    for glob in rule.tensors:
        _check_glob(glob, where)
    return rule


def _check(table: Mapping[str, object], where: str, fields: Mapping[str, str], required: Iterable[str]) -> None:
    for field, value in table.items():
        if field not in fields:
            raise ProfileError(f"{where}: there is no field `{field}`. {_known(field, fields)}")
        expected, fits = KINDS[fields[field]]
        if not fits(value):
            raise ProfileError(f"{where}: field `{field}`: {value!r} is not {expected}.")
        for item in value if isinstance(value, list) else [value]:
            if item not in NAMES.get(field, (item,)):
                raise ProfileError(f"{where}: field `{field}`: {item!r} is unknown. {_known(str(item), NAMES[field])}")
    for field in required:
        if field not in table:
            raise ProfileError(f"{where}: the field `{field}` is missing.")


def _check_glob(glob: str, where: str) -> None:
    fits = re.compile(translate(glob)).match
    names = (
        f"{stem}.weight".replace("{bid}", str(i))
        for i, stem in product(range(LAYERS_TRIED), gguf.TENSOR_NAMES.values())
    )
    if not any(fits(name) and quantizes_name(name) for name in names):
        hint = "Names are those of a GGUF file, as blk.*.ffn_down.weight; norms and vectors are always F32."
        raise ProfileError(f"{where}: field `tensors`: {glob!r} fits no tensor that is ever quantized. {hint}")


def _known(name: str, known: Iterable[str]) -> str:
    near = get_close_matches(name, known := list(known), n=3)
    return (f"Did you mean {' or '.join(near)}? " if near else "") + f"Known: {', '.join(known)}."
