"""How tests/reference/jinja.json.xz was made: conversations as llama.cpp's own Jinja engine renders them.

    python tests/reference/make_jinja_golden.py LLAMA_CPP TEMPLATES

LLAMA_CPP is the source of llama.cpp that llama-cpp-python 0.3.36 holds (vendor/llama.cpp of its source distribution);
jinja_golden.cpp is built with its ``common/jinja`` by g++. TEMPLATES is a folder of chat templates (``*.jinja``), of
which only what they render, and their SHA-256, is kept: a publisher's licence may apply to a template.
"""

import hashlib
import json
import lzma
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from exporter.check.conversations import conversations
from exporter.tokenizer.render import NOW

HERE = Path(__file__).resolve().parent
GOLDEN = HERE / "jinja.json.xz"
SPECIAL = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
ENGINE = ("lexer", "parser", "runtime", "value", "string", "caps")


def build(llamacpp: Path, folder: Path) -> Path:
    """The program."""
    common = llamacpp / "common"
    sources = [HERE / "jinja_golden.cpp", *(common / "jinja" / f"{name}.cpp" for name in ENGINE)]
    sources += [common / "unicode.cpp", common / "json.cpp"]
    places = (common, llamacpp / "vendor", llamacpp / "include", llamacpp / "ggml" / "include")
    program = folder / "jinja_golden"
    flags = ["-std=c++17", "-O1", *(f"-I{place}" for place in places)]
    subprocess.run(["g++", *flags, *map(str, sources), "-o", str(program)], check=True)  # noqa: S607  (the user's own)
    return program


def main(llamacpp: Path, folder: Path) -> None:
    """Build, render, write."""
    templates = {file.stem: file.read_text(encoding="utf-8") for file in sorted(folder.glob("*.jinja"))}
    values = {name: {one.name: one.values(SPECIAL) for one in conversations(text)} for name, text in templates.items()}
    given = {"time": int(NOW.timestamp()), "templates": templates, "values": values}
    with tempfile.TemporaryDirectory() as scratch:
        program = build(llamacpp, Path(scratch))
        environment = os.environ | {"TZ": "UTC", "LC_ALL": "C"}
        done = subprocess.run(
            [str(program)], input=json.dumps(given), capture_output=True, text=True, check=True, env=environment
        )
    made = json.loads(done.stdout)
    hashes = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in templates.items()}
    document = {name: {"sha256": hashes[name], "rendered": made[name]} for name in templates}
    GOLDEN.write_bytes(lzma.compress(json.dumps(document, ensure_ascii=False, sort_keys=True).encode(), preset=9))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
