"""Logits by llama.cpp with nothing in 16 bits: the cache in float32, and no flash attention, which works in f16.

``python tests/f32_logits.py FILE IDS OUT`` evaluates the ids (an int32 .npy file), and writes rows of logits.
It runs in a process of its own: llama.cpp may end the process that it runs in.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def f32_logits(file: Path, ids: NDArray[np.int32]) -> NDArray[np.float32]:
    """The logits after each of the ids, (ids, vocabulary)."""
    out, given = file.with_suffix(".logits.npy"), file.with_suffix(".ids.npy")
    np.save(given, ids)
    done = subprocess.run(
        [sys.executable, __file__, str(file), str(given), str(out)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    logits: NDArray[np.float32] = np.load(out)
    return logits


def _evaluate(file: str, ids: NDArray[np.int32]) -> NDArray[np.float32]:
    import llama_cpp as c  # noqa: PLC0415  (it loads the C library)

    c.llama_backend_init()
    asked = c.llama_model_default_params()
    asked.use_extra_bufts, asked.n_gpu_layers = False, 0
    model = c.llama_model_load_from_file(file.encode(), asked)
    params = c.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = params.n_outputs_max = len(ids)
    params.n_threads = params.n_threads_batch = 1
    params.type_k = params.type_v = c.GGML_TYPE_F32
    params.flash_attn_type = c.LLAMA_FLASH_ATTN_TYPE_DISABLED
    context = c.llama_init_from_model(model, params)
    batch = c.llama_batch_init(len(ids), 0, 1)
    for i, token in enumerate(ids.tolist()):
        batch.token[i], batch.pos[i], batch.logits[i] = token, i, 1
        batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
    batch.n_tokens = len(ids)
    if c.llama_decode(context, batch) != 0:
        sys.exit("llama.cpp could not decode")
    columns = c.llama_vocab_n_tokens(c.llama_model_get_vocab(model))
    logits: NDArray[np.float32] = np.ctypeslib.as_array(c.llama_get_logits(context), (len(ids) * columns,))
    return logits.reshape(len(ids), columns)


if __name__ == "__main__":
    np.save(sys.argv[3], _evaluate(sys.argv[1], np.load(sys.argv[2])))
