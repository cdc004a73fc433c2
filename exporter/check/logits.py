"""The proof of the weights: the file's logits are those of the transformers model with its live adapters."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from exporter.check import memory
from exporter.check.bounds import BOUNDS, PART, Bound, level_of
from exporter.check.divergence import BLOCK, Logits, mean_kld
from exporter.check.values import Check
from exporter.llamacpp import Engine, Shape
from exporter.llamacpp.wire import receive, send
from exporter.verify.text import read_text

if TYPE_CHECKING:
    from exporter.plan import Plan
    from exporter.run import Run

NAME = "logits"
CONTEXT, KEPT = 640, 128
"""Tokens of real text, more than small models' sliding windows; logits after so many of the last are compared."""
LEAST = 16
CHILD = "from exporter.check.live import serve; serve()"


@dataclass(frozen=True)
class Found:
    """The share of equal likeliest tokens, the mean KLD in nats, the largest difference in standard deviations."""

    top1: float
    kld: float
    largest: float

    def within(self, bound: Bound) -> bool:
        """Whether all three keep to a bound."""
        return self.top1 >= bound.top1 and self.kld <= bound.kld and self.largest <= bound.largest


def check_logits(file: Path, run: "Run", plan: "Plan", *, text: Path | None = None, threads: int = 0) -> Check:
    """Compare the logits of a file with the run's own, on real text; skipped with the reason where that cannot be.

    EngineError where llama.cpp does not load the file, or the text cannot be read.

    Args:
        file: a GGUF file in f32, f16 or bf16.
        run: the base and the adapters.
        plan: how many parameters there are.
        text: the user's own; else the one that comes along.
        threads: of llama.cpp and torch; 0 for all cores.
    """
    with Engine(file) as engine:
        level = level_of(file)
        if level is None:
            return Check(NAME, "skipped", "the file is quantized: the proof is for f32, f16 and bf16 files")
        ids = _ids(engine, read_text(text).data)
        if len(ids) < LEAST:
            return Check(NAME, "skipped", f"the text has {len(ids)} tokens, expected {LEAST} at least")
        keep = min(KEPT, len(ids) // 2)
        why = _cannot(run) or _too_large(
            plan.parameters, file, keep * engine.facts.n_vocab * 4 * (2 if run.adapters else 1)
        )
        if why is not None:
            return Check(NAME, "skipped", why)
        answer = _truth(run, ids, (keep, engine.facts.n_vocab), threads)
        if isinstance(answer, str):
            return Check(NAME, "skipped", answer)
        truth, moved = answer
        engine.start(Shape(len(ids), len(ids), keep, threads, exact=True))
        engine.decode(np.asarray(ids, np.int32), 0, len(ids) - keep)
        found = _compare(engine, truth)
    return _verdict(found, level, moved, (len(ids), keep))


def _verdict(found: Found, level: str, moved: float | None, tokens: tuple[int, int]) -> Check:
    """The check; ``moved``: how far the adapters alone move the logits, of which the mean KLD must be a small part."""
    bound, (every, keep) = BOUNDS[level], tokens
    against = f"transformers in float32, after the last {keep} of {every} tokens"
    figures = (
        f"likeliest token {found.top1:.2%} alike (at least {bound.top1:.0%}), mean KLD {found.kld:.2e} (at most "
        f"{bound.kld:.0e}), largest difference {found.largest:.2e} standard deviations (at most {bound.largest})"
    )
    if moved is not None:
        figures += f"; without the adapters it would be a mean KLD of {moved:.2e}"
    if found.within(bound) and moved is not None and found.kld > PART * moved:
        figures += f", of which {PART:.0%} at most may be left to tell: export an f32 level to prove it"
        return Check(NAME, "skipped", f"{level} against {against} cannot tell: {figures}")
    return Check(NAME, "pass" if found.within(bound) else "fail", f"{level} against {against}: {figures}")


def _ids(engine: Engine, text: bytes) -> list[int]:
    """The first tokens of the text, as many as the model was trained on at the most."""
    begun = text[: CONTEXT * 16].decode("utf-8", "ignore").encode()
    room = min(CONTEXT, engine.facts.n_ctx_train)
    return cast("list[int]", engine.tokenize(begun, add_special=True, parse_special=False)[:room].tolist())


def _cannot(run: "Run") -> str | None:
    """Why transformers and PEFT cannot compute what this run is; None where they can."""
    if run.rounded is not None:
        return f"the base is rounded to {run.rounded}, which transformers has on a GPU only"
    if run.packing is not None:
        return f"lora_B is packed as {run.packing}, as --moe-lora-layout says: PEFT is not told so"
    if any((run.base / "config.json").is_file() and key in _config(run.base) for key in ("quantization_config",)):
        return "the base's weights are stored quantized: transformers needs the library that made them"
    if not list(run.base.glob("model*.safetensors")):
        return f"{run.base}: no model*.safetensors there, and files of other kinds are not opened by transformers here"
    return None


def _config(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "config.json").read_text(encoding="utf-8")))


