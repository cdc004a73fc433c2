"""Record what llama.cpp's own converter makes of tiny models in Mistral's own format, in `mistral_native.json`.

Run by hand. `make_golden.py` says where the converter comes from and what VENV is; that needs
mistral-common too, or else MISTRAL_COMMON names a folder with it:

    python tests/reference/make_mistral_native.py llama_cpp_python-0.3.36/vendor/llama.cpp --python VENV/bin/python

The file holds, for each model, `metadata`, for each key but `general.*` its GGUF type and value, and `tensors`, for
each its type and the SHA-256 of its data.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from gguf import GGUFReader

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from exported import metadata, tensors
from native import native, with_tekken

MODELS = ("mistral", "ministral3")
OUT = Path(__file__).with_name("mistral_native.json")


def converted(source: Path, python: str, run: Path, out: Path) -> dict[str, Any]:
    """What the converter makes of a run; CalledProcessError where it fails."""
    command = [python, str(source / "convert_hf_to_gguf.py"), str(run), "--mistral-format", "--outtype", "f32"]
    command += ["--disable-mistral-community-chat-template", "--outfile", str(out)]
    search = os.pathsep.join([str(source), str(source / "gguf-py"), *filter(None, [os.environ.get("MISTRAL_COMMON")])])
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": search})
    return {
        "metadata": {k: v for k, v in metadata(GGUFReader(out)).items() if not k.startswith("general.")},
        "tensors": {key: [kind, hashlib.sha256(data).hexdigest()] for key, kind, data in tensors(out)},
    }


def main() -> None:
    """Convert each model, and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("--python", default=sys.executable)
    given = parser.parse_args()
    found = {}
    for name in MODELS:
        with tempfile.TemporaryDirectory() as folder:
            run = with_tekken(native(name, Path(folder) / "run"))
            found[name] = converted(given.source.resolve(), given.python, run, Path(folder) / "out.gguf")
    OUT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
