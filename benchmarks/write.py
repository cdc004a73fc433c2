"""One export without proof and measurement, in a process of its own; prints what it took as JSON.

    python -m benchmarks.write RUN OUT LEVEL… [--threads N] [--steps]

With --steps, the CPU time of each step of the writer is taken too.
"""

import argparse
import json
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from exporter import writer
from exporter.pipeline import Options, prepare
from exporter.profiles import load_profile

STEPS = {"finished": "read and merge", "_check": "check", "quantize": "quantize", "_put": "write", "header": "header"}


def main() -> None:
    """Prepare, write, and say what it took."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run")
    parser.add_argument("out", type=Path)
    parser.add_argument("levels", nargs="+")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", action="store_true")
    arguments = parser.parse_args()
    spent = timed() if arguments.steps else {}
    start = time.perf_counter()
    run, source, plan = prepare(arguments.run, [load_profile(name) for name in arguments.levels], Options(verify=False))
    prepared = time.perf_counter()
    files = [arguments.out / output.file for output in plan.outputs]
    writer.write(plan, source, files, threads=arguments.threads, progress=lambda _done, _total: None)
    written = time.perf_counter()
    quantized: dict[str, int] = {}
    for job in plan.jobs:
        for kind in set(job.types) - {"F32"}:
            quantized[kind] = quantized.get(kind, 0) + job.weights
    result = {
        "parameters": plan.parameters,
        "prepare_s": prepared - start,
        "write_s": written - prepared,
        "cpu_s": time.process_time(),
        "steps_cpu_s": {name: sum(times) for name, times in spent.items()},
        "quantized": quantized,
        "output_bytes": sum(file.stat().st_size for file in files),
        "input_bytes": sum(file.stat().st_size for file in [*source.files(), *(one.weights for one in run.adapters)]),
        "written_bytes": _passed_to_write(),
    }
    print(json.dumps(result))


def timed() -> dict[str, list[float]]:
    """Have the writer's steps note their CPU time: seconds of every call, by step."""
    spent: dict[str, list[float]] = {step: [] for step in STEPS.values()}
    for name, step in STEPS.items():
        setattr(writer, name, _timed(getattr(writer, name), spent[step]))
    return spent


def _timed(function: Callable[..., Any], spent: list[float]) -> Callable[..., Any]:
    @wraps(function)
    def call(*arguments: object) -> object:
        start = time.thread_time()
        try:
            return function(*arguments)
        finally:
            spent.append(time.thread_time() - start)

    return call


def _passed_to_write() -> int | None:
    """Bytes this process gave to write calls, by the kernel's count; None where it keeps none."""
    counts = Path("/proc/self/io")
    if not counts.exists():
        return None
    return next(int(line.split()[1]) for line in counts.read_text().splitlines() if line.startswith("wchar"))


if __name__ == "__main__":
    main()
