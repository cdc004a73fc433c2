"""The page of the families, from their tables and the tests' tiny models: a part of generate.py."""  # noqa: INP001

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from converters import ALL, REFUSED, about

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from test_family_adapters import ONE, OWN  # noqa: E402  (tests are no package)
from tiny import TINY, recorded  # noqa: E402

if TYPE_CHECKING:
    from tiny import Tiny

    from converters.spec import Family

KINDS = {
    "spm": "SentencePiece",
    "spm-added": "SentencePiece, tokens added",
    "spm-inst": "SentencePiece",
    "llama3": "byte-level",
    "llama3-image": "byte-level",
    "qwen": "byte-level",
    "glm": "byte-level",
    "gemma": "SentencePiece, Gemma's",
    "gemma-image": "SentencePiece, Gemma's",
}
LAYOUTS = {
    "mixtral": "Mixtral's names of experts",
    "fused": "experts in stacks",
    "turned": "experts in stacks, turned over",
    "vision-v4": "a part of a model that sees, as of transformers 4",
    "vision-v5": "a part of a model that sees, as of transformers 5",
}
HEAD = """# Families

Made by `python docs/generate.py` from the families' tables and the tiny models of `tests/tiny`; a test keeps it
fresh. An architecture that is not here: [add a family](add-a-family.md).

| family | what it covers | architectures in config.json |
| --- | --- | --- |
"""
COMPARED = """
## What each is compared with

Each variant is a random model, made on the spot, that goes through every proof of `tests/test_families.py` and
`tests/test_family_logits.py`:

- **converter**: at f32 and bf16, names, shapes, types, values (SHA-256) and metadata of the file equal those of
  llama.cpp's own converter, recorded in `tests/reference/golden`. *same as X*: the converter cannot read this layout,
  and the file equals that of the same weights in layout X. *but …*: tensors or metadata where the converter is wrong
  or says too little; the reason stands beside the variant in `tests/tiny/table`.
- **logits**: the f32 file computes what transformers computes from the checkpoint in float32, within 2e-5 of the
  logits' standard deviation; 1e-4 for gated delta nets, 2e-4 or 5e-4 a layer where llama.cpp's GELU, a table of f16
  values, lies between; any other bound is given, and its reason stands beside the variant. *a reference in the test*
  stands for transformers where it has no class.
- It loads and decodes in llama.cpp; both spellings of config.json give one file; a tensor of no row is refused by
  name.

- **stored**: how the checkpoint names and groups its weights, where that is not Hugging Face's plain way.
- **adapter** (`tests/test_family_adapters.py`): *all linear*: PEFT's LoRA over all linear modules gives the file of
  PEFT's own merge. *attention*: a LoRA over the attention gives the file of the merged checkpoint that `merge --out`
  writes, which lies on disk as the base does. Every method is compared on Llama ([merging](merging.md)).
- **projector** (`tests/test_projectors.py`): *equal*: the file of `--mmproj` is that of llama.cpp's converter at f16,
  bf16 and q8_0; with one model of each kind an image becomes what it becomes in transformers.

Tokenizers are the tokenizer's own affair ([tokenizers](tokenizers.md)): a family says only what it fixes.

The two `_native` families are Mistral's own format, without a config.json: `tests/test_mistral_native.py` compares
their files with those of the same weights in Hugging Face's format and with llama.cpp's converter, their logits with
transformers. No adapter is laid over them.

| family | variant | architecture | in GGUF | stored | tokenizer | converter | logits | adapter | projector |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
"""
LEFT_OUT = """
Mistral's own format (`mistral_native`, `mistral3_native`: params.json and consolidated*.safetensors) is compared in
`tests/test_mistral_native.py` with llama.cpp's converter in its mode for that format, with the same weights in Hugging
Face's format, and with transformers' logits.

## Parts that are left out

The report of an export names them where the checkpoint holds them.

"""
UNFIT = """
## Refused by name

Architectures that llama.cpp does not know, or loads and computes wrongly:

"""


def families_page() -> str:
    """The page."""
    named = [f"| {one.name} | {about(one)} | {', '.join(f'`{name}`' for name in one.architectures)} |" for one in ALL]
    rows = [row for family in ALL for row in _rows(family)]
    parts = [f"- {family.name}: {', '.join(family.left_out)}" for family in ALL if family.left_out]
    refused = [f"- `{architecture}`: {why}." for architecture, why in REFUSED.items()]
    blocks = (HEAD, named, COMPARED, rows, LEFT_OUT, parts, UNFIT, refused)
    return "".join(block if isinstance(block, str) else "\n".join(block) + "\n" for block in blocks)


def _rows(family: "Family") -> Iterator[str]:
    """A row for each tiny model of a family."""
    for name, tiny in TINY.items():
        if tiny.architecture in family.architectures:
            cells = (family.name, name, f"`{tiny.architecture}`", f"`{family.arch}`", _stored(tiny))
            compared = (KINDS[tiny.tokenizer], _converter(name, tiny), _logits(tiny), _adapter(name, family))
            yield f"| {' | '.join((*cells, *compared, 'equal' if tiny.processor else ''))} |"


def _stored(tiny: "Tiny") -> str:
    """How a checkpoint differs from the plain one."""
    made = (tiny.stores.__doc__ or "").strip().rstrip(".") if tiny.stores else ""
    words = (LAYOUTS.get(tiny.layout), "names of its own" if tiny.renames else None, made[:1].lower() + made[1:])
    return "; ".join(filter(None, words))


def _adapter(name: str, family: "Family") -> str:
    """What was trained on a tiny model, to be compared with the merged one."""
    return "all linear" if name in ONE.values() and family.name not in OWN else "attention"


def _converter(name: str, tiny: "Tiny") -> str:
    """What the comparison with llama.cpp's converter says."""
    document = recorded(name)
    if "tensors" not in document:
        twin = document.get("same_as")
        return f"same as {twin}" if twin else "none: it cannot read such a model"
    but = [*(f"`{one}`" for one in tiny.wrong), *(f"`{key}`" for key in tiny.faults)]
    shown = [*but[:3], *([f"{len(but) - 3} more"] if but[3:] else [])]
    return f"equal but {', '.join(shown)}" if but else "equal"


def _logits(tiny: "Tiny") -> str:
    """What the logits are compared with, and the bound where it is not the usual one."""
    truth = "transformers" if tiny.forward is None else "a reference in the test"
    return truth if tiny.bound is None else f"{truth}, within {tiny.bound:g}"
