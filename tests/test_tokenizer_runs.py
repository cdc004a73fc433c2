"""Whole exports of runs that have no tokenizer.json, with real vocabularies and tiny random weights."""

from __future__ import annotations

import base64
import json
import subprocess
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from exported import COMMAND, metadata
from gguf import GGUFReader
from safetensors.torch import save_file
from test_tokenizer_formats import byte_strings, tiktoken_file
from tokenizers import Tokenizer

from exporter.llamacpp import load
from exporter.tokenizer.pre_table import TEKKEN
from exporter.tokenizer.sample import SAMPLE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "tokenizers"
WIDTH, CONTROLS = 32, 1000
QUICK = ("llama2",)
"""The others take ten seconds and more each."""
GGML = "tokenizer.ggml."

pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason="needs shared/data/tokenizers beside the repository")


def published(name: str) -> dict[str, Any]:
    spec: dict[str, Any] = json.loads((SHARED / name / "tokenizer.json").read_text("utf-8"))
    return spec


def write_tekken(run: Path) -> None:
    """Mistral Nemo's vocabulary as tekken.json has it: special tokens apart, byte strings by rank."""
    spec = published("mistral_nemo")
    special = {token["id"]: token["content"] for token in spec["added_tokens"]}
    spec["model"]["vocab"] = {text: token for text, token in spec["model"]["vocab"].items() if token not in special}
    strings = byte_strings(spec, 1 << 20)
    document = {
        "config": {
            "pattern": TEKKEN.removeprefix("split "),
            "num_vocab_tokens": len(strings),
            "default_vocab_size": len(strings) + CONTROLS,
            "default_num_special_tokens": CONTROLS,
            "version": "v3",
        },
        "vocab": [
            {"rank": rank, "token_bytes": base64.b64encode(one).decode(), "token_str": one.decode("utf-8", "replace")}
            for rank, one in enumerate(strings)
        ],
    }
    (run / "tekken.json").write_text(json.dumps(document), encoding="utf-8")


def write_model(name: str) -> Callable[[Path], None]:
    return lambda run: (run / "tokenizer.model").symlink_to(SHARED / name / "tokenizer.model")


def write_tiktoken(name: str, count: int, file: str) -> Callable[[Path], None]:
    return lambda run: (tiktoken_file(run / file, byte_strings(published(name), count)), None)[1]


PUBLISHED = {"tekken": "mistral_nemo"}
# What writes the tokenizer's only file, the family, rows of the embedding, what config.json says beside,
# and what the GGUF file must say.
RUNS: Mapping[str, tuple[Callable[[Path], None], str, int, Mapping[str, object], Mapping[str, object]]] = {
    "tekken": (
        write_tekken,
        "Mistral",
        131072,
        {"bos_token_id": 1, "eos_token_id": 2},
        {"model": "gpt2", "pre": "tekken", "bos_token_id": 1, "eos_token_id": 2, "add_bos_token": True},
    ),
    "llama2": (
        write_model("llama2"),
        "Llama",
        32000,
        {"bos_token_id": 1, "eos_token_id": 2},
        {"model": "llama", "bos_token_id": 1, "eos_token_id": 2, "add_bos_token": True},
    ),
    "mistral_spm_v3": (
        write_model("mistral_spm_v3"),
        "Mistral",
        32768,
        {"bos_token_id": 1, "eos_token_id": 2},
        {"model": "llama", "bos_token_id": 1, "eos_token_id": 2, "add_bos_token": True},
    ),
    "llama3_2": (
        write_tiktoken("llama3_2", 128000, "tokenizer.model"),
        "Llama",
        128256,
        {"bos_token_id": 128000, "eos_token_id": [128001, 128008, 128009]},
        {"model": "gpt2", "pre": "llama-bpe", "bos_token_id": 128000, "eos_token_id": 128001, "add_bos_token": True},
    ),
    "qwen2_5": (
        write_tiktoken("qwen2_5", 151643, "qwen.tiktoken"),
        "Qwen2",
        151936,
        {"bos_token_id": None, "eos_token_id": 151643},
        {"model": "gpt2", "pre": "qwen2", "eos_token_id": 151643},
    ),
}


def write_run(run: Path, kind: str, rows: int, says: Mapping[str, object]) -> Path:
    """A random checkpoint of one layer, in the class's own names and shapes."""
    import transformers  # noqa: PLC0415  (seconds to import)

    sizes = {"hidden_size": WIDTH, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    fields = sizes | {"num_key_value_heads": 1, "max_position_embeddings": 512, "vocab_size": rows} | dict(says)
    config = getattr(transformers, f"{kind}Config")(architectures=[f"{kind}ForCausalLM"], **fields)
    config.save_pretrained(run)
    with torch.device("meta"):
        model = getattr(transformers, f"{kind}ForCausalLM")(config)
    generator = torch.Generator().manual_seed(0)
    made = {name: 0.05 * torch.randn(part.shape, generator=generator) for name, part in model.state_dict().items()}
    save_file(made, run / "model.safetensors", {"format": "pt"})
    return run


@pytest.mark.filterwarnings("default")  # deprecations inside transformers
@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.full) for name in RUNS]
)
def test_a_run_with_one_tokenizer_file_alone(name: str, tmp_path: Path) -> None:
    write, kind, rows, says, expected = RUNS[name]
    run, out = write_run(tmp_path / "run", kind, rows, says), tmp_path / "out"
    write(run)
    command = [*COMMAND, "export", str(run), "--quant", "q8_0", "--no-verify", "--json", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    found = {check["name"]: check["status"] for check in report["checks"]}
    assert (found["load"], found["tokenizer"]) == ("pass", "pass"), report["checks"]
    file = out / report["levels"][0]["file"]
    keys = metadata(GGUFReader(file))
    assert {key: keys[GGML + key][1] for key in expected} == expected
    truth = Tokenizer.from_file(str(SHARED / PUBLISHED.get(name, name) / "tokenizer.json"))
    texts = [text for text in SAMPLE if text == unicodedata.normalize("NFC", text)]  # llama.cpp normalizes nothing
    texts = [text for text in texts if text.isascii() or name != "tekken"]  # whose words llama.cpp cuts by A to Z only
    ids = load(file, texts).ids
    assert [one.plain for one in ids] == [tuple(truth.encode(text, add_special_tokens=False).ids) for text in texts]
