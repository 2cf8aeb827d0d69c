"""Errors of the toolkit; each also is the built-in it specialises and carries an exit code."""

from __future__ import annotations

from collections.abc import Sequence


class MorlError(Exception):
    """Base of all errors that a user can cause; the command line prints it without a traceback."""

    exit_code = 1


class ConfigError(MorlError, ValueError):
    """A configuration that cannot run; lists every problem found, each with its key path."""

    exit_code = 2

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class WeightError(ConfigError):
    """A weight vector that is not on the simplex, or that names an unknown objective."""


class DataError(MorlError, ValueError):
    """A prompt file, image or other input that cannot be read."""

    exit_code = 3


class IntegrityError(MorlError, ValueError):
    """A file that is corrupt, untrusted, or made for another base model."""

    exit_code = 4


class ResourceError(MorlError, RuntimeError):
    """A run directory in use, a full disk, an unwritable output."""

    exit_code = 5


class NumericalError(MorlError, ArithmeticError):
    """A loss or gradient that stayed non-finite."""

    exit_code = 6


class PipelineError(MorlError, RuntimeError):
    """A diffusers pipeline that does not behave as its family declares."""

    exit_code = 2
