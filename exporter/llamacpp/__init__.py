"""llama.cpp's model API, always in a process of its own: a failed assertion there ends the process that made it.

The parent (``Engine``) and the child (``child.serve``) talk over two pipes. A message is a JSON object and raw bytes;
every request gets one reply. llama.cpp's warnings and errors go to an unnamed file, whose last lines become part of the
``EngineError`` when a request fails or the child dies.
"""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
import numpy.typing as npt

from exporter.errors import EngineError
from exporter.llamacpp.wire import receive, send

Ids = npt.NDArray[np.int32]
Logits = npt.NDArray[np.float32]
Image = npt.NDArray[np.uint8]

_LOG_TAIL = 2000  # characters of llama.cpp's log in a message
_PROOF_TOKENS = 8  # decoded to prove that a file computes
_DOING = {
    "open": "load",
    "start": "make a context for",
    "tokenize": "tokenize text with",
    "pieces": "write text with",
    "texts": "list the tokens of",
    "value": "read the metadata of",
    "decode": "run",
    "rows": "give the logits of",
    "see": "look at an image with",
}
_START = "from exporter.llamacpp.child import serve; serve({parent})"


@dataclass(frozen=True)
class Shape:
    """How a context is made: its length, and the most tokens and rows of logits of one decode.

    ``threads`` 0 means all cores that this process may use; ``exact`` keeps keys and values in float32,
    and does not use flash attention, which computes in float16.
    """

    context: int
    batch: int
    outputs: int
    threads: int = 0
    exact: bool = False


@dataclass(frozen=True)
class Facts:
    """What llama.cpp says about a file it has loaded whole. Special ids are None where the vocabulary has none."""

    n_vocab: int
    n_ctx_train: int
    n_params: int
    description: str
    add_bos: bool
    add_eos: bool
    bos: int | None
    eos: int | None
    eot: int | None
    eog: tuple[int, ...]
    chat_template: str | None
    engine: str


@dataclass(frozen=True)
class TextIds:
    """llama_tokenize's ids of one text: alone, with the special tokens it adds, and with special tokens parsed."""

    plain: tuple[int, ...]
    special: tuple[int, ...]
    parsed: tuple[int, ...]


@dataclass(frozen=True)
class Loaded:
    """The proof that llama.cpp reads and runs a file: what it says of it, ids of texts, finite logits of a decode."""

    path: Path
    facts: Facts
    ids: tuple[TextIds, ...]
    finite: bool


