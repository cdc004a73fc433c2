"""Record what llama.cpp's own converter makes of each tiny model, in `golden/NAME.json`.

Run by hand, once for each new tiny model; the tests only read the files. The converter comes with a source release:

    pip download --no-deps --no-binary llama-cpp-python llama-cpp-python==0.3.36
    tar xf llama_cpp_python-0.3.36.tar.gz
    python tests/reference/make_golden.py llama_cpp_python-0.3.36/vendor/llama.cpp --python VENV/bin/python

VENV is an environment with what that converter asks for: torch, transformers 4.57.6, sentencepiece, protobuf, numpy.
It uses the gguf package beside it. Names after the arguments restrict the run to these models.

A file holds

- `source`: SHA-256 of the canonical weights, and which converter it was;
- `metadata`: for each key its GGUF type (`STRING[]` for an array) and its value, without the `general.*` names;
- `tensors`, in the order of the file: `ne` (ggml's order, the row's width first), `type`, SHA-256 of the data,
  all of `--outtype f32`; under `bf16` type and SHA-256 of `--outtype bf16`;
`projectors/NAME.json` is the same of the projector's file, of each model that has one: `--mmproj`, at f16, bf16 and
q8_0, each tensor with `ne` and, for each level, type and SHA-256; the metadata is that of f16.

- or, if the converter cannot read the layout, `failure`, its last words, and `same_as`, a model of equal weights;
  without that, the model in no layout: then its logits decide alone.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import gguf
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tiny import GOLDEN, PROJECTORS, TINY, fingerprint, make, weights
from tiny.values import Kind

LEVELS = ("f16", "bf16", "q8_0")
CONVERTER = "llama.cpp of llama-cpp-python 0.3.36, transformers 4.57.6"
KEPT = {"general.architecture", "general.type", "general.file_type", "general.quantization_version"}
# The converter knows a byte-level BPE by a hash over the whole vocabulary, so it cannot know a tiny one.
PRE: dict[Kind, str] = {"llama3": "llama-bpe", "llama3-image": "llama-bpe", "qwen": "qwen2", "glm": "qwen2"}
WITHOUT_MTP = ("Qwen3Next", "Qwen3_5")
"""Architectures of which ggufx, and the converter if asked, leave out the layers that predict further tokens."""
WRAPPER = """
import runpy, sys
root, pre, mend, *arguments = sys.argv[1:]
sys.path[:0] = [root, root + "/gguf-py"]
from conversion.base import TextModel
TextModel.get_vocab_base_pre = lambda self, tokenizer: pre
exec(mend)
sys.argv = ["convert_hf_to_gguf.py", *arguments]
runpy.run_path(root + "/convert_hf_to_gguf.py", run_name="__main__")
"""

# Where the converter fails for a whole architecture: what mends it, and nothing else.
MENDED = {
    # Its own method calls itself without end for every weight but W_pack.
    "BaichuanForCausalLM": """
from conversion.baichuan import BaichuanModel
packed = BaichuanModel.modify_tensors
def modified(self, data, name, bid):
    return (packed if "W_pack" in name else super(BaichuanModel, BaichuanModel).modify_tensors)(self, data, name, bid)
