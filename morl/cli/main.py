"""The `morl` command: one file a subcommand, and one place where errors become exit codes."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import TextIO

from morl.errors import ConfigError, MorlError
from morl.training.signals import Stopped
from rewards.errors import RewardError, RewardFault, nearest

# Imported one by one only when asked for, so that `morl --help` answers at once.
COMMANDS = {
    "train": "train one adapter for the whole front, measure the front, write the report",
    "sweep": "train the same recipe for several seeds and settings, one after another",
    "evaluate": "measure the front of a run on held-out prompts",
    "check": "judge constraints on held-out prompts with a stated confidence, for CI",
    "generate": "draw images at a weight vector, or a strip along the slider",
    "export": "write a plain LoRA for one weight vector",
    "score": "score a folder of images by any rewards, as a table",
    "report": "write the one-file HTML report of a run",
    "rewards": "list the rewards, or describe one",
    "algorithms": "list the algorithms, or describe one and its settings",
    "world": "rebuild the embedded world: base model and learned rewards",
    "env": "print versions and devices for a bug report",
}
EXIT_REWARD_FAULT = 7
EXIT_INTERRUPTED = 130
EXIT_OUT_OF_MEMORY = 5


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    0 done; 2 configuration or usage; 3 data; 4 integrity; 5 resources; 6 numerics; 7 a reward
    failed; 8 a constraint that `check` judged does not hold; 130 Ctrl-C; 143 SIGTERM.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    warnings.showwarning = _show_warning
    debug = "--debug" in words
    try:
        command = next((word for word in words if not word.startswith("-")), None)
        if command is not None and command not in COMMANDS:
            raise ConfigError(f"unknown command {command!r}; {nearest(command, COMMANDS)}")
        parsed = build_parser(command).parse_args(words)
        code: int = parsed.run(parsed)
        sys.stdout.flush()
    except Stopped as stopped:
        print(f"morl: {stopped}", file=sys.stderr)
        return stopped.exit_code
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of a pipe (head, less) has gone; a second flush at exit would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (MorlError, RewardError, MemoryError) as error:
        if debug:
            traceback.print_exc()
        print(_message(error), file=sys.stderr)
        return _exit_code(error)
    return code


def build_parser(command: str | None) -> argparse.ArgumentParser:
    """Build the parser, with the options of `command` alone."""
    parser = argparse.ArgumentParser(
        prog="morl",
        description="Train one weight-conditioned LoRA for a whole Pareto front of image rewards.",
        epilog="morl COMMAND --help tells more. First try: morl train shapes",
    )
    parser.add_argument("--version", action="version", version=f"morl {_version()}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        child = commands.add_parser(
            name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        child.add_argument("--debug", action="store_true", help="show tracebacks")
        if name == command:
            module = _module(name)
            module.configure(child)
            child.set_defaults(run=module.run)
    return parser


def _module(command: str) -> ModuleType:
    return import_module(f"morl.cli.{command}")


def _message(error: BaseException) -> str:
    lines = str(error).splitlines() or [type(error).__name__]
    if len(lines) == 1:
        return f"morl: error: {lines[0]}"
    return "\n".join([f"morl: error: {len(lines)} problems", *(f"  - {line}" for line in lines)])


def _exit_code(error: BaseException) -> int:
    if isinstance(error, MorlError):
        return error.exit_code
    if isinstance(error, MemoryError):
        return EXIT_OUT_OF_MEMORY
    return EXIT_REWARD_FAULT if isinstance(error, RewardFault) else ConfigError.exit_code


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print our own notes as a sentence; leave other people's warnings as they are."""
    ours = category.__module__.startswith(("morl", "rewards"))
    plain = warnings.formatwarning(message, category, filename, lineno, line)
    print(f"note: {message}" if ours else plain.rstrip(), file=file or sys.stderr)


def _version() -> str:
    try:
        return version("morl-diffusion")
    except PackageNotFoundError:
        return "(not installed)"


if __name__ == "__main__":
    sys.exit(main())
