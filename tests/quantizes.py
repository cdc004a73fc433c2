"""llama.cpp's own quantizer, in a process of its own."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

QUANTIZE = """
import ctypes, json, sys
import llama_cpp
llama_cpp.llama_backend_init()
for source, out, ftype in json.load(sys.stdin):
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread = ftype, 1
    if llama_cpp.llama_model_quantize(source.encode(), out.encode(), ctypes.byref(params)) != 0:
        sys.exit("llama.cpp refused " + out)
"""


def llamacpp_quantizes(source: Path, files: Mapping[Path, int]) -> None:
    """Make files of a GGUF file in f32, each at one of llama.cpp's file types."""
    jobs = [[str(source), str(file), kind] for file, kind in files.items()]
    done = subprocess.run(
        [sys.executable, "-c", QUANTIZE], input=json.dumps(jobs), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
