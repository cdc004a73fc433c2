"""Tiny random models of every architecture, made on the spot, and what llama.cpp's own converter makes of them."""

import json
from pathlib import Path
from typing import Any, Literal

from .models import TINY, spell
from .tokenizers import write_tokenizer
from .values import Tiny
from .weights import fingerprint, store, weights

__all__ = ["GOLDEN", "PROJECTORS", "TINY", "Tiny", "fingerprint", "golden", "make", "recorded", "weights"]

GOLDEN = Path(__file__).resolve().parents[1] / "reference" / "golden"
PROJECTORS = GOLDEN.parent / "projectors"


def make(
    name: str,
    folder: Path,
    *,
    dtype: Literal["float32", "float16", "bfloat16"] = "float32",
    spelling: Literal["v4", "v5"] = "v4",
    shards: int = 1,
) -> Path:
    """Write a tiny model as a Hugging Face checkpoint; the same bytes each time.

    Args:
        name: a key of `TINY`.
        folder: where to; made if it is absent.
        dtype: the float32 weights are rounded to it.
        spelling: of `config.json`, transformers 4 or 5.
        shards: with 2 or more, that many files and an index.

    Returns:
        `folder`, with config.json, generation_config.json, model*.safetensors and the tokenizer's files.
    """
    tiny = TINY[name]
    folder.mkdir(parents=True, exist_ok=True)
    config = spell(tiny, dtype, spelling)
    text = config.get("text_config", config)
    ids = {key: text[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id") if key in text}
    _write_json(folder / "config.json", config)
    _write_json(folder / "generation_config.json", {"_from_model_config": True, **ids})
    if tiny.processor is not None:
        _write_json(folder / "preprocessor_config.json", tiny.processor)
    write_tokenizer(tiny.tokenizer, folder)
    _write_weights(name, folder, dtype, shards)
    return folder


def golden(name: str, folder: Path = GOLDEN) -> dict[str, Any]:
    """What llama.cpp's converter made of a tiny model; `reference/make_golden.py` explains the fields.

    Where the converter cannot read the model's layout, the result of the same weights in another layout.
    """
    document = recorded(name, folder)
    return golden(document["same_as"], folder) if "same_as" in document else document


def recorded(name: str, folder: Path = GOLDEN) -> dict[str, Any]:
    """The file of a tiny model itself. FileNotFoundError, with the command that makes it, where it was never made."""
    file = folder / f"{name}.json"
    if not file.exists():
        raise FileNotFoundError(
            f"no golden values of {name}: python tests/reference/make_golden.py LLAMA_CPP --python VENV/bin/python "
            f"{name} (its docstring says what LLAMA_CPP and VENV are)"
        )
    document: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return document


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _write_weights(name: str, folder: Path, dtype: str, shards: int) -> None:
    from safetensors.torch import save_file  # noqa: PLC0415  (imports torch)

    tensors = store(name, dtype)
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        return
    names = sorted(tensors)
    files = [f"model-{i + 1:05}-of-{shards:05}.safetensors" for i in range(shards)]
    # Contiguous parts, so that a layer, or a layer's experts, may be cut in two.
    where = {key: files[index * shards // len(names)] for index, key in enumerate(names)}
    for file in files:
        save_file({key: tensors[key] for key in names if where[key] == file}, folder / file, {"format": "pt"})
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    _write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": where})
