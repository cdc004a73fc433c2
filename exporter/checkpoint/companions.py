"""What stands beside the weights: the configuration as the finished weights make it, the tokenizer, the templates."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converters.spec import EMBEDDING
from exporter.config import read_json
from exporter.errors import RunError
from exporter.run.folder import is_native

if TYPE_CHECKING:
    from exporter.merge import Merged
    from exporter.run import Run

TYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
BESIDE_TOKENIZER = ("vocab.json", "merges.txt")
BESIDE_WEIGHTS = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")
"""What a model of pictures needs beside its weights, for the parts that are copied."""


def companions(run: "Run", source: "Merged", dtype: str) -> dict[str, bytes]:
    """The contents of every file but the weights', by name; never an adapter's configuration.

    RunError for a file that cannot be read.
    """
    if is_native(run.base):
        raise RunError(
            f"{run.base}: holds a model in Mistral's own format, of which no Hugging Face checkpoint is made: its rows "
            "are in another order. Export it, or give the model in Hugging Face's format."
        )
    config = read_json(run.base / "config.json")
    files = {"config.json": _text(finished_config(config, run, source, dtype))}
    for name, path in run.tokenizer_files.items():
        if name == "chat_template.json" and path.name != name:  # the base's tokenizer_config.json, for its template
            files |= _template(path)
        else:
            files[name] = _bytes(path)
    tokenizer = run.tokenizer_files.get("tokenizer.json")
    beside = [tokenizer.parent / name for name in BESIDE_TOKENIZER] if tokenizer else []
    beside += [run.base / name for name in BESIDE_WEIGHTS if run.family.left_out]
    return files | {path.name: _bytes(path) for path in beside if path.is_file()}


def finished_config(config: Mapping[str, Any], run: "Run", source: "Merged", dtype: str) -> dict[str, Any]:
    """The base's configuration as the finished weights make it: head, vocabulary, layers, type; no quantizing."""
    named = config if "dtype" in config else {**config, "torch_dtype": None}
    finished = _adjusted(named, tied=source.tied, dtype=dtype)
    text = config.get("text_config")
    inner = _adjusted(text, tied=source.tied, dtype=dtype) if isinstance(text, Mapping) else finished
    inner["vocab_size"] = source.shapes()[EMBEDDING][0]
    if run.layers is not None:
        inner["num_hidden_layers"] = len(run.layers)
        if isinstance(kinds := inner.get("layer_types"), list):  # which are all alike
            inner["layer_types"] = kinds[:1] * len(run.layers)
    if inner is not finished:
        finished["text_config"] = inner
        if "vocab_size" in finished:
            finished["vocab_size"] = inner["vocab_size"]
    return finished


def _adjusted(config: Mapping[str, Any], *, tied: bool, dtype: str) -> dict[str, Any]:
    """One level of a configuration; the type under the names that it has there."""
    kept = {key: value for key, value in config.items() if key != "quantization_config"}
    types = {name: TYPES[dtype] for name in ("dtype", "torch_dtype") if name in kept}
    return kept | types | {"tie_word_embeddings": tied}


def _template(path: Path) -> dict[str, bytes]:
    """A template that a tokenizer_config.json holds, as a file of its own."""
    template = read_json(path).get("chat_template")
    if isinstance(template, str):
        return {"chat_template.jinja": template.encode()}
    return {"chat_template.json": _text({"chat_template": template})} if template else {}


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror}). Copy the file again.") from error


def _text(value: object) -> bytes:
    # Lone surrogates, which JSON may hold as escapes, are written as escapes again.
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode(errors="backslashreplace")
