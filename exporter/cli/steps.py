"""How far each step is, on stderr; and how a command is stopped."""

import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from threading import Event
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from exporter.pipeline import Progress


class Steps:
    """How far each step is, on stderr: a bar on a terminal, else a line at each tenth."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._bars: Any = None
        self._tasks: dict[str, Any] = {}
        self._tenths: dict[str, int] = {}

    def __enter__(self) -> "Progress":
        if not self._quiet and sys.stderr.isatty():
            from rich.console import Console  # noqa: PLC0415  (slow to import)
            from rich.progress import Progress  # noqa: PLC0415

            self._bars = Progress(console=Console(stderr=True), transient=True)
            self._bars.start()
        return self._tell

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def _tell(self, step: str, done: int, total: int) -> None:
        if self._bars is not None:
            if step not in self._tasks:
                self._tasks[step] = self._bars.add_task(step, total=total)
            self._bars.update(self._tasks[step], completed=done, total=total)
        elif not self._quiet and 10 * done // max(total, 1) > self._tenths.get(step, -1):
            self._tenths[step] = 10 * done // max(total, 1)
            with suppress(OSError):  # a stream that takes nothing is no reason to end the work
                click.echo(f"{step}: {10 * self._tenths[step]} %", err=True)


def stoppable(command: Callable[[], Any]) -> Any:  # noqa: ANN401  (a command's status)
    """Run a command that Ctrl-C stops, and a polite kill (SIGTERM) alike.

    KeyboardInterrupt even where a library made another error of it: safetensors does, within a slice.
    """
    stopped = Event()

    def stop(_number: int, _frame: object) -> None:
        stopped.set()
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where it is to be ignored
        signal.signal(signal.SIGINT, stop)
    try:
        return command()
    except Exception:
        if stopped.is_set():
            raise KeyboardInterrupt from None
        raise
