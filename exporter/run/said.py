"""What a trainer's own files say of it, of the base and of the data: its YAML, and the model card."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from exporter.errors import RunError

LARGEST = 2**17
"""Bytes of a file that are read: a configuration, or a card, has a few thousand."""
# What each trainer itself writes into a model card, beside a tag of its name; prose about trainers says nothing of the
# run. In this order, for what stands first is built on what comes after.
MARKS = {
    "llama-factory": None,
    "axolotl": re.compile(r'^[-* ]{0,4}\[<img [^>\n]{0,500}\balt="Built with Axolotl"', re.MULTILINE),
    "unsloth": re.compile(r"^This (?:[\w.-]{1,80} )?model was trained 2x faster with \[Unsloth\]", re.MULTILINE),
    "trl": re.compile(r"^It has been trained using \[TRL\]", re.MULTILINE),
}
LOADERS = {
    *("json", "csv", "text", "parquet", "arrow", "xml", "pandas", "sql", "hdf5", "generator", "webdataset"),
    *("imagefolder", "audiofolder", "videofolder", "pdffolder"),
}
"""Loaders of the ``datasets`` library, which stand where a dataset's name does when it is a file of one's own."""
NO_NAMES = LOADERS | {"none"}
"""What a card has in a name's place where its trainer was told none."""
FRONT = re.compile(r"\ufeff?---[ \t]*\r?\n(|.*?\n)---[ \t]*\r?(?:\n|\Z)", re.DOTALL)
AXOLOTL = "<summary>See axolotl config</summary>"
"""What stands above Axolotl's configuration in its card."""
SENTENCE = re.compile(
    r"fine-tuned version of \[[^\]\n]{0,300}\]\([^)\n]{0,300}\) on (?!an unknown)([^\n]{1,2000}?) datasets?\."
)
"""How the Trainer's card names the data: `ModelCard` of transformers, and TRL's template."""


@dataclass(frozen=True)
class Said:
    """What one file says."""

    file: Path
    trainer: str | None = None
    bases: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    unread: str | None = None
    """A note, where a part of it could not be read."""


@dataclass(frozen=True)
class Form:
    """A trainer's YAML: the keys that it has, and those that hold the base and the data."""

    trainer: str
    keys: tuple[str, ...]
    any_of: tuple[str, ...] = ()
    base: str = ""
    dataset: str = ""


# The first form that fits is taken. Keys as each project writes them; `a.b` is nested, or a key with a dot in it.
FORMS = (
    Form("llama-factory", ("top.model_name",), dataset="train.dataset"),  # a name for the eye stands for the base
    Form(
        "llama-factory",
        ("model_name_or_path",),
        ("finetuning_type", "dataset_dir", "stage", "template"),
        base="model_name_or_path",
        dataset="dataset",
    ),
    Form("trl", ("model_name_or_path", "dataset_name"), base="model_name_or_path", dataset="dataset_name"),
    Form("verl", ("actor_rollout_ref.model.path",), base="actor_rollout_ref.model.path", dataset="data.train_files"),
    Form("torchtune", ("checkpointer._component_", "model._component_"), dataset="dataset"),  # its base is a folder
    Form(
        "axolotl",
        ("base_model",),
        ("datasets", "pretraining_dataset", "sequence_len", "micro_batch_size"),
        base="base_model",
        dataset="datasets",
    ),
)


def read_yaml(file: Path) -> Said | None:
    """What a trainer's YAML says; None for a file of another kind, or one that is no YAML."""
    fields = _parse(read_text(file))
    return _by_form(fields, file) if fields else None


def _by_form(fields: Mapping[str, Any], file: Path) -> Said | None:
    """What fields of a known form say."""
    for form in FORMS:
        has = [_at(fields, key) is not None for key in form.keys]
        if all(has) and (not form.any_of or any(key in fields for key in form.any_of)):
            base = _at(fields, form.base)
            return Said(
                file=file,
                trainer=form.trainer,
                bases=(base,) if isinstance(base, str) and base else (),
                datasets=_datasets(_at(fields, form.dataset)),
            )
    return None


def read_card(file: Path) -> Said:
    """What a model card says: its front matter, Axolotl's configuration in it, the Trainer's sentence on the data."""
    text = read_text(file)
    fields = front_matter(text)
    inside = text.partition(AXOLOTL)[2].partition("```yaml\n")[2].partition("\n```")[0]
    axolotl = _by_form(_parse(inside) or {}, file)
    named = (fields or {}).get("base_model")
    only = named[0] if isinstance(named, list) and len(named) == 1 else named  # several are those of a merge
    bases = (only,) if isinstance(only, str) and only.lower() not in {"", "none"} else ()
    return Said(
        file=file,
        trainer=axolotl.trainer if axolotl else _by_marks(text, fields or {}),
        bases=(*(axolotl.bases if axolotl else ()), *bases),
        datasets=(axolotl.datasets if axolotl else ())
        or _named(_datasets((fields or {}).get("datasets")))
        or _named(_in_words(text)),
        unread="its front matter is no YAML, so no base and no dataset were looked for in it"
        if fields is None
        else None,
    )


