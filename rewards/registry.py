"""Find a reward by name: table, user's own, entry points, paths. Imports no torch by itself."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, update_wrapper
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from rewards.checkpoints import CheckpointError
from rewards.errors import UnknownRewardError, nearest
from rewards.facts import CATEGORIES, Category, RewardFacts
from rewards.facts_table import FACTS
from rewards.learned.card import located, named, read_card
from rewards.licences import say
from rewards.user_code import import_object, is_path

if TYPE_CHECKING:
    from rewards.reward import Reward

ENTRY_POINT_GROUP = "morl.rewards"


class BrokenEntryPointWarning(UserWarning):
    """An installed package, or the folder of learned rewards, has a reward that cannot be read."""


class UserReward:
    """A plain function `f(images, prompts) -> scores [B]` with its declared facts.

    Still callable as the function it was; `R(f)` puts it into an expression.
    """

    def __init__(self, function: Callable[..., Any], facts: RewardFacts) -> None:
        self.function = function
        self.facts = facts
        update_wrapper(self, function)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)


@dataclass(frozen=True)
class _Found:
    """A reward of whatever kind, under the name it was asked for."""

    facts: RewardFacts
    build: Callable[[str], Reward]


_REGISTERED: dict[str, UserReward] = {}


@overload
def register(function: Callable[..., Any]) -> UserReward: ...
@overload
def register(
    *,
    name: str | None = None,
    category: Category = "quality",
    low: float = ...,
    high: float = ...,
    higher_is_better: bool = True,
    differentiable: bool = False,
    reads_prompt: bool = True,
    summary: str = "",
) -> Callable[[Callable[..., Any]], UserReward]: ...
def register(
    function: Callable[..., Any] | None = None,
    *,
    name: str | None = None,
    category: Category = "quality",
    low: float = float("-inf"),
    high: float = float("inf"),
    higher_is_better: bool = True,
    differentiable: bool = False,
    reads_prompt: bool = True,
    summary: str = "",
) -> Any:
    """Declare a function of (images [B,3,H,W] in [0,1], prompts) as a reward.

    The function returns a tensor [B], or `Scores` where it does not apply to every prompt. With
    `name` it is registered under that name; without, it goes by `module.function`, which is also
    how a YAML file names it. `summary` defaults to the first line of its docstring. Raises
    ValueError for an unknown category, a taken name, or bounds in the wrong order.
    """
    if category not in CATEGORIES:
        raise ValueError(f"unknown `category` {category!r}; {nearest(category, CATEGORIES)}")
    if not low < high:
        raise ValueError(f"`low` must be below `high`; got {low:g} and {high:g}")

    def declare(plain: Callable[..., Any]) -> UserReward:
        own = f"{plain.__module__}.{plain.__qualname__}"
        facts = RewardFacts(
            name=name or own,
            category=category,
            summary=summary or next(iter((plain.__doc__ or "").strip().splitlines()), ""),
            low=low,
            high=high,
            higher_is_better=higher_is_better,
            differentiable=differentiable,
            reads_prompt=reads_prompt,
            licence="not stated",
            source=f"{plain.__module__}:{plain.__qualname__}",
        )
        declared = UserReward(plain, facts)
        if name is not None:
            # The same function again is a notebook cell that runs twice.
            taken = name in _REGISTERED and _REGISTERED[name].facts.source != facts.source
            if name in FACTS or taken:
                raise ValueError(f"a reward named {name!r} exists already; choose another `name`")
            _REGISTERED[name] = declared
        return declared

    return declare if function is None else declare(function)


def available() -> dict[str, RewardFacts]:
    """Facts of every reward with a name: the table, the registered, entry points, the learned.

    The table costs no import; one that does not load is warned about and left out.
    """
    found = {**FACTS, **{name: own.facts for name, own in _REGISTERED.items()}}
    for name in (*_announced(tuple(sys.path)), *named()):
        if name in found:
            continue
        try:
            found[name] = _find(name).facts
        except UnknownRewardError as error:
            warnings.warn(str(error), BrokenEntryPointWarning, stacklevel=2)
    return found


def facts_of(name: str) -> RewardFacts:
    """Facts of one reward by name or path; raises UnknownRewardError with the nearest names."""
    return _find(name).facts


def build(name: str, device: str = "cpu") -> Reward:
    """Build the scorer of one reward; what it needs is imported and loaded now.

    `name`: a name of `available()`, a dotted path `package.module.attribute` that is importable
    from the working directory, `path/to/file.py:attribute`, or the path of a learned reward,
    `path/to/file.safetensors`. Raises UnknownRewardError.
    """
    return _find(name).build(device)


def _find(name: str) -> _Found:
    if name in FACTS:
        return _of_table(FACTS[name])
    if name in _REGISTERED:
        return _of_object(_REGISTERED[name], name)
    announced = _announced(tuple(sys.path))
    if name in announced:
        return _of_object(import_object(announced[name].value, name), name)
    if (file := located(name)) is not None:
        return _of_learned(file, name)
    if is_path(name):
        return _of_object(import_object(name, name), name)
    raise UnknownRewardError(f"unknown reward {name!r}; {nearest(name, available())}")


@cache
def _announced(search_path: tuple[str, ...]) -> dict[str, EntryPoint]:
    """Entry points by name, kept for a search path: facts are asked for at every step."""
    del search_path  # what `entry_points` reads
    return {entry.name: entry for entry in entry_points(group=ENTRY_POINT_GROUP)}


def _of_table(facts: RewardFacts) -> _Found:
    def build(device: str) -> Reward:
        module, _, attribute = facts.source.partition(":")
        say(facts.name, facts.licence)
        built: Reward = getattr(importlib.import_module(module), attribute)(device=device)
        return built

    return _Found(facts, build)


def _of_learned(file: Path, name: str) -> _Found:
    try:
        facts = read_card(file).facts(name)
    except CheckpointError as error:
        raise UnknownRewardError(f"reward {name!r}: {error}") from error

    def build(device: str) -> Reward:
        from rewards.learned.scorer import LearnedReward

        say(name, facts.licence)
        return LearnedReward.called(name, device)

    return _Found(facts, build)


def _of_object(found: object, name: str) -> _Found:
    """Accept a registered function, the facts of a table row, a Reward, or a class of Rewards."""
    if isinstance(found, RewardFacts):
        return _of_table(replace(found, name=name))
    if isinstance(found, UserReward):
        named = UserReward(found.function, replace(found.facts, name=name))
        return _Found(named.facts, lambda device: _of_function(named))
    from rewards.reward import Reward

    if isinstance(found, Reward):
        instance = found
        return _Found(replace(found.facts, name=name), lambda device: instance)
    if isinstance(found, type) and issubclass(found, Reward):
        kind: Any = found
        return _Found(replace(kind.facts, name=name), lambda device: kind(device=device))
    raise UnknownRewardError(
        f"{name!r} is a {type(found).__name__}, not a reward; put @rewards.register(...) above it"
    )


def _of_function(declared: UserReward) -> Reward:
    from rewards.function_reward import FunctionReward

    return FunctionReward(declared)
