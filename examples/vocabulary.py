"""The tokenizer of the example: byte-level BPE with Llama 3's pre-tokenizer, and a chat template."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

SIZE = 2048  # tokens, special ones included
# Llama 3's split of text into words: what llama.cpp calls 'llama-bpe'.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BOS, EOS, START, END, PAD = "<|begin_of_text|>", "<|end_of_text|>", "<|im_start|>", "<|im_end|>", "<|pad|>"
SPECIAL = (BOS, EOS, START, END, PAD, "<|reserved_0|>", "<|reserved_1|>", "<|reserved_2|>")
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def train_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Return a tokenizer of `SIZE` tokens: bytes, merges learnt from the texts, and `SPECIAL` at the end."""
    learnt = Tokenizer(models.BPE(ignore_merges=True))
    learnt.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    learnt.decoder = decoders.ByteLevel()
    bytes_first = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=SIZE - len(SPECIAL), initial_alphabet=bytes_first, show_progress=False)
    learnt.train_from_iterator(texts, trainer)
    learnt.add_special_tokens(list(SPECIAL))
    single, pair = f"{BOS} $A", f"{BOS} $A {BOS}:1 $B:1"
    learnt.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single, pair, [(BOS, learnt.token_to_id(BOS))]),
        ]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=learnt, bos_token=BOS, eos_token=EOS, pad_token=PAD, model_max_length=1024
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json`, template inside, of a class that all versions know."""
    tokenizer.save_pretrained(folder, save_jinja_files=False)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
