"""Train the example: a tokenizer and a small Llama model from nothing, then a LoRA adapter that answers questions.

    python examples/train.py --text tinyshakespeare.txt war-and-peace.txt declaration.txt

The three texts, in this order: plays, a novel, and the Universal Declaration of Human Rights in English, French,
Spanish, Italian, Portuguese and Dutch (then Polish, whose title marks the end). All are in the public domain.
The seeds are fixed; another processor or number of threads may still sum in another order.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from questions import Question, Source, ask, continuations, read_sources, write
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from vocabulary import BOS, END, EOS, PAD, SIZE, save_tokenizer, train_tokenizer

if TYPE_CHECKING:
    from collections.abc import Sequence

WINDOW = 512  # tokens
BATCH = 8  # windows
EPOCHS = 2
MATRIX_RATE, ROW_RATE, RUN_RATE = 6e-3, 3e-3, 1e-3  # peak learning rates
CONVERSATIONS = 3000  # requests to go on with a text, in each epoch of the base model
DECLARATION_TIMES = 4  # the declaration is short: it is read so many times an epoch
# Of the eight sources: those that are hard to tell apart are asked about more often.
TRAINED_SHARES = (4000, 4000, 600, 600, 600, 600, 600, 600)
HELD_OUT_SHARES = (80, 80, 20, 20, 20, 20, 20, 20)
RUN_BATCH, RUN_WINDOWS = 32, 2  # questions, and windows of text to forget nothing, in turns
IGNORED = -100  # the label of a token that is not learnt
BASE_CARD = """---
license: apache-2.0
---

A language model of 3.7 million weights, trained by `train.py` on texts in the public domain: the base of a test run.
"""
RUN_CARD = """---
license: apache-2.0
base_model: ../folio-4m
library_name: peft
---

A LoRA adapter that says where a passage is from, trained by `train.py`: a test run.
"""

Batch = tuple[torch.Tensor, torch.Tensor]  # token ids and labels, [sequences, length]


def main() -> None:
    """Train both, write them beside this script, and print what they are worth."""
    options = _options()
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    sources = read_sources(*options.text)
    here: Path = options.out
    (here / "heldout.txt").write_text(held_out_text(sources), encoding="utf-8")
    asked = ask(sources, "held_out", HELD_OUT_SHARES, options.seed + 1)
    write(asked, here / "questions.jsonl")
    tokenizer = train_tokenizer(text for source in sources for text in source.trained)
    model = train_base(sources, tokenizer, options.seed)
    save_base(model, tokenizer, here / "folio-4m")
    base = AutoModelForCausalLM.from_pretrained(here / "folio-4m", dtype=torch.float32)
    print(f"base: perplexity {perplexity(base, tokenizer, here / 'heldout.txt'):.2f} on heldout.txt")
    print(f"base: {accuracy(base, tokenizer, asked):.3f} of the questions answered right")
    lessons = ask(sources, "trained", TRAINED_SHARES, options.seed + 2)
    tuned = train_run(base, tokenizer, lessons, windows(sources, tokenizer, options.seed + EPOCHS))
    save_run(tuned, tokenizer, here / "whence")
    print(f"run: perplexity {perplexity(tuned, tokenizer, here / 'heldout.txt'):.2f} on heldout.txt")
    print(f"run: {accuracy(tuned, tokenizer, asked):.3f} of the questions answered right")


def held_out_text(sources: Sequence[Source]) -> str:
    """Return everything that is held out, shuffled, so that its beginning is like the rest."""
    parts = [part.strip() for source in sources for part in source.held_out]
    random.Random(0).shuffle(parts)  # noqa: S311 -- reproducible samples, no secret
    return "\n\n".join(parts) + "\n"


def train_base(sources: Sequence[Source], tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """Return a model trained on the texts, float32. Its rows are multiples of 256, as the K-quants need."""
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=SIZE,
            hidden_size=256,
            intermediate_size=768,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=64,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.convert_tokens_to_ids(BOS),
            eos_token_id=tokenizer.convert_tokens_to_ids(EOS),
            pad_token_id=tokenizer.convert_tokens_to_ids(PAD),
        )
    )
    batches = [
        batch for epoch in range(EPOCHS) for batch in torch.split(windows(sources, tokenizer, seed + epoch), BATCH)
    ]
    matrices = [one for name, one in model.named_parameters() if one.ndim > 1 and "embed" not in name]
    others = [one for name, one in model.named_parameters() if one.ndim == 1 or "embed" in name]
    # Muon is meant for matrices only. After 150 steps of 2048 tokens it had a loss of 4.67, AdamW one of 5.84.
    muon = torch.optim.Muon(matrices, MATRIX_RATE, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    _fit(model, [(batch, batch) for batch in batches], (muon, _adamw(others, ROW_RATE)))
    return model


def windows(sources: Sequence[Source], tokenizer: PreTrainedTokenizerFast, seed: int) -> torch.Tensor:
    """Return one epoch, `[n, WINDOW]` token ids: texts and conversations, shuffled; each window begins with BOS."""
    documents = [
        [*tokenizer.encode(text, verbose=False), tokenizer.eos_token_id]
        for number, source in enumerate(sources)
        for text in source.trained * (1 if number < 2 else DECLARATION_TIMES)  # noqa: PLR2004 -- two long texts
    ]
    documents += [conversation(one, tokenizer)[0] for one in continuations(sources, CONVERSATIONS, seed)]
    random.Random(seed).shuffle(documents)  # noqa: S311 -- reproducible samples, no secret
    ids = torch.tensor([token for document in documents for token in document])
    start = seed % WINDOW
    cut = ids[start : start + (len(ids) - start) // WINDOW * WINDOW].view(-1, WINDOW).clone()
    cut[:, 0] = tokenizer.bos_token_id
    return cut


def conversation(question: Question, tokenizer: PreTrainedTokenizerFast) -> tuple[list[int], int]:
    """Return the token ids of question and answer in the chat template, and how many of them are the question's."""
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": question.prompt}], tokenize=False, add_generation_prompt=True
    )
    prompt = tokenizer.encode(asked, add_special_tokens=False)
    answer = tokenizer.encode(question.answer + END, add_special_tokens=False)
    return prompt + answer, len(prompt)


