"""How tests/reference/perplexity was made: two GGUF files of a tiny model, a text, and what llama-perplexity says.

    python tests/reference/make_perplexity.py LLAMA_CPP LLAMA_PERPLEXITY STORIES TEXTS

LLAMA_CPP is the source of llama.cpp that llama-cpp-python 0.3.36 holds (vendor/llama.cpp of its source distribution),
and LLAMA_PERPLEXITY the program built from it:

    cmake -B BUILD -S LLAMA_CPP -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF \
        -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF
    cmake --build BUILD --target llama-perplexity

STORIES is a Hugging Face folder of the stories260K model, TEXTS a folder with war-and-peace.txt.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

OUT = Path(__file__).resolve().parent / "perplexity"
BYTES = 12_000  # of text: 13 chunks of 512 tokens
ESTIMATE = re.compile(r"Final estimate: PPL = (\S+) \+/- (\S+)")
STATISTIC = re.compile(r"^\s*(\S.*?)\s*:\s+(-?[\d.]+)\s*%?(?: ± +([\d.]+))?\s*%?$", re.MULTILINE)
QUANTIZE = """
import sys, llama_cpp as c
params = c.llama_model_quantize_default_params()
params.ftype, params.nthread = c.LLAMA_FTYPE_MOSTLY_Q4_0, 1
sys.exit(c.llama_model_quantize(sys.argv[1].encode(), sys.argv[2].encode(), params))
"""


def run(*command: str | Path) -> str:
    """What a program prints, on either stream."""
    done = subprocess.run([str(part) for part in command], check=True, capture_output=True)
    return (done.stdout + done.stderr).decode("utf-8", "replace")


def printed(last: str, *command: str | Path) -> str:
    """The same, once it is whole: the program often ends before its log is written, and still with status 0."""
    for _ in range(20):
        text = run(*command)
        if last in text:
            return text
    raise SystemExit(f"{command[0]} never printed {last!r}")


def make_files(llamacpp: Path, stories: Path, texts: Path) -> None:
    """The models, by llama.cpp's own converter and quantizer, and the text."""
    tail = (texts / "war-and-peace.txt").read_bytes()[-320_232:]
    (OUT / "text.txt").write_bytes(tail[:BYTES])
    with tempfile.TemporaryDirectory() as scratch:
        whole = Path(scratch) / "stories260K-F32.gguf"
        for kind, path in (("bf16", OUT / "stories260K-BF16.gguf"), ("f32", whole)):
            run(sys.executable, llamacpp / "convert_hf_to_gguf.py", stories, "--outtype", kind, "--outfile", path)
        run(sys.executable, "-c", QUANTIZE, whole, OUT / "stories260K-Q4_0.gguf")


def measure(program: Path) -> dict[str, object]:
    """Printed figures, as text: a value and its error, or null where none is printed."""
    base, level = OUT / "stories260K-BF16.gguf", OUT / "stories260K-Q4_0.gguf"
    text = ("-f", OUT / "text.txt")
    common = ("--no-repack", "-t", "2", "-c", "512")
    with tempfile.TemporaryDirectory() as scratch:
        logits = Path(scratch) / "logits"
        found = {
            "base": printed("Final", program, "-m", base, *text, *common, "--kl-divergence-base", logits),
            "level": printed("Final", program, "-m", level, *text, *common),
        }
        both = printed("Same top p", program, "-m", level, *common, "--kl-divergence", "--kl-divergence-base", logits)
    estimates = {name: ESTIMATE.findall(output)[0] for name, output in found.items()}
    statistics = both[both.index("====== Perplexity statistics") :]
    return {
        "final_estimate": estimates,
        "kl_divergence": {name: [value, error or None] for name, value, error in STATISTIC.findall(statistics)},
    }


def main(llamacpp: Path, program: Path, stories: Path, texts: Path) -> None:
    """Make the files, and write what llama-perplexity says of them."""
    OUT.mkdir(exist_ok=True)
    make_files(llamacpp, stories, texts)
    golden = {"made_by": "tests/reference/make_perplexity.py", "engine": "llama-cpp-python 0.3.36", **measure(program)}
    (OUT / "golden.json").write_text(json.dumps(golden, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*(Path(argument).resolve() for argument in sys.argv[1:5]))
