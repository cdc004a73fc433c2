"""A child process: llama.cpp's token ids of texts. It dies where llama.cpp aborts, and the test sees it.

``python llama_ids.py FILE.gguf… < texts.json`` writes for each file
``[ids with special tokens parsed, ids without, text again]``.
"""

import ctypes
import json
import sys

import llama_cpp

PIECE = 256


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _silence(_level: int, _text: bytes, _data: ctypes.c_void_p) -> None:
    pass


def _ids(vocab: object, text: str, *, parse: bool) -> list[int]:
    data = text.encode()
    room = (llama_cpp.llama_token * (len(data) + 16))()
    count = llama_cpp.llama_tokenize(vocab, data, len(data), room, len(room), False, parse)  # noqa: FBT003 - C's order
    assert count >= 0, text
    return list(room[:count])


def _text(vocab: object, ids: list[int]) -> str:
    room = ctypes.create_string_buffer(PIECE)
    parts = []
    for token in ids:
        count = llama_cpp.llama_token_to_piece(vocab, token, room, PIECE, 0, False)  # noqa: FBT003 - not special
        parts.append(room.raw[: max(count, 0)])
    return b"".join(parts).decode(errors="replace")


def _answer(path: str, texts: list[str]) -> list[object]:
    params = llama_cpp.llama_model_default_params()
    params.vocab_only, params.use_extra_bufts = True, False
    model = llama_cpp.llama_model_load_from_file(path.encode(), params)
    assert model, path
    vocab = llama_cpp.llama_model_get_vocab(model)
    parsed = [_ids(vocab, text, parse=True) for text in texts]
    plain = [_ids(vocab, text, parse=False) for text in texts]
    again = [_text(vocab, ids) for ids in parsed]
    llama_cpp.llama_model_free(model)
    return [parsed, plain, again]


def main(paths: list[str]) -> None:
    """Load the files and answer on stdout."""
    texts = json.load(sys.stdin)
    llama_cpp.llama_log_set(_silence, None)
    json.dump([_answer(path, texts) for path in paths], sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1:])
