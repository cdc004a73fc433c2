"""How much memory is free, and how much the logits proof takes."""

import os
from pathlib import Path

SLACK = 1_500_000_000
"""Bytes of two processes with torch and llama.cpp, before any model."""
GROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def needed(parameters: int, file: int, logits: int) -> int:
    """Bytes at the most: the model in float32 with a tenth beside, the file, three copies of the logits."""
    return parameters * 4 * 11 // 10 + file + 3 * logits + SLACK


def available() -> int | None:
    """Bytes that this process may still take: the machine's, or its group's where that has a limit; None: unknown."""
    found = [_machine(), *(_group(Path(limit), Path(used)) for limit, used in GROUPS)]
    return min((some for some in found if some is not None), default=None)


def _machine() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:  # not Linux
        names = getattr(os, "sysconf_names", {})
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2 if "SC_PHYS_PAGES" in names else None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _group(limit: Path, used: Path) -> int | None:
    """What is left of a group's limit; files that are cached count as used there, so it is rather less than more."""
    try:
        return int(limit.read_text(encoding="ascii")) - int(used.read_text(encoding="ascii"))
    except (OSError, ValueError):  # no such group, or "max"
        return None
