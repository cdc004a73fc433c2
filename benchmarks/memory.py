"""How much memory does an export take, and does it write anything but its outputs?

    python -m benchmarks.memory [--size 1.2b] [--adapter dora] [--out FILE.json]

A random Llama with a LoRA is exported to several levels at once, unproved and unmeasured, in a process of its own.
Every 20 ms the memory of that process and of its children is read from /proc (Linux). Anonymous memory is what a
process cannot give back: RssAnon and RssShmem; the rest of what is resident are pages of mapped files.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.checkpoint import ADAPTERS, SIZES, make_run

EVERY = 0.02
MIB = 1 << 20
LIMIT = 1 << 30
"""An export stays under this much anonymous memory."""


@dataclass(frozen=True)
class Memory:
    """Resident bytes, summed over processes."""

    anonymous: int
    total: int


def main() -> None:
    """Export once, print the peaks, and end with 1 where they are beyond the limit."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--size", choices=SIZES, default="1.2b")
    parser.add_argument("--adapter", choices=ADAPTERS, default="lora")
    parser.add_argument("--levels", default="q4_k_m,q6_k,q8_0")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--scratch", type=Path, help="where the model and the outputs lie while it runs")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as place:
        folder = Path(place)
        run = make_run(SIZES[arguments.size], folder, arguments.adapter)
        outputs = folder / "out"
        outputs.mkdir()
        command = [sys.executable, "-m", "benchmarks.write", str(run), str(outputs), *arguments.levels.split(",")]
        peak, answer = watched([*command, "--threads", str(arguments.threads)])
        others = sorted(file.name for file in outputs.iterdir() if file.suffix != ".gguf")
    taken = json.loads(answer)
    figures = {
        "size": arguments.size,
        "adapter": arguments.adapter,
        "levels": arguments.levels,
        "threads": arguments.threads,
        "peak": asdict(peak),
    }
    figures |= taken | {"files_beside_the_outputs": others}
    print(f"parameters             {taken['parameters']:>16,}")
    print(f"peak anonymous memory  {peak.anonymous / MIB:>12,.0f} MiB")
    print(f"peak resident memory   {peak.total / MIB:>12,.0f} MiB, pages of mapped files included")
    print(f"bytes of the outputs   {taken['output_bytes']:>16,}")
    print(f"bytes written          {taken['written_bytes']:>16,}")
    if arguments.out:
        arguments.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    sys.exit(peak.anonymous > LIMIT)


def watched(command: list[str]) -> tuple[Memory, str]:
    """Run a command; its memory's peaks (each of its own moment), and what it printed."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    anonymous = total = 0
    while process.poll() is None:
        now = [resident(pid) for pid in family(process.pid)]
        anonymous = max(anonymous, sum(one.anonymous for one in now))
        total = max(total, sum(one.total for one in now))
        time.sleep(EVERY)
    answer = process.stdout.read() if process.stdout else ""
    if process.returncode:
        sys.exit(process.returncode)
    return Memory(anonymous, total), answer


def family(pid: int) -> list[int]:
    """A process and all its descendants."""
    found = [pid]
    for one in found:
        for task in Path(f"/proc/{one}/task").glob("*/children"):
            try:
                found += [int(child) for child in task.read_text().split()]
            except OSError:  # the thread ended
                continue
    return found


def resident(pid: int) -> Memory:
    """A process's resident memory; nothing where it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return Memory(0, 0)
    sizes = {line.split(":")[0]: 1024 * int(line.split()[1]) for line in lines if line.startswith("Rss")}
    return Memory(sizes.get("RssAnon", 0) + sizes.get("RssShmem", 0), sum(sizes.values()))


if __name__ == "__main__":
    main()