class Engine:
    """One GGUF file, loaded whole by llama.cpp in a child process; close it, or use it as a context manager.

    It tokenizes at once, and decodes after ``start``; ``check`` validates every block of the file's data. ``called`` is
    what messages call the file, where its path says nothing to a user.
    """

    def __init__(self, path: Path, *, check: bool = False, called: str | None = None) -> None:
        self.path, self.called = path, called or str(path)
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # closed by close()
        root = str(Path(__file__).resolve().parents[2])
        search = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        # ggml's threads meet after each operation. With OpenMP they spin meanwhile, and where another process wants a
        # core too, a decode takes up to 30 times as long; passive ones sleep. Without the second variable ggml would
        # start a debugger for the stack of a failed assertion.
        env = {"OMP_WAIT_POLICY": "passive", **os.environ, "GGML_NO_BACKTRACE": "1"}
        env |= {"PYTHONPATH": search, "PYTHONWARNINGS": "ignore"}
        self._child = subprocess.Popen(
            [sys.executable, "-P", "-c", _START.format(parent=os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=env,
        )
        try:
            reply, _ = self._ask("open", {"path": str(path.resolve()), "check": check})
        except BaseException:
            self.close()
            raise
        self.facts = Facts(**{**reply, "eog": tuple(reply["eog"])})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the child and wait for it, so that none is left; what it was doing is lost. May be called again."""
        self._child.kill()
        self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout, self._log):
            try:
                if pipe is not None:
                    pipe.close()
            except BrokenPipeError:  # what was still to be sent to a child that is gone
                continue

    def start(self, shape: Shape) -> None:
        """Make the context that ``decode`` runs in; EngineError where there is no memory for it."""
        self._ask("start", {**vars(shape), "threads": shape.threads or _cores()})

    def tokenize(self, text: bytes, *, add_special: bool, parse_special: bool) -> Ids:
        """Ids of UTF-8 text, which may hold NUL: with BOS and EOS as the file asks, with special tokens parsed."""
        _, payload = self._ask("tokenize", {"add_special": add_special, "parse_special": parse_special}, text)
        return np.frombuffer(payload, np.int32)

    def pieces(self, ids: Sequence[int]) -> bytes:
        """The text of ids, joined, control tokens left out; whole UTF-8 only where the ids end at a character."""
        _, payload = self._ask("pieces", {}, np.asarray(ids, np.int32).tobytes())
        return payload

    def texts(self) -> list[bytes]:
        """The text of each token of the vocabulary, as the file spells it."""
        _, payload = self._ask("texts", {})
        return payload.split(b"\0")

    def value(self, key: str) -> str | None:
        """A value of the file's metadata, written as text; None where there is none."""
        reply, _ = self._ask("value", {"key": key})
        found: str | None = reply["value"]
        return found

    def decode(self, ids: Ids, position: int, first: int = 0) -> int:
        """Run ids at ``position``, after what is in the cache (position 0 empties it); logits of ids[first:] are kept.

        Returns the number of rows that ``rows`` can read, in order.
        """
        request = {"position": position, "first": first}
        self._ask("decode", request, np.ascontiguousarray(ids, np.int32).tobytes())
        return len(ids) - first

    def rows(self, first: int, out: Logits) -> None:
        """Fill ``out`` (rows x n_vocab, C order) with the last decode's logits from row ``first`` on."""
        self._ask("rows", {"first": first, "count": len(out)}, out=out)

    def see(self, projector: Path, image: Image, threads: int = 0) -> Logits:
        """The embeddings that an image (height, width, 3) becomes by a projector's file: (tokens, width of the text).

        EngineError where the file does not load, or does not belong to the text model.
        """
        height, width, _ = image.shape
        request = {"projector": str(projector.resolve()), "width": width, "height": height}
        reply, payload = self._ask("see", {**request, "threads": threads or _cores()}, image.tobytes())
        return np.frombuffer(payload, np.float32).reshape(-1, reply["width"])

    def _ask(
        self, op: str, request: dict[str, Any], payload: bytes = b"", out: Logits | None = None
    ) -> tuple[dict[str, Any], bytes]:
        """Send one request, return the reply; its bytes go to ``out`` where given. An error or a death: EngineError."""
        stdin, stdout = self._child.stdin, self._child.stdout
        if stdin is None or stdout is None or stdin.closed:
            raise EngineError(f"{self.called}: llama.cpp was to {_DOING[op]} this file after it was closed.")
        try:
            send(stdin, {"op": op, **request}, payload)
            reply, data = receive(stdout, out)
        except (EOFError, BrokenPipeError):
            raise EngineError(self._explain(op, self._ending())) from None
        if "error" in reply:
            raise EngineError(self._explain(op, reply["error"]))
        return reply, data

    def _ending(self) -> str:
        code = self._child.wait()
        if code >= 0:
            return f"its process ended with status {code}"
        return f"its process was ended by signal {-code} ({signal.strsignal(-code)})"

    def _explain(self, op: str, reason: str) -> str:
        end = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, end - _LOG_TAIL))
        log = self._log.read().decode("utf-8", "replace").strip()
        tail = f"\nllama.cpp's last words:\n{log}" if log else ""
        return f"{self.called}: llama.cpp could not {_DOING[op]} this file: {reason}.{tail}"


def _cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def load(path: Path, texts: Sequence[str]) -> Loaded:
    """Load a file whole, every block's data checked; tokenize the texts; decode a few tokens.

    EngineError where llama.cpp cannot, with its last words.
    """
    with Engine(path, check=True) as engine:
        engine.start(Shape(context=64, batch=_PROOF_TOKENS, outputs=_PROOF_TOKENS))
        found = []
        for text in texts:
            data = text.encode("utf-8", "surrogatepass")
            kinds = ((False, False), (True, False), (False, True))
            ids = [engine.tokenize(data, add_special=add, parse_special=parse) for add, parse in kinds]
            found.append(TextIds(*(tuple(some.tolist()) for some in ids)))
        some = next((ids.plain for ids in found if ids.plain), (engine.facts.bos or 0,))[:_PROOF_TOKENS]
        logits = np.empty((engine.decode(np.asarray(some, np.int32), 0), engine.facts.n_vocab), np.float32)
        engine.rows(0, logits)
        return Loaded(path, engine.facts, tuple(found), bool(np.isfinite(logits).all()))


def generate(path: Path, prompt: str, n: int) -> str:
    """The text of at most ``n`` tokens that a file writes after a prompt, always its likeliest one."""
    with Engine(path) as engine:
        ids = engine.tokenize(prompt.encode("utf-8"), add_special=True, parse_special=True)
        engine.start(Shape(context=len(ids) + n, batch=len(ids), outputs=1))
        return go_on(engine, prompt, n)


def go_on(engine: Engine, prompt: str, n: int) -> str:
    """As ``generate``, by an engine that has a context long enough for the prompt and ``n`` tokens more."""
    ids = engine.tokenize(prompt.encode("utf-8"), add_special=True, parse_special=True)
    logits = np.empty((1, engine.facts.n_vocab), np.float32)
    written: list[int] = []
    position = 0
    while len(written) < n:
        engine.decode(ids, position, len(ids) - 1)
        engine.rows(0, logits)
        position += len(ids)
        ids = np.asarray([logits.argmax()], np.int32)
        if int(ids[0]) in engine.facts.eog:
            break
        written.append(int(ids[0]))
    return engine.pieces(written).decode("utf-8", "replace")