def _too_large(parameters: int, file: Path, logits: int) -> str | None:
    """Why the model does not fit in memory, with the numbers; None where it does."""
    takes, free = memory.needed(parameters, file.stat().st_size, logits), memory.available()
    if free is None:
        return "how much memory is free is not known on this system"
    if takes > free:
        return f"about {takes / 1e9:.1f} GB of memory are needed, {free / 1e9:.1f} GB are free"
    return None


def _truth(run: "Run", ids: Sequence[int], shape: tuple[int, int], threads: int) -> tuple[Logits, float | None] | str:
    """The run's own logits, (kept, vocabulary), and how far its adapters move them; or else why there are none."""
    keep, rows = shape
    architecture = _config(run.base).get("architectures") or [run.config["architecture"]]
    request = {
        "base": str(run.base.resolve()),
        "architecture": architecture[0],
        "adapters": [[str(adapter.folder.resolve()), adapter.weight] for adapter in run.adapters],
        "rows": rows,
        "ids": list(ids),
        "keep": keep,
        "threads": threads or len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else threads or 1,
    }
    reply, data = _ask(request)
    if "unable" in reply:
        return str(reply["unable"])
    logits = np.frombuffer(data, np.float32).reshape(keep, reply["columns"])
    if logits.shape[1] < rows:
        return f"transformers has logits of {logits.shape[1]} tokens, the file of {rows}"
    return logits[:, :rows], reply["moved"]


def _ask(request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    """One request to the child that holds the transformers model; it has no network, and runs no code of a model."""
    root = str(Path(__file__).resolve().parents[2])
    search = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    quiet = {"PYTHONWARNINGS": "ignore", "TRANSFORMERS_VERBOSITY": "error", "TOKENIZERS_PARALLELISM": "false"}
    env = {**os.environ, "PYTHONPATH": search, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", **quiet}
    child = subprocess.Popen(
        [sys.executable, "-P", "-c", CHILD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=env,
    )
    with child:
        if child.stdin is None or child.stdout is None:
            return {"unable": "the process for transformers has no pipes"}, b""
        try:
            send(child.stdin, request, b"")
            return receive(child.stdout)
        except (EOFError, BrokenPipeError):
            return {"unable": f"the process for transformers ended with status {child.wait()}"}, b""
        finally:
            child.kill()


def _compare(engine: Engine, truth: Logits) -> Found:
    """The figures over all rows, a few at a time."""
    same, kld, largest = 0, 0.0, 0.0
    spread = float(truth.std(dtype=np.float64))
    for start in range(0, len(truth), BLOCK):
        wanted = truth[start : start + BLOCK]
        rows = np.empty((len(wanted), truth.shape[1]), np.float32)
        engine.rows(start, rows)
        found = rows
        if not np.isfinite(found).all():
            return Found(0.0, float("inf"), float("inf"))
        same += int((wanted.argmax(axis=1) == found.argmax(axis=1)).sum())
        kld += mean_kld(wanted, found) * len(wanted)
        largest = max(largest, float(np.abs(found - wanted).max()) / spread)
    return Found(same / len(truth), kld / len(truth), largest)
