"""The files of a tokenizer, found in a run and its base, and read into one value."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any

from exporter.errors import TokenizerError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

# One writer saves these together: they are taken from one folder, or tokens and flags of two models mix.
CORE = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
LOOSE = ("tokenizer.model", "tekken.json", "generation_config.json")
TEMPLATES = ("chat_template.jinja", "chat_template.json")
VOCABULARIES = ("tokenizer.json", "tokenizer.model", "tekken.json", "added_tokens.json")
"""Files that hold tokens, among those that `find_tokenizer_files` finds; a tiktoken file's name only ends alike."""
SLOW = ("vocab.json", "merges.txt")
"""What slow tokenizers of BPE leave beside: not read, but their folder holds a tokenizer."""
NAMED_TEMPLATES = "additional_chat_templates"


@dataclass(frozen=True)
class TokenizerFiles:
    """What the files say, as it is written in them; a file that is absent is an empty mapping."""

    spec: Mapping[str, Any]  # tokenizer.json
    config: Mapping[str, Any] = field(default_factory=dict)  # tokenizer_config.json
    special_map: Mapping[str, Any] = field(default_factory=dict)  # special_tokens_map.json
    added: Mapping[str, Any] = field(default_factory=dict)  # added_tokens.json: text -> id
    generation: Mapping[str, Any] = field(default_factory=dict)  # generation_config.json
    templates: Mapping[str, str] = field(default_factory=dict)  # name -> Jinja text; the one used is "default"
    template_source: str | None = None  # the file that the default template comes from
    model: Path | None = None  # tokenizer.model, which only SentencePiece tokenizers have
    names: tuple[str, ...] = ()  # of all files, for messages


def find_tokenizer_files(run: Path, base: Path | None = None) -> dict[str, Path]:
    """Choose each tokenizer file: the run's own, else the base's.

    The core files go together: where the run has a ``tokenizer.json``, none of them comes from the base. The base's
    ``chat_template.jinja`` is left alone where a template stands in the run's ``tokenizer_config.json``, because inside
    one folder the ``.jinja`` file wins.

    Returns:
        File name (relative, with forward slashes) -> path, as `read_tokenizer` takes it.
    """
    folders = [run] if base is None or base == run else [run, base]
    own_core = (run / "tokenizer.json").is_file()
    found: dict[str, Path] = {}
    for folder in folders:
        core = CORE if folder == run or not own_core else ()
        templated = _has_template(found)
        found |= {name: folder / name for name in (*core, *LOOSE) if name not in found and (folder / name).is_file()}
        if not set(found).intersection(("tokenizer.json", "tokenizer.model", "tekken.json")):
            numbered = sorted(folder.glob("tokenizer.model.v*"))  # as Mistral has them
            found |= {"tokenizer.model": numbered[-1]} if numbered else {}
        if not any(name.endswith(".tiktoken") for name in found):
            found |= {file.name: file for file in sorted(folder.glob("*.tiktoken"))[:1]}
        if not templated:
            found |= {name: folder / name for name in TEMPLATES if (folder / name).is_file()}
            named = sorted((folder / NAMED_TEMPLATES).glob("*.jinja"))
            found |= {f"{NAMED_TEMPLATES}/{path.name}": path for path in named}
    if not _has_template(found) and base is not None and (base / "tokenizer_config.json").is_file():
        found["chat_template.json"] = base / "tokenizer_config.json"  # same key, same forms
    return found


def of_tokens(files: Mapping[str, Path]) -> list[Path]:
    """Those of a tokenizer's files that hold tokens."""
    return [file for name, file in files.items() if name in VOCABULARIES or name.endswith(".tiktoken")]


def tokenizer_folder(places: Sequence[Path]) -> Path | None:
    """The first folder with a tokenizer of any kind, else the first with any file of one; None where none has.

    Args:
        places: the folders in which a run's tokenizer may lie, the surest first.
    """
    whole = (place for place in places if _holds_tokens(place))
    some = (place for place in places if set(find_tokenizer_files(place)) - {"generation_config.json"})
    return next(chain(whole, some), None)


