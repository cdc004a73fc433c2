"""The child: the only place that calls llama.cpp's model API."""

import ctypes
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from exporter.errors import EngineError
from exporter.llamacpp.sight import see
from exporter.llamacpp.wire import receive, send

Answer = tuple[dict[str, Any], bytes | memoryview]

_WARN, _CONTINUE = 3, 5  # ggml's log levels: warnings and errors are kept, and what continues them


def serve(parent: int) -> None:
    """The child: answer requests from stdin on stdout, until stdin ends or the process ``parent`` is gone."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends a decode at once; Python would wait for its end
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not get among the replies
    held: _Held | None = None
    while True:
        try:
            request, payload = receive(requests)
        except EOFError:
            os._exit(0)  # nothing to tidy: the system takes back what llama.cpp holds
        try:
            if held is None:
                held = _Held(request)
            reply, data = _OPS[request["op"]](held, request, payload)
        except EngineError as error:
            reply, data = {"error": str(error)}, b""
        send(replies, reply, data)


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.25)
    os._exit(1)


class _Held:
    """The child's model, context and batch."""

    def __init__(self, request: dict[str, Any]) -> None:
        import llama_cpp  # noqa: PLC0415  # it loads the C library, which may end the process

        self.c = llama_cpp
        self.log = llama_cpp.llama_log_callback(_log())
        llama_cpp.llama_log_set(self.log, None)
        llama_cpp.llama_backend_init()
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = 0
        params.load_mode = llama_cpp.LLAMA_LOAD_MODE_MMAP
        # The extra buffers repack weights for AMX, whose kernels crash on some processors that report it.
        params.use_extra_bufts = False
        params.check_tensors = request["check"]
        self.model = llama_cpp.llama_model_load_from_file(os.fsencode(request["path"]), params)
        if not self.model:
            raise EngineError("it is not a whole GGUF file of a model that llama.cpp knows")
        self.vocab = llama_cpp.llama_model_get_vocab(self.model)
        self.n_vocab = int(llama_cpp.llama_vocab_n_tokens(self.vocab))
        self.context: Any = None
        self.batch: Any = None
        self.room = 0
        self.outputs = 0


def _log() -> Any:  # noqa: ANN401  # a Python function for ctypes
    kept = False

    def write(level: int, text: bytes, _: object) -> None:
        nonlocal kept
        kept = kept if level == _CONTINUE else level >= _WARN
        if kept:
            os.write(2, text)

    return write


def _facts(held: _Held, _: dict[str, Any], __: bytes) -> Answer:
    c, vocab = held.c, held.vocab
    text = ctypes.create_string_buffer(256)
    c.llama_model_desc(held.model, text, len(text))
    template = c.llama_model_chat_template(held.model, None)
    special = {name: getattr(c, f"llama_vocab_{name}")(vocab) for name in ("bos", "eos", "eot")}
    return {
        "n_vocab": held.n_vocab,
        "n_ctx_train": c.llama_model_n_ctx_train(held.model),
        "n_params": c.llama_model_n_params(held.model),
        "description": text.value.decode("utf-8", "replace"),
        "add_bos": bool(c.llama_vocab_get_add_bos(vocab)),
        "add_eos": bool(c.llama_vocab_get_add_eos(vocab)),
        **{name: token if token >= 0 else None for name, token in special.items()},
        "eog": [token for token in range(held.n_vocab) if c.llama_vocab_is_eog(vocab, token)],
        "chat_template": None if template is None else template.decode("utf-8", "replace"),
        "engine": f"llama.cpp of llama-cpp-python {c.__version__}",
    }, b""


