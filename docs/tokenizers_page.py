"""The page of the tokenizers, from the pre-tokenizers' table: a part of generate.py."""  # noqa: INP001

from exporter.tokenizer.pre_table import NO_ROW, RAW, TABLE, Pre

TOKENIZERS = """# Tokenizers

Made by `python docs/generate.py` from `exporter/tokenizer/pre_table.py`; a test keeps it fresh.

What is read: `tokenizer.json` with `tokenizer_config.json` and the files beside it; where it lacks, one is made of
Mistral's `tekken.json`, of a tiktoken file (`*.tiktoken`, or a `tokenizer.model` of that form; Llama 3, Qwen and Kimi
K2, since the file alone does not say how words are cut), or of a SentencePiece `tokenizer.model` trained as BPE.

## Words

- **byte-level**: a text is cut into words, each byte of a word becomes one of 256 letters, and letters are merged.
- **SentencePiece-style**: spaces become `▁`, the text is not cut, and what no token spells falls back to bytes.
- **merges, scores**: which pieces are joined first: by a list of pairs, or by a number of each token.
- **pre-tokenizer**: what cuts a text into words; nothing is merged across their borders. It has one **step** or more.
- **`split EXPRESSION`**: what the expression matches is a word, and what lies between matches is one too.
- **`bytes`**: bytes become letters, no cut. **`bytes, cut as in GPT-2`**: first cut by GPT-2's expression.
- **`digits …`, `punctuation …`**: such characters are words: each one by itself, or as many as stand together.
- **`ignore_merges`** (a field of `tokenizer.json`): a word that is itself a token is taken whole, whatever the merges
  say. **NFC**: the normalizer composes letters (`e` and an accent become `é`); llama.cpp does not, which is a warning.
  Both tell names of the same steps apart.
- **rests on**: what the steps were read from. `llama3_2`, `olmo2_dolma2` and the like are published tokenizers (here
  Llama 3.2's, OLMo 2's); `ggml-vocab-…` are vocabularies with texts and their ids that come with llama.cpp; "its
  regular expressions" are llama.cpp's own, without a real tokenizer at hand.

## SentencePiece-style vocabularies

Llama 1 and 2, Mistral 7B, Gemma, Phi 3, Yi and what else has `byte_fallback` in `tokenizer.json`:
`tokenizer.ggml.model` is `llama`, there is no pre-tokenizer to find, and llama.cpp merges by scores (Gemma 4 apart: raw
text, by merges, below).

- Scores and types of tokens are those of `tokenizer.model` where it is there; it must hold the pieces of
  `tokenizer.json`, or the run is refused. Without it the scores are made of the merges' ranks, and are the true ones
  where these confirm that.
- The space in front of a text (`add_space_prefix`) follows from the normalizer (`Prepend`, `Replace`) or `Metaspace`;
  anything else is refused by name. Where llama.cpp can only put it before all pieces or none, a warning says so.
- Added tokens and those without a score get -1000, as of llama.cpp's converter; unused ones -10000.
- Unigram models are refused by name: llama.cpp's tokenizer for decoders merges by scores, and no supported family has
  one.

## Pre-tokenizers

llama.cpp knows them by name, and those are of byte-level vocabularies. A name is found by the structure of
`tokenizer.json`, never by a hash of token ids, so added tokens, another post-processor or another vocabulary change
nothing. The first name of each heading is written (`tokenizer.ggml.pre`); the others cut alike. `--pre NAME` takes any
of them, and the proof of token ids is made all the same. Each is tested against llama.cpp with a vocabulary that merges
across every border. Where a row rests on regular expressions alone, a published `tokenizer.json` may spell its steps
otherwise; it is then refused with the difference, and `--pre NAME` exports it.
"""
RAW_NAMES = """

## Raw text, by merges

SentencePiece-style files of which llama.cpp reads the merges in place of scores; nothing is merged across the end of a
line. Gemma 4's family asks for it (proved on ggml-vocab-gemma-4), for others `--pre NAME` does.

"""
UNFIT = """

## Known to llama.cpp, of no use here

"""


def tokenizers_page() -> str:
    """The page."""
    lines = []
    for row in TABLE:
        lines.append(f"\n### {', '.join(f'`{name}`' for name in row.names)}\n\n{_facts(row)}\n")
        lines += ["```text", *row.steps, "```"]
        if row.limit is not None:
            lines.append(f"\nllama.cpp {row.limit}.")
    raw = [f"- `{name}`: `tokenizer.ggml.model` is `{model}`" for name, model in RAW.items()]
    unfit = [f"- `{name}`: {why}" for name, why in NO_ROW.items()]
    return TOKENIZERS + "\n".join(lines) + RAW_NAMES + "\n".join(raw) + UNFIT + "\n".join(unfit) + "\n"


def _facts(row: Pre) -> str:
    """What is written for a pre-tokenizer, its flags, and how it differs from those of the same steps."""
    flags = {None: "either", True: "true", False: "false"}
    text = f"Written as `{row.name}`; `ignore_merges`: {flags[row.ignore_merges]}; NFC: {flags[row.nfc]}; "
    alike = [f"`{one.name}` ({_unlike(one, row)})" for one in TABLE if one.steps == row.steps and one is not row]
    return f"{text}rests on {row.proof}.{' The same steps: ' if alike else ''}{', '.join(alike)}{'.' if alike else ''}"


def _unlike(one: Pre, row: Pre) -> str:
    """How a row differs from another of the same steps."""
    differs = [
        *([f"`ignore_merges` {str(one.ignore_merges).lower()}"] if one.ignore_merges != row.ignore_merges else []),
        *([f"NFC {str(one.nfc).lower()}"] if one.nfc != row.nfc else []),
    ]
    return " and ".join(differs) or "llama.cpp cuts otherwise; the first of the two is found, `--pre` gives the other"
