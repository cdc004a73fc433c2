"""How far is an export from what disk and arithmetic need, and from today's chain of tools?

    python -m benchmarks.speed [--size 200m] [--repeats 3] [--out FILE.json]
    python -m benchmarks.speed --chain LLAMA_CPP [--python PYTHON] …

A random Llama with a LoRA is exported to several levels at once, unproved and unmeasured. In the same run are measured:

- the disk's sequential speed, and from it the time to read the inputs and write the outputs once;
- the arithmetic: ggml_quantize_chunk alone, on random rows, on as many threads, for as many numbers of each type;
- with --chain: PEFT's merge to a folder, convert_hf_to_gguf.py of a llama.cpp source folder to bf16, and
  llama_model_quantize for each level. PYTHON is an interpreter with what that converter asks for.

Figures are medians over the repeats; the two sides of a ratio take turns, so that they share a noisy machine.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.checkpoint import DEVIATION, SIZES, make_run
from exporter.quantize import quantize

PIECE = 1 << 24
PROBE = 1 << 29
"""Bytes of the file that the disk's speed is measured with."""
ROWS = 512
MERGE = """
import sys
import peft, torch, transformers
base, adapter, out = sys.argv[1:4]
torch.set_num_threads(int(sys.argv[4]))
model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
peft.PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(out)
transformers.AutoTokenizer.from_pretrained(base).save_pretrained(out)
"""
QUANTIZE = """
import ctypes, sys
import llama_cpp
source, out, level, threads = sys.argv[1:5]
llama_cpp.llama_backend_init()
params = llama_cpp.llama_model_quantize_default_params()
params.ftype, params.nthread = getattr(llama_cpp, "LLAMA_FTYPE_MOSTLY_" + level.upper()), int(threads)
sys.exit(llama_cpp.llama_model_quantize(source.encode(), out.encode(), ctypes.byref(params)))
"""


@dataclass(frozen=True)
class Disk:
    """Sequential speed, bytes a second."""

    read: float
    write: float


def main() -> None:
    """Measure, print, and write the figures."""
    arguments = parse()
    levels = arguments.levels.split(",")
    repeats = []
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as place:
        folder = Path(place)
        run = make_run(SIZES[arguments.size], folder)
        for _ in range(arguments.repeats):
            one: dict[str, Any] = {"disk": vars(disk_speed(folder))}
            one["export"] = taken = export(run, levels, arguments.threads)
            one["arithmetic_s"] = arithmetic(taken["quantized"], SIZES[arguments.size].hidden, arguments.threads)
            one["disk_s"] = taken["input_bytes"] / one["disk"]["read"] + taken["output_bytes"] / one["disk"]["write"]
            if arguments.chain:
                one["chain_s"] = chain(run, levels, arguments)
            repeats.append(one)
    show(repeats)
    if arguments.out:
        head = {"size": arguments.size, "levels": arguments.levels, "threads": arguments.threads}
        arguments.out.write_text(json.dumps(head | {"repeats": repeats}, indent=2) + "\n", encoding="utf-8")


def parse() -> argparse.Namespace:
    """What was asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--size", choices=SIZES, default="200m")
    parser.add_argument("--levels", default="q4_k_m,q6_k,q8_0")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--scratch", type=Path, help="where the model and the outputs lie while it runs")
    parser.add_argument("--chain", type=Path, metavar="LLAMA_CPP", help="llama.cpp's source: time today's chain too")
    parser.add_argument("--python", default=sys.executable, help="interpreter of the converter")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    return parser.parse_args()


def export(run: Path, levels: list[str], threads: int) -> dict[str, Any]:
    """What one export took, as ``benchmarks.write`` says, and its time from start to end of the process."""
    with tempfile.TemporaryDirectory(dir=run.parent) as out:
        for file in run.parent.rglob("*.safetensors"):
            forget(file)
        command = [
            sys.executable,
            "-m",
            "benchmarks.write",
            str(run),
            out,
            *levels,
            "--threads",
            str(threads),
            "--steps",
        ]
        start = time.perf_counter()
        answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        taken: dict[str, Any] = json.loads(answer)
    return taken | {"process_s": time.perf_counter() - start}


def arithmetic(quantized: Mapping[str, int], columns: int, threads: int) -> dict[str, float]:
    """Seconds that the row quantizers alone need for so many numbers of each type, on all threads, in wall and CPU."""
    rng = np.random.default_rng(2)
    rows = [rng.standard_normal((ROWS, columns), dtype=np.float32) * np.float32(DEVIATION) for _ in range(threads)]
    wall = cpu = 0.0
    with ThreadPoolExecutor(threads) as pool:
        for kind, count in quantized.items():
            once = timed(pool, kind, rows, 1)  # warms up, and says how often a second holds
            times = max(1, round(1.0 / once[0]))
            seconds = timed(pool, kind, rows, times)
            share = count / (times * threads * rows[0].size)
            wall, cpu = wall + share * seconds[0], cpu + share * seconds[1]
    return {"wall": wall, "cpu": cpu}


def timed(pool: ThreadPoolExecutor, kind: str, rows: list[NDArray[np.float32]], times: int) -> tuple[float, float]:
    """Wall and CPU seconds to quantize each thread's rows so many times."""

    def work(mine: NDArray[np.float32]) -> None:
        for _ in range(times):
            quantize(kind, mine)

    wall, cpu = time.perf_counter(), time.process_time()
    list(pool.map(work, rows))
    return time.perf_counter() - wall, time.process_time() - cpu


