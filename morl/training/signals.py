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

    def listen(self) -> None:
        """Install the handlers; outside the main thread, where Python allows none, do nothing.

        To be called again once Lightning's trainer has started: it puts a SIGTERM handler of its
        own in front, which would end the run with exit code 0.
        """
        if threading.current_thread() is threading.main_thread():
            for number in EXIT_CODES:
                signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.signal == signal.SIGINT == number:
            # Not KeyboardInterrupt, which Lightning turns into exit code 1.
            raise SystemExit(EXIT_CODES[signal.SIGINT])
        self.signal = signal.Signals(number)


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Collect SIGINT and SIGTERM in a `StopRequest` that the loop reads between steps.

    A second SIGINT ends the program where it falls: the last checkpoint is intact.
    """
    request = StopRequest()
    previous = {number: signal.getsignal(number) for number in EXIT_CODES}
    request.listen()
    try:
        yield request
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in previous.items():
                signal.signal(number, handler)