def _start(held: _Held, request: dict[str, Any], _: bytes) -> Answer:
    params = held.c.llama_context_default_params()
    params.n_ctx = request["context"]
    params.n_batch = params.n_ubatch = request["batch"]
    params.n_outputs_max = request["outputs"]
    params.n_threads = params.n_threads_batch = request["threads"]
    params.op_offload = params.offload_kqv = False
    if request["exact"]:
        params.type_k = params.type_v = held.c.GGML_TYPE_F32
        params.flash_attn_type = held.c.LLAMA_FLASH_ATTN_TYPE_DISABLED
    held.context = held.c.llama_init_from_model(held.model, params)
    if not held.context:
        raise EngineError(f"no context of {request['context']} tokens could be made (is there memory for it?)")
    held.batch, held.room = held.c.llama_batch_init(request["batch"], 0, 1), request["batch"]
    return {}, b""


def _tokenize(held: _Held, request: dict[str, Any], text: bytes) -> Answer:
    ids = (ctypes.c_int32 * (len(text) + 16))()  # a token is at least a byte, but for those added
    flags = (request["add_special"], request["parse_special"])
    n = held.c.llama_tokenize(held.vocab, text, len(text), ids, len(ids), *flags)
    if n < 0:  # more than room: the count, negated
        ids = (ctypes.c_int32 * -n)()
        n = held.c.llama_tokenize(held.vocab, text, len(text), ids, len(ids), *flags)
    return {}, bytes(memoryview(ids).cast("B")[: 4 * n])


def _pieces(held: _Held, _: dict[str, Any], payload: bytes) -> Answer:
    text, parts = ctypes.create_string_buffer(4096), []
    for token in np.frombuffer(payload, np.int32).tolist():
        n = held.c.llama_token_to_piece(held.vocab, token, text, len(text), 0, False)  # noqa: FBT003  # a C call
        parts.append(text.raw[: max(n, 0)])
    return {}, b"".join(parts)


def _texts(held: _Held, _: dict[str, Any], __: bytes) -> Answer:
    return {}, b"\0".join(held.c.llama_vocab_get_text(held.vocab, token) or b"" for token in range(held.n_vocab))


def _value(held: _Held, request: dict[str, Any], _: bytes) -> Answer:
    text = ctypes.create_string_buffer(4096)
    size = held.c.llama_model_meta_val_str(held.model, request["key"].encode(), text, len(text))
    return {"value": text.value.decode("utf-8", "replace") if size >= 0 else None}, b""


def _decode(held: _Held, request: dict[str, Any], payload: bytes) -> Answer:
    ids, batch, position = np.frombuffer(payload, np.int32), held.batch, request["position"]
    if len(ids) > held.room:
        raise EngineError(f"{len(ids)} tokens do not fit in a batch of {held.room}")
    if position == 0:
        held.c.llama_memory_clear(held.c.llama_get_memory(held.context), True)  # noqa: FBT003  # a C call
    for i, token in enumerate(ids.tolist()):
        batch.token[i], batch.pos[i], batch.logits[i] = token, position + i, i >= request["first"]
        batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
    batch.n_tokens = len(ids)
    status = held.c.llama_decode(held.context, batch)
    if status != 0:
        raise EngineError(f"llama_decode gave {status} for {len(ids)} tokens at position {position}")
    held.outputs = len(ids) - request["first"]
    return {}, b""


def _rows(held: _Held, request: dict[str, Any], _: bytes) -> Answer:
    first, count = request["first"], request["count"]
    if first + count > held.outputs:
        raise EngineError(f"rows {first} to {first + count} were asked for, the last decode made {held.outputs}")
    logits = ctypes.cast(held.c.llama_get_logits(held.context), ctypes.c_void_p).value or 0
    size = 4 * held.n_vocab
    return {}, memoryview((ctypes.c_char * (size * count)).from_address(logits + size * first)).cast("B")


def _see(held: _Held, request: dict[str, Any], pixels: bytes) -> Answer:
    return see(held.model, request, pixels)


_OPS: dict[str, Callable[[_Held, dict[str, Any], bytes], Answer]] = {
    "open": _facts,
    "start": _start,
    "tokenize": _tokenize,
    "pieces": _pieces,
    "texts": _texts,
    "value": _value,
    "decode": _decode,
    "rows": _rows,
    "see": _see,
}