def front_matter(text: str) -> dict[str, Any] | None:
    """A model card's fields, as far as they are strings, lists and mappings; None where they are no YAML mapping."""
    front = FRONT.match(text)
    return _parse(front.group(1)) if front else {}


def tags_of(fields: Mapping[str, Any]) -> set[str]:
    """The tags of a card's front matter, in lower case."""
    tags = fields.get("tags")
    return {tag.lower() for tag in tags if isinstance(tag, str)} if isinstance(tags, list) else set()


def _by_marks(text: str, fields: Mapping[str, Any]) -> str | None:
    """The trainer by a card's tags, or by what the trainer itself writes into it."""
    tags = tags_of(fields)
    return next((name for name, mark in MARKS.items() if name in tags or (mark and mark.search(text))), None)


def _named(datasets: tuple[str, ...]) -> tuple[str, ...]:
    """Those of a card's datasets that have a name of their own."""
    return tuple(name for name in datasets if name.lower() not in NO_NAMES)


def _in_words(text: str) -> tuple[str, ...]:
    """The datasets in the sentence that the Trainer's card begins with."""
    sentence = SENTENCE.search(text)
    if sentence is None:
        return ()
    names = re.split(r",? and the |, the ", sentence.group(1).removeprefix("the "))
    return tuple(re.sub(r"^\[([^\]]*)\].*", r"\1", name.strip()) for name in names)


def read_text(file: Path) -> str:
    """The beginning of a file; empty where there is none. RunError where it cannot be read."""
    if not file.is_file():
        return ""
    try:
        with file.open("rb") as opened:
            return opened.read(LARGEST).decode("utf-8", errors="replace")
    except OSError as error:
        raise RunError(f"{file}: cannot be read ({error.strerror}). Make it readable, or move it away.") from error


def _parse(text: str) -> dict[str, Any] | None:
    """A YAML mapping with its strings, lists and mappings, all else as None; {} for nothing, None for all other kinds.

    Nothing is constructed: the nodes are looked at, each once, so that neither tags nor aliases nor merges can do
    more than their text is long.
    """
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        fields = _plain(node, {}) if node else {}
    except (yaml.YAMLError, ValueError, RecursionError):
        return None
    return fields if isinstance(fields, dict) else None


def _plain(node: yaml.Node | None, done: dict[int, object]) -> object:
    """A node's value; None for a node within itself, and for one of another tag."""
    if id(node) not in done:
        done[id(node)] = None
        match node:
            case yaml.MappingNode(tag="tag:yaml.org,2002:map"):
                entries = [(_plain(key, done), value) for key, value in node.value]
                done[id(node)] = {key: _plain(value, done) for key, value in entries if isinstance(key, str)}
            case yaml.SequenceNode(tag="tag:yaml.org,2002:seq"):
                done[id(node)] = [_plain(value, done) for value in node.value]
            case yaml.ScalarNode(tag="tag:yaml.org,2002:str"):
                done[id(node)] = node.value
    return done[id(node)]


def _at(fields: Mapping[str, Any], key: str) -> Any:  # noqa: ANN401  (YAML)
    """A field, by its own name or by the names on the way to it; None where it is not there."""
    if key in fields:
        return fields[key]
    first, _, rest = key.partition(".")
    inner = fields.get(first)
    return _at(inner, rest) if rest and isinstance(inner, dict) else None


def _datasets(value: object) -> tuple[str, ...]:
    """Names of datasets: one, several with commas between, or a list of names or of descriptions."""
    if isinstance(value, str):
        return tuple(name.strip() for name in value.split(",") if name.strip())
    entries = value if isinstance(value, list) else [value]
    return tuple(dict.fromkeys(name for name in map(_dataset, entries) if name))  # aliases may repeat one without end


def _dataset(entry: object) -> str | None:
    """A dataset by its name, or by a description of Axolotl's or torchtune's: where it is, else what loads it."""
    if not isinstance(entry, dict):
        return entry if isinstance(entry, str) else None
    named = [entry.get(key) for key in ("path", "source")]
    files = entry.get("data_files")
    files = files[0] if isinstance(files, list) and files else files
    places = [one for one in named if isinstance(one, str) and one not in LOADERS] if files else named
    return next((one for one in (*places, files, entry.get("_component_")) if isinstance(one, str)), None)