def _holds_tokens(folder: Path) -> bool:
    return bool(of_tokens(find_tokenizer_files(folder))) or any((folder / name).is_file() for name in SLOW)


def read_files(files: Mapping[str, Path]) -> TokenizerFiles:
    """Read every file that is there.

    Raises:
        TokenizerError: There is no tokenizer.json, or a file is no JSON object.
    """
    if "tokenizer.json" not in files:
        where = "".join(f"{file.parent}: " for file in [*files.values()][:1])
        raise TokenizerError(
            f"{where}No tokenizer.json; found {', '.join(sorted(files)) or 'no tokenizer file at all'}. Copy it (or "
            "tokenizer.model) from the base model's folder to the run's. Where the run has vocab.json and "
            "merges.txt, AutoTokenizer.from_pretrained(RUN).save_pretrained(RUN) of transformers makes one of them."
        )
    config = _read_json(files, "tokenizer_config.json")
    templates, source = _read_templates(files, config)
    _check_templates(templates, source)
    return TokenizerFiles(
        spec=_read_json(files, "tokenizer.json"),
        config=config,
        special_map=_read_json(files, "special_tokens_map.json"),
        added=_read_json(files, "added_tokens.json"),
        generation=_read_json(files, "generation_config.json"),
        templates={name: text for name, text in templates.items() if text.strip()},
        template_source=source,
        model=files.get("tokenizer.model"),
        names=tuple(files),
    )


def _has_template(found: Mapping[str, Path]) -> bool:
    return any(name in found for name in TEMPLATES) or bool(
        _read_json(found, "tokenizer_config.json").get("chat_template")
    )


def _read_json(files: Mapping[str, Path], name: str) -> dict[str, Any]:
    if name not in files:
        return {}
    path = files[name]
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise TokenizerError(f"{path}: cannot be read as JSON ({error}). Copy the file again.") from error
    if not isinstance(value, dict):
        raise TokenizerError(f"{path}: holds a {type(value).__name__}, expected a JSON object. Copy the file again.")
    return value


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TokenizerError(f"{path}: cannot be read as UTF-8 ({error}). Copy the file again.") from error


def _read_templates(files: Mapping[str, Path], config: Mapping[str, Any]) -> tuple[dict[str, str], str | None]:
    """Return the chat templates by name, and the file of the default one, in the order in which transformers looks."""
    if "chat_template.jinja" in files:
        templates = {"default": _read_text(files["chat_template.jinja"])}
        named = [name for name in files if name.startswith(f"{NAMED_TEMPLATES}/")]
        templates |= {files[name].stem: _read_text(files[name]) for name in sorted(named)}
        return templates, "chat_template.jinja"
    if config.get("chat_template"):
        return _template_forms(config["chat_template"], files["tokenizer_config.json"]), "tokenizer_config.json"
    value = _read_json(files, "chat_template.json").get("chat_template")
    if value:
        return _template_forms(value, files["chat_template.json"]), files["chat_template.json"].name
    return {}, None


def _check_templates(templates: Mapping[str, str], source: str | None) -> None:
    """TokenizerError for a template with a zero byte, at which llama.cpp would take it to end."""
    for name, text in templates.items():
        if "\0" in text:
            raise TokenizerError(
                f"{source}: the chat template {name!r} holds a zero byte at character {text.index(chr(0))}, where "
                "llama.cpp takes a text to end. Take the byte out, or copy the template again from the base model."
            )


def _template_forms(value: object, path: Path) -> dict[str, str]:
    """Spell a template's three forms (a text, a list of named ones, a mapping) as one mapping."""
    if isinstance(value, str):
        return {"default": value}
    if isinstance(value, dict):
        pairs = list(value.items())
    elif isinstance(value, list) and all(isinstance(item, dict) for item in value):
        pairs = [(item.get("name"), item.get("template")) for item in value]
    else:
        pairs = [(None, None)]
    if not all(isinstance(name, str) and isinstance(text, str) for name, text in pairs):
        raise TokenizerError(
            f"{path}: chat_template is neither a text nor a list of {{name, template}}. Save the tokenizer again with "
            "transformers, or put the template into chat_template.jinja beside it."
        )
    return dict(pairs)
