"""`morl rewards train` and `morl rewards average`: rewards of the user's own, from labels."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from morl.errors import ConfigError, DataError
from rewards.errors import nearest
from rewards.facts import CATEGORIES, Category
from rewards.learned.card import CATEGORY_OF, WORLD_ENCODER, Card
from rewards.learned.settings import (
    TASKS,
    UNCERTAINTIES,
    WORLD_READS_PROMPT,
    WORLD_TASKS,
    RewardTraining,
)

if TYPE_CHECKING:
    from rewards.encoders import Encoder
    from rewards.learned.labels import Labelled, Split
    from rewards.learned.train import Learned

WORLD = "shapes:"
WORLD_CATEGORIES: dict[str, Category] = {"aesthetic": "aesthetic", "alignment": "alignment"}
_HELP = {
    "members": "heads of the ensemble",
    "hidden": "units of each head's hidden layer; 0: an affine head",
    "steps": "most updates",
    "learning_rate": "of AdamW",
    "weight_decay": "of AdamW",
    "bootstrap": "each member on a resample of the labels",
    "subspace": "share of the features that each member reads",
    "shared_start": "members start equal, so that they can be averaged later",
    "average": "average the members' weights into one head (WARM)",
    "uncertainty": "what travels with the value; laplace and mahalanobis are of a single head",
    "held_out": "share of the images that chooses the step, calibrates and measures",
    "patience": "looks without gain before training stops",
    "label_noise": "share of the labels made wrong first",
    "seed": "of everything random",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of `train`, in a group of their own."""
    group = parser.add_argument_group("train")
    group.add_argument("--task", choices=TASKS, help="what the labels are; of a file")
    group.add_argument("--encoder", help="whose features the head reads; of a file")
    group.add_argument("--reads-prompt", action="store_true", help="the head reads the prompt too")
    group.add_argument("--category", choices=CATEGORIES, help="declared with the reward")
    group.add_argument("--lower-is-better", action="store_true", help="declared with the reward")
    group.add_argument("--summary", default="", help="one line, declared with the reward")
    group.add_argument("--images", type=int, default=2000, help=f"to label, for {WORLD}")
    group.add_argument("--pairs", type=int, default=10_000, help=f"to compare, for {WORLD}")
    group.add_argument("--batch-size", type=int, default=32, help="images encoded at once")
    for field in fields(RewardTraining):
        flag, default = f"--{field.name.replace('_', '-')}", field.default
        told = f"{_HELP[field.name]} (default {default})"
        if isinstance(default, bool):
            action = argparse.BooleanOptionalAction
            group.add_argument(flag, action=action, default=default, help=told)
        elif field.name == "uncertainty":
            group.add_argument(flag, choices=UNCERTAINTIES, default=default, help=told)
        else:
            group.add_argument(flag, type=type(default), default=default, help=told)


def train(arguments: argparse.Namespace) -> int:
    """Learn a reward from `arguments.weights`, write it to `arguments.file`."""
    out = arguments.file
    if not out:
        raise ConfigError("write: morl rewards train LABELS OUT, like the example in --help")
    training = RewardTraining(**{f.name: vars(arguments)[f.name] for f in fields(RewardTraining)})
    if problems := [*training.problems(), *_problems(arguments)]:
        raise ConfigError("\n".join(problems))
    from morl.training.device import choose_device
    from rewards.learned.file import save_reward, target_of
    from rewards.learned.inputs import encoder_called, fingerprint
    from rewards.learned.train import train_reward

    target = target_of(out)
    encoder = encoder_called(arguments.encoder or WORLD_ENCODER, choose_device("auto"))
    world = arguments.weights.startswith(WORLD)
    labels = (_of_world if world else _of_file)(arguments, training, encoder)
    kind = arguments.weights.removeprefix(WORLD) if world else ""
    learned = train_reward(
        labels, _card(arguments, encoder.name, kind), fingerprint(encoder), training
    )
    _report(learned)
    print(f"{save_reward(learned.model, target)}: use it as R({out!r})")
    return 0


