"""Train a short LoRA run on the real SmolLM2-135M-Instruct: it answers a speech with the next one of the play.

    python benchmarks/smollm2_lora.py models/smollm2-135m-instruct models/smollm2-lora --text tinyshakespeare.txt

The text is plays in which a line "NAME:" begins a speech; one exchange in twenty is held out, and its loss is printed
before and after. The folder is what trainers on PEFT leave: adapter, its configuration (which names the base relative
to the folder), and the tokenizer's files. Under ten minutes of one core. The seed is fixed; another processor or number
of threads may still sum in another order.
"""

from __future__ import annotations

import argparse
import os
import random
import time
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

if TYPE_CHECKING:
    from collections.abc import Sequence

HELD_OUT_EVERY = 20  # exchanges
TESTED = 32  # held-out exchanges whose loss is printed
LONGEST = 96  # tokens of an exchange; longer ones are left out
BATCH = 8
PEAK_RATE = 1e-3
WARM_UP = 10  # steps
IGNORED = -100  # the label of a token that is not learnt

Sample = tuple[list[int], int]
"""Token ids of question and answer, and how many of them are the question's."""


def main() -> None:
    """Train, and write the run."""
    options = _options()
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    tokenizer = AutoTokenizer.from_pretrained(options.base)
    model = AutoModelForCausalLM.from_pretrained(options.base, dtype=torch.float32)
    trained, held_out = samples(options.text.read_text(encoding="utf-8"), tokenizer)
    random.Random(options.seed).shuffle(trained)  # noqa: S311 -- reproducible samples, no secret
    pad = tokenizer.pad_token_id
    print(f"{len(trained)} exchanges; held-out loss {loss_on(model, held_out[:TESTED], pad):.3f}")
    adapter = LoraConfig(
        r=16,
        lora_alpha=32,
        lora_dropout=0.05,
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        task_type="CAUSAL_LM",
    )
    tuned = get_peft_model(model, adapter)
    fit(tuned, [batch(trained, step * BATCH, pad) for step in range(options.steps)])
    print(f"held-out loss {loss_on(tuned, held_out[:TESTED], pad):.3f}")
    tuned.peft_config["default"].base_model_name_or_path = os.path.relpath(options.base, options.folder)
    tuned.save_pretrained(options.folder)
    tokenizer.save_pretrained(options.folder)


def samples(text: str, tokenizer: Any) -> tuple[list[Sample], list[Sample]]:  # noqa: ANN401 -- transformers has no types
    """Return the exchanges of two speeches that are short enough: those to train on, and those held out."""
    speeches = [part.partition(":\n")[::2] for part in text.split("\n\n") if ":\n" in part]
    kept: tuple[list[Sample], list[Sample]] = [], []
    for number, ((_, asked), (name, answer)) in enumerate(pairwise(speeches)):
        message = [{"role": "user", "content": asked}]
        prompt = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
        question = tokenizer.encode(prompt, add_special_tokens=False)
        reply = tokenizer.encode(f"{name}: {answer}{tokenizer.eos_token}", add_special_tokens=False)
        if len(question) + len(reply) <= LONGEST:
            kept[number % HELD_OUT_EVERY == 0].append((question + reply, len(question)))
    return kept


def batch(rows: Sequence[Sample], start: int, pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and labels, `[BATCH, longest]`; only answers have labels. Padding on the right needs no mask."""
    chosen = [rows[(start + i) % len(rows)] for i in range(BATCH)]
    longest = max(len(ids) for ids, _ in chosen)
    ids = [row + [pad] * (longest - len(row)) for row, _ in chosen]
    labels = [[IGNORED] * n + row[n:] + [IGNORED] * (longest - len(row)) for row, n in chosen]
    return torch.tensor(ids), torch.tensor(labels)


def fit(model: torch.nn.Module, batches: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Train in place with AdamW: a short warm-up, then linearly to zero. Products are in bfloat16."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, PEAK_RATE, weight_decay=0.0)
    model.train()
    begun = time.monotonic()
    for step, (ids, labels) in enumerate(batches):
        optimizer.param_groups[0]["lr"] = PEAK_RATE * min((step + 1) / WARM_UP, 1 - step / len(batches))
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 10 == 0:
            seconds = time.monotonic() - begun
            print(f"step {step + 1}/{len(batches)}  loss {float(loss.detach()):.3f}  {seconds:.0f} s", flush=True)


@torch.no_grad()
def loss_on(model: torch.nn.Module, rows: Sequence[Sample], pad: int) -> float:
    """Return the mean over batches of the loss per token of the answers, in nats."""
    model.eval()
    batches = [batch(rows, start, pad) for start in range(0, len(rows), BATCH)]
    return sum(float(model(input_ids=ids, labels=labels).loss) for ids, labels in batches) / len(batches)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train a short LoRA run on SmolLM2-135M-Instruct.")
    parser.add_argument("base", type=Path, help="the checkpoint, see real_models.py")
    parser.add_argument("folder", type=Path, help="where the run is written")
    parser.add_argument("--text", type=Path, required=True, help="plays, UTF-8")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