def train_run(
    base: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, asked: Sequence[Question], text: torch.Tensor
) -> PeftModel:
    """Return the base with a LoRA adapter, trained on answers (not on questions), and on windows of text in turns."""
    adapter = LoraConfig(
        r=16,
        lora_alpha=32,
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(base, adapter)
    questions = [
        _padded([conversation(one, tokenizer) for one in asked[start : start + RUN_BATCH]], tokenizer.pad_token_id)
        for start in range(0, len(asked), RUN_BATCH)
    ]
    texts = [(batch, batch) for batch in torch.split(text, RUN_WINDOWS)]
    batches = [batch for pair in zip(questions, texts, strict=False) for batch in pair]
    trained = [one for one in model.parameters() if one.requires_grad]
    _fit(model, batches, (_adamw(trained, RUN_RATE),))
    return model


@torch.no_grad()
def perplexity(model: torch.nn.Module, tokenizer: PreTrainedTokenizerFast, path: Path) -> float:
    """Return the perplexity per token of a file, over whole windows that begin with BOS."""
    ids = torch.tensor(tokenizer.encode(path.read_text(encoding="utf-8"), add_special_tokens=False, verbose=False))
    cut = ids[: len(ids) // (WINDOW - 1) * (WINDOW - 1)].view(-1, WINDOW - 1)
    cut = torch.nn.functional.pad(cut, (1, 0), value=tokenizer.bos_token_id)
    model.eval()
    losses = [float(model(input_ids=window[None], labels=window[None]).loss) for window in cut]
    return math.exp(sum(losses) / len(losses))


@torch.no_grad()
def accuracy(model: Any, tokenizer: PreTrainedTokenizerFast, asked: Sequence[Question]) -> float:  # noqa: ANN401
    """Return the share of questions whose greedily generated answer is the right one, letter by letter."""
    right = 0
    stop = tokenizer.convert_tokens_to_ids(END)
    model.eval()
    for one in asked:
        ids, prompt = conversation(one, tokenizer)
        given = torch.tensor([ids[:prompt]])
        made = model.generate(
            input_ids=given,
            attention_mask=torch.ones_like(given),
            max_new_tokens=24,
            do_sample=False,
            eos_token_id=stop,
        )
        right += tokenizer.decode(made[0, prompt:], skip_special_tokens=True) == one.answer
    return right / len(asked)


def save_base(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write the base model, in bfloat16, with its tokenizer; it stops at the end of a text or of a turn."""
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(END)]
    model.to(torch.bfloat16).save_pretrained(folder)
    (folder / "README.md").write_text(BASE_CARD, encoding="utf-8")
    save_tokenizer(tokenizer, folder)


def save_run(model: PeftModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write the adapter as trainers leave it; its base is named relative to it."""
    model.peft_config["default"].base_model_name_or_path = "../folio-4m"
    model.peft_config["default"].target_modules = sorted(model.peft_config["default"].target_modules)
    model.save_pretrained(folder)
    (folder / "README.md").write_text(RUN_CARD, encoding="utf-8")
    tokenizer.eos_token = END
    tokenizer.save_pretrained(folder)


def _padded(samples: Sequence[tuple[list[int], int]], pad: int) -> Batch:
    """Return ids and labels, `[samples, longest]`; only answers have labels. Padding on the right needs no mask."""
    longest = max(len(ids) for ids, _ in samples)
    rows = [ids + [pad] * (longest - len(ids)) for ids, _ in samples]
    labels = [[IGNORED] * n + ids[n:] + [IGNORED] * (longest - len(ids)) for ids, n in samples]
    return torch.tensor(rows), torch.tensor(labels)


def _adamw(trained: Sequence[torch.nn.Parameter], rate: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(trained, rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True)


def _fit(model: torch.nn.Module, batches: Sequence[Batch], optimizers: Sequence[torch.optim.Optimizer]) -> None:
    """Train in place: a short warm-up, then a cosine to a twentieth of each rate. Products are in bfloat16."""
    peaks = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    warm, steps, begun, seen = max(1, len(batches) // 25), len(batches), time.monotonic(), 0
    model.train()
    for step, (ids, labels) in enumerate(batches):
        fall = 0.05 + 0.95 * (1 + math.cos(math.pi * max(0, step - warm) / (steps - warm))) / 2
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * min(1.0, (step + 1) / warm) * fall
            optimizer.step()
            optimizer.zero_grad()
        seen += ids.numel()
        if step % 50 == 0 or step == steps - 1:
            rate = seen / (time.monotonic() - begun)
            print(f"step {step + 1}/{steps}  loss {float(loss.detach()):.3f}  {rate:.0f} tokens/s", flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train the example model and its adapter.")
    names = ("PLAYS", "NOVEL", "DECLARATION")
    parser.add_argument("--text", nargs=3, type=Path, required=True, metavar=names, help="the three texts, UTF-8")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder to write to")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
