"""Images by llama.cpp's multimodal library, in the child."""

import ctypes
import os
from typing import Any

from exporter.errors import EngineError

Answer = tuple[dict[str, Any], bytes | memoryview]


def see(model: Any, request: dict[str, Any], pixels: bytes) -> Answer:  # noqa: ANN401  (the C library's handle)
    """The embeddings of an image, float32, and how wide they are. EngineError where the projector does not load.

    Args:
        model: the text model, loaded.
        request: the projector's path, the image's width and height, and how many threads to use.
        pixels: red, green and blue of each pixel, row by row.
    """
    import llama_cpp  # noqa: PLC0415  (it loads the C library)
    from llama_cpp import mtmd_cpp as c  # noqa: PLC0415

    params = c.mtmd_context_params_default()
    params.use_gpu = params.warmup = params.print_timings = False
    params.n_threads = request["threads"]
    params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED  # it computes in float16
    context = c.mtmd_init_from_file(os.fsencode(request["projector"]), model, params)
    if not context:
        raise EngineError(f"{request['projector']} is no projector that belongs to it")
    try:
        chunk = _chunk(c, context, (request["width"], request["height"]), pixels)
        status = c.mtmd_encode_chunk(context, chunk)
        if status != 0:
            raise EngineError(f"mtmd_encode_chunk gave {status}")
        width = int(llama_cpp.llama_model_n_embd_inp(model))
        size = 4 * width * int(c.mtmd_input_chunk_get_n_tokens(chunk))
        place = ctypes.cast(c.mtmd_get_output_embd(context), ctypes.c_void_p).value or 0
        return {"width": width}, ctypes.string_at(place, size)
    finally:
        c.mtmd_free(context)


def _chunk(c: Any, context: Any, size: tuple[int, int], pixels: bytes) -> Any:  # noqa: ANN401
    """The chunk of a prompt that is the image, which lives as long as the process; the first of several slices."""
    data = (ctypes.c_uint8 * len(pixels)).from_buffer_copy(pixels)
    bitmap = c.mtmd_bitmap_init(*size, data)
    marker = c.mtmd_default_marker()
    text = c.mtmd_input_text(text=marker, text_len=len(marker), add_special=False, parse_special=True)
    chunks = c.mtmd_input_chunks_init()
    status = c.mtmd_tokenize(context, chunks, ctypes.byref(text), (ctypes.c_void_p * 1)(bitmap), 1)
    c.mtmd_bitmap_free(bitmap)
    if status != 0:
        raise EngineError(f"mtmd_tokenize gave {status} for an image")
    found = [c.mtmd_input_chunks_get(chunks, k) for k in range(c.mtmd_input_chunks_size(chunks))]
    return next(one for one in found if c.mtmd_input_chunk_get_type(one) == c.MTMD_INPUT_CHUNK_TYPE_IMAGE)