BaichuanModel.modify_tensors = modified
"""
}


def _convert(arguments: argparse.Namespace, name: str, folder: Path, kind: str, *more: str) -> Path:
    """Run the converter; the file it wrote, or CalledProcessError with its output."""
    out = folder / f"{kind}.gguf"
    command = [arguments.python, "-c", WRAPPER, str(arguments.source.resolve()), PRE.get(TINY[name].tokenizer, "none")]
    command += [MENDED.get(TINY[name].architecture, ""), str(folder), "--outtype", kind, "--outfile", str(out), *more]
    command += ["--no-mtp"] if TINY[name].architecture.startswith(WITHOUT_MTP) else []
    subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder)
    return out


def _field(field: gguf.ReaderField) -> dict[str, Any]:
    kind = field.types[0].name if field.types[0] != gguf.GGUFValueType.ARRAY else field.types[1].name + "[]"
    return {"type": kind, "value": field.contents()}


def _metadata(reader: gguf.GGUFReader) -> dict[str, Any]:
    fields = {key: field for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    return {k: _field(f) for k, f in fields.items() if not k.startswith("general.") or k in KEPT}


def _digest(data: np.ndarray[Any, Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(data).tobytes()).hexdigest()


def _tensors(full: gguf.GGUFReader, half: gguf.GGUFReader) -> dict[str, Any]:
    others = {tensor.name: tensor for tensor in half.tensors}
    if [tensor.name for tensor in full.tensors] != list(others):
        sys.exit("the f32 and the bf16 file differ in their tensors")
    out: dict[str, Any] = {}
    for tensor in full.tensors:
        other = others[tensor.name]
        out[tensor.name] = {
            "ne": [int(n) for n in tensor.shape],
            "type": tensor.tensor_type.name,
            "sha256": _digest(tensor.data),
            "bf16": {"type": other.tensor_type.name, "sha256": _digest(other.data)},
        }
    return out


def _record(arguments: argparse.Namespace, name: str) -> dict[str, Any]:
    mended = ", mended" if TINY[name].architecture in MENDED else ""
    head: dict[str, Any] = {"source": {"sha256": fingerprint(weights(name)), "converter": CONVERTER + mended}}
    with tempfile.TemporaryDirectory() as place:
        folder = make(name, Path(place) / name)
        try:
            full, half = (gguf.GGUFReader(_convert(arguments, name, folder, kind)) for kind in ("f32", "bf16"))
        except subprocess.CalledProcessError as error:
            failure, twin = error.stderr.strip().splitlines()[-1], _twin(name)
            return head | {"failure": failure} | ({} if twin is None else {"same_as": twin})
        return head | {"metadata": _metadata(full), "tensors": _tensors(full, half)}


def _projector(arguments: argparse.Namespace, name: str) -> dict[str, Any]:
    head: dict[str, Any] = {"source": {"sha256": fingerprint(weights(name)), "converter": CONVERTER}}
    with tempfile.TemporaryDirectory() as place:
        folder = make(name, Path(place) / name)
        try:
            files = {kind: gguf.GGUFReader(_convert(arguments, name, folder, kind, "--mmproj")) for kind in LEVELS}
        except subprocess.CalledProcessError as error:
            return head | {"failure": error.stderr.strip().splitlines()[-1], "same_as": _seeing_twin(name)}
        rows = {tensor.name: {"ne": [int(n) for n in tensor.shape]} for tensor in files["f16"].tensors}
        if not rows:  # it passes over names that it does not know
            return head | {"failure": "a file of no tensors", "same_as": _seeing_twin(name)}
        for kind, reader in files.items():
            for tensor in reader.tensors:
                rows[tensor.name][kind] = {"type": tensor.tensor_type.name, "sha256": _digest(tensor.data)}
        return head | {"metadata": _metadata(files["f16"]), "tensors": rows}


def _twin(name: str) -> str | None:
    """The first other model with the same configuration and tokenizer, hence the same weights; None: there is none."""
    tiny = TINY[name]
    for other, candidate in TINY.items():
        if other != name and (candidate.config, candidate.tokenizer) == (tiny.config, tiny.tokenizer):
            return other
    return None


def _seeing_twin(name: str) -> str | None:
    """The first other model that sees by the same configuration and processor, hence the same weights."""
    tiny = TINY[name]
    for other, candidate in TINY.items():
        eyes = (candidate.config.get("vision_config"), candidate.processor)
        if other != name and eyes == (tiny.config.get("vision_config"), tiny.processor):
            return other
    return None


def _text(document: dict[str, Any]) -> str:
    """JSON with one line for each key and each tensor, so that a difference can be read."""
    lines = []
    for key, value in document.items():
        if key in {"metadata", "tensors"}:
            rows = (f"    {json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}" for k, v in value.items())
            lines.append(f"  {json.dumps(key)}: {{\n" + ",\n".join(rows) + "\n  }")
        else:
            lines.append(f"  {json.dumps(key)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def main() -> None:
    """Write one file for each model asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("source", type=Path, help="folder of llama.cpp")
    parser.add_argument("--python", default=sys.executable, help="interpreter with the converter's own requirements")
    parser.add_argument("names", nargs="*", help="tiny models; without them all")
    arguments = parser.parse_intermixed_args()
    for name in arguments.names or TINY:
        document = _record(arguments, name)
        (GOLDEN / f"{name}.json").write_text(_text(document), encoding="utf-8")
        sys.stderr.write(f"{name}: {document.get('failure') or len(document['tensors'])}\n")
        if TINY[name].processor is not None:
            seen = _projector(arguments, name)
            (PROJECTORS / f"{name}.json").write_text(_text(seen), encoding="utf-8")
            sys.stderr.write(f"{name}, projector: {seen.get('failure') or len(seen['tensors'])}\n")


if __name__ == "__main__":
    main()