def disk_speed(folder: Path) -> Disk:
    """How fast a large file is written to the disk and flushed, and read back past the cache."""
    file, piece = folder / "probe", os.urandom(PIECE)
    start = time.perf_counter()
    with file.open("wb", buffering=0) as stream:
        for _ in range(PROBE // PIECE):
            stream.write(piece)
        os.fsync(stream.fileno())
    written = time.perf_counter()
    forget(file)
    begun, buffer = time.perf_counter(), bytearray(PIECE)
    with file.open("rb", buffering=0) as stream:
        while stream.readinto(buffer):
            pass
    read = time.perf_counter()
    file.unlink()
    return Disk(PROBE / (read - begun), PROBE / (written - start))


def forget(file: Path) -> None:
    """Have the system drop a file's pages, so that the next read is one from the disk."""
    with file.open("rb") as stream:
        os.fsync(stream.fileno())
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def chain(run: Path, levels: list[str], arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Seconds of each program of today's chain, in wall and CPU."""
    with tempfile.TemporaryDirectory(dir=run.parent) as place:
        folder, threads = Path(place), str(arguments.threads)
        merged, full = folder / "merged", folder / "bf16.gguf"
        converter = [str(arguments.chain / "convert_hf_to_gguf.py"), str(merged), "--outtype", "bf16"]
        steps = {
            "merge": [sys.executable, "-c", MERGE, str(run.parent / "base"), str(run), str(merged), threads],
            "convert": [arguments.python, *converter, "--outfile", str(full)],
        }
        for level in levels:
            out = str(folder / f"{level}.gguf")
            steps[level] = [sys.executable, "-c", QUANTIZE, str(full), out, level, threads]
        return {name: run_timed(name, command) for name, command in steps.items()}


def run_timed(name: str, command: list[str]) -> dict[str, float]:
    """Wall and CPU seconds of a program; the end of what it said where it fails."""
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    found = subprocess.run(command, check=False, capture_output=True, text=True)
    if found.returncode:
        sys.exit(f"{name}: {found.stderr[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall": time.perf_counter() - start, "cpu": cpu}


def show(repeats: list[dict[str, Any]]) -> None:
    """The table."""
    first = repeats[0]["export"]
    print(f"{first['parameters']:,} parameters, {first['output_bytes']:,} bytes written, {len(repeats)} times\n")
    line("export, whole process, s", [one["export"]["process_s"] for one in repeats])
    line("  of it before the first slice", [one["export"]["prepare_s"] for one in repeats])
    line("  of it writing", [one["export"]["write_s"] for one in repeats])
    line("floor: disk", [one["disk_s"] for one in repeats])
    line("floor: arithmetic", [one["arithmetic_s"]["wall"] for one in repeats])
    line("export / larger floor", [one["export"]["process_s"] / floor(one) for one in repeats])
    line("writing / larger floor", [one["export"]["write_s"] / floor(one) for one in repeats])
    line("export's CPU / arithmetic's CPU", [one["export"]["cpu_s"] / one["arithmetic_s"]["cpu"] for one in repeats])
    print("\nCPU seconds of the export")
    for step in first["steps_cpu_s"]:
        line(f"  {step}", [one["export"]["steps_cpu_s"][step] for one in repeats])
    line("  all, with imports and plan", [one["export"]["cpu_s"] for one in repeats])
    if "chain_s" in repeats[0]:
        show_chain(repeats)


def show_chain(repeats: list[dict[str, Any]]) -> None:
    """The table of today's chain."""
    for kind, whole in (("wall", "process_s"), ("cpu", "cpu_s")):
        print(f"\ntoday's chain, {kind} seconds")
        for step in repeats[0]["chain_s"]:
            line(f"  {step}", [one["chain_s"][step][kind] for one in repeats])
        sums = [sum(step[kind] for step in one["chain_s"].values()) for one in repeats]
        line("  all", sums)
        line("chain / export", [all_ / one["export"][whole] for all_, one in zip(sums, repeats, strict=True)])


def floor(one: Mapping[str, Any]) -> float:
    """The larger of the two times that nothing can be faster than."""
    return float(max(one["disk_s"], one["arithmetic_s"]["wall"]))


def line(name: str, values: list[float]) -> None:
    """A figure: median, least and most."""
    spread = f"   {min(values):.2f} to {max(values):.2f}" if len(values) > 1 else ""
    print(f"{name:<34} {median(values):>9.2f}{spread}")


if __name__ == "__main__":
    main()
