"""Stop politely: the first signal finishes the step and saves, a second Ctrl-C ends at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from morl.errors import MorlError

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


class Stopped(MorlError):
    """A run that saved and ended because it was asked to; carries the exit code of the signal."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass
class StopRequest:
    """Whether, and by which signal, the run was asked to stop."""

    signal: signal.Signals | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """130 for Ctrl-C, 143 for SIGTERM, 0 if nobody asked."""
        return EXIT_CODES[self.signal] if self.signal else 0


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Collect SIGINT and SIGTERM in a `StopRequest` that the loop reads between steps.

    A second SIGINT raises KeyboardInterrupt where it falls: the last checkpoint is intact. Outside
    the main thread, where Python allows no handlers, the request stays empty.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def handle(number: int, frame: FrameType | None) -> None:
        del frame
        if request.signal == signal.SIGINT == number:
            raise KeyboardInterrupt
        request.signal = signal.Signals(number)

    previous = {number: signal.signal(number, handle) for number in EXIT_CODES}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
