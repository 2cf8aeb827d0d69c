"""`morl train`: check, train, measure the front, write the report."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path

from morl.config import annotated, load_config, recipe_names, require
from morl.config.plan import plan
from morl.errors import ConfigError
from morl.training.durable import require_writable
from morl.training.processes import first_process
from morl.training.run import RunDirectory

CHOSEN_RUN = "MORL_CHOSEN_RUN"
EXAMPLES = """examples:
  morl train shapes                                  the packaged recipe
  morl train my.yaml --out runs/mine                 your own file
  morl train shapes --set training.steps=20 --dry-run
  morl train runs/shapes --resume                    go on after an interruption
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLES
    recipes = ", ".join(recipe_names())
    parser.add_argument("recipe", help=f"YAML file, run directory, or packaged recipe ({recipes})")
    parser.add_argument("--out", type=Path, help="run directory (default: runs/<recipe>)")
    add_overrides(parser)
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    parser.add_argument(
        "--allow-config-change", action="store_true", help="resume with another configuration"
    )
    parser.add_argument(
        "--train-only", action="store_true", help="neither measure the front nor write a report"
    )
    parser.add_argument(
        "--print-config", action="store_true", help="print every setting with its meaning and stop"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="check everything, print what it costs and stop"
    )


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Add the option that every command with a recipe shares."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override one setting, like training.steps=20; may be repeated",
    )


def run(arguments: argparse.Namespace) -> int:
    config = load_config(arguments.recipe, arguments.set)
    if arguments.print_config:
        print(annotated(config), end="")
        return 0
    require(config)
    out = arguments.out or default_out(arguments.recipe, arguments.resume)
    os.environ[CHOSEN_RUN] = str(out)
    if arguments.dry_run:
        RunDirectory(out).check(
            config, resume=arguments.resume, allow_config_change=arguments.allow_config_change
        )
        print(plan(config).describe())
        print(f"run directory        {out}")
        return 0
    require_writable(out)  # before the libraries that training needs are imported
    from morl.training.judge import require_judges
    from morl.training.session import train

    if not arguments.train_only:
        require_judges(config)
    train(
        config,
        out,
        resume=arguments.resume,
        command=command_line(),
        allow_config_change=arguments.allow_config_change,
    )
    if first_process() and not arguments.train_only:
        measure(out)
    return 0


def measure(out: Path) -> None:
    """Measure the front of a trained run and write its report."""
    from morl.report import write_report
    from morl.training.evaluate import evaluate_run

    evaluate_run(out)
    print(f"report: {write_report(out)}")


def default_out(recipe: str, resume: bool) -> Path:
    """Name the run after its recipe; a new run takes the next free number.

    Processes that Lightning starts beside the first one read the name that it has chosen.
    """
    if not first_process():
        return Path(os.environ[CHOSEN_RUN])
    if Path(recipe).is_dir():
        if resume:
            return Path(recipe)
        recipe = Path(recipe).absolute().name
    first = Path("runs") / Path(recipe).stem
    if resume:
        if not first.exists():
            raise ConfigError(f"{first}: no run to resume; name its directory with --out")
        return first
    number = 2
    free = first
    while free.exists():
        free, number = Path(f"{first}-{number}"), number + 1
    return free


def command_line() -> str:
    """The command as typed, for the record of the run."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
