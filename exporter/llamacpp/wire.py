"""Messages between the two processes: a JSON object, and bytes that belong to it."""

import json
import struct
from typing import IO, Any

import numpy as np
import numpy.typing as npt

HEAD = struct.Struct("<IQ")  # bytes of JSON, bytes that follow it


def send(stream: IO[bytes], message: dict[str, Any], payload: bytes | memoryview) -> None:
    """Write one message; BrokenPipeError when nobody reads any more."""
    head = json.dumps(message).encode()
    stream.write(HEAD.pack(len(head), len(payload)) + head)
    stream.write(payload)
    stream.flush()


def receive(stream: IO[bytes], out: npt.NDArray[np.float32] | None = None) -> tuple[dict[str, Any], bytes]:
    """Read one message; as many bytes as ``out`` has go there instead. EOFError where the stream ends too early."""
    n_head, n_payload = HEAD.unpack(_exactly(stream, HEAD.size))
    message = json.loads(_exactly(stream, n_head))
    if out is None or out.nbytes != n_payload:
        return message, _exactly(stream, n_payload)
    if stream.readinto(out.data.cast("B")) != n_payload:  # type: ignore[attr-defined]
        raise EOFError
    return message, b""


def _exactly(stream: IO[bytes], n: int) -> bytes:
    data = stream.read(n)
    if len(data) != n:
        raise EOFError
    return data