def _of_world(
    arguments: argparse.Namespace, training: RewardTraining, encoder: Encoder
) -> Labelled | Split:
    from morl.world import world_labels

    kind, images, pairs = (vars(arguments)[key] for key in ("weights", "images", "pairs"))
    asked = kind.removeprefix(WORLD)
    return world_labels(asked, encoder, images, pairs, training.held_out, training.seed)


def _of_file(
    arguments: argparse.Namespace, training: RewardTraining, encoder: Encoder
) -> Labelled | Split:
    del training  # splits what is read
    from rewards.learned.label_file import LabelFileError, read_labels

    source, size = Path(arguments.weights), arguments.batch_size
    try:
        return read_labels(source, arguments.task, encoder, arguments.reads_prompt, size)
    except LabelFileError as error:
        raise DataError(str(error)) from error


def _card(arguments: argparse.Namespace, encoder: str, kind: str) -> Card:
    """What is declared of the reward; `kind` is the question to the world's annotators, if any."""
    task = WORLD_TASKS[kind] if kind else arguments.task
    return Card(
        task=task,
        encoder=encoder,
        reads_prompt=arguments.reads_prompt or kind in WORLD_READS_PROMPT,
        category=arguments.category or WORLD_CATEGORIES.get(kind) or CATEGORY_OF[task],
        higher_is_better=not (arguments.lower_is_better or kind == "unsafe"),
        summary=arguments.summary,
    )


def average(arguments: argparse.Namespace) -> int:
    """Average the members of `arguments.weights`, one or several by comma, into one head."""
    if not arguments.file:
        raise ConfigError("write: morl rewards average IN.safetensors[,IN2.safetensors ...] OUT")
    from rewards.learned.average import average_rewards
    from rewards.learned.file import load_reward, save_reward, target_of

    names = list(filter(None, arguments.weights.split(",")))
    model = average_rewards([load_reward(name) for name in names])
    path = save_reward(model, target_of(arguments.file))
    print(f"{path}: the average of {model.card.averaged} members")
    return 0


def _problems(arguments: argparse.Namespace) -> list[str]:
    found = [
        f"{name}: must be at least 1; got {vars(arguments)[name]}"
        for name in ("images", "pairs", "batch_size")
        if vars(arguments)[name] < 1
    ]
    world = arguments.weights.startswith(WORLD)
    kind = arguments.weights.removeprefix(WORLD)
    if world and kind not in WORLD_TASKS:
        found.append(f"LABELS: {WORLD} has no {kind!r}; {nearest(kind, WORLD_TASKS)}")
    if world and arguments.task:
        found.append(f"task: {arguments.weights} says it itself; leave --task out")
    if world and arguments.reads_prompt:
        found.append(f"reads_prompt: {arguments.weights} says it itself; leave it out")
    if not world and not arguments.task:
        found.append(f"task: say what the labels are, --task {' | '.join(TASKS)}")
    if not world and not arguments.encoder:
        found.append("encoder: name the one to learn on, such as --encoder clip_vit_l_14")
    return found


def _report(learned: Learned) -> None:
    from rewards.reliability import table

    counts = ", ".join(f"{count} {name}" for name, count in learned.counts.items())
    left = f"; {learned.left_out} between them left out" if learned.left_out else ""
    print(f"labels     {counts}{left}")
    print(f"best steps {', '.join(map(str, learned.steps))}")
    card = learned.model.card
    if card.training["steps"] in learned.steps:
        print("           still better at the last step: try more --steps or --learning-rate")
    print(f"test       {', '.join(f'{name} {x:.3f}' for name, x in card.measures.items())}")
    if learned.doubt is not None:
        print(f"\nuncertainty ({card.uncertainty})\n{table({'test labels': learned.doubt})}\n")
