"""Find a reward by name: the built-in table, entry points, and a user's own function."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rewards.errors import UnknownRewardError, nearest
from rewards.facts import CATEGORIES, Category, RewardFacts
from rewards.facts_table import FACTS

if TYPE_CHECKING:
    from rewards.reward import Reward

ENTRY_POINT_GROUP = "morl.rewards"
_REGISTERED: dict[str, UserReward] = {}


class UserReward:
    """A plain function `f(images, prompts) -> scores [B]` with its declared facts.

    Still callable as the function it was; `R(f)` puts it into an expression.
    """

    def __init__(self, function: Callable[..., Any], facts: RewardFacts) -> None:
        self.function = function
        self.facts = facts
        self.__doc__ = function.__doc__

    def __call__(self, *args: Any) -> Any:
        return self.function(*args)


def register(
    function: Callable[..., Any] | None = None,
    *,
    name: str | None = None,
    category: Category = "quality",
    low: float = float("-inf"),
    high: float = float("inf"),
    higher_is_better: bool = True,
    differentiable: bool = False,
    summary: str = "",
) -> Any:
    """Declare a function of (images [B,3,H,W] in [0,1], prompts) as a reward.

    With `name` it is registered under that name; without, it goes by `module.function`, which is
    also how a YAML file names it. Raises ValueError for an unknown category, a taken name, or
    bounds in the wrong order.
    """
    if category not in CATEGORIES:
        raise ValueError(f"`category` {category!r} does not exist; {nearest(category, CATEGORIES)}")
    if not low < high:
        raise ValueError(f"`low` must be below `high`; got {low:g} and {high:g}")

    def declare(plain: Callable[..., Any]) -> UserReward:
        doc = (plain.__doc__ or "").strip().splitlines()
        facts = RewardFacts(
            name=name or f"{plain.__module__}.{plain.__qualname__}",
            category=category,
            summary=summary or (doc[0] if doc else ""),
            low=low,
            high=high,
            higher_is_better=higher_is_better,
            differentiable=differentiable,
            licence="yours",
        )
        declared = UserReward(plain, facts)
        if name is not None:
            known = _REGISTERED.get(name)
            again = known is not None and known.function.__qualname__ == plain.__qualname__
            if name in FACTS or (known is not None and not again):
                raise ValueError(f"a reward named {name!r} exists already; choose another `name`")
            _REGISTERED[name] = declared
        return declared

    return declare if function is None else declare(function)


def available() -> dict[str, RewardFacts]:
    """Facts of every reward that can be built by name; imports no scorer."""
    found = {**FACTS, **{name: own.facts for name, own in _REGISTERED.items()}}
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        if entry.name not in found:
            loaded = entry.load()
            if isinstance(loaded, UserReward):
                found[entry.name] = loaded.facts
    return found


def facts_of(name: str) -> RewardFacts:
    """Facts of one reward by name or dotted path; an unknown one raises UnknownRewardError."""
    if name in FACTS:
        return FACTS[name]
    return _user_reward(name).facts


def build(name: str, device: str = "cpu") -> Reward:
    """Build the scorer of one reward; what it needs is imported and loaded now."""
    if name in FACTS:
        module, _, attribute = FACTS[name].source.partition(":")
        built: Reward = getattr(importlib.import_module(module), attribute)(device=device)
        return built
    from rewards.function_reward import FunctionReward

    return FunctionReward(_user_reward(name))


def _user_reward(name: str) -> UserReward:
    if name in _REGISTERED:
        return _REGISTERED[name]
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        if entry.name == name:
            return _as_user_reward(entry.load(), name)
    if ":" in name or "." in name:
        return _as_user_reward(_import_path(name), name)
    raise UnknownRewardError(f"unknown reward {name!r}; {nearest(name, available())}")


def _as_user_reward(found: object, name: str) -> UserReward:
    if isinstance(found, UserReward):
        # The name that an expression uses is the name of its column.
        return UserReward(found.function, replace(found.facts, name=name))
    raise UnknownRewardError(
        f"{name!r} is a {type(found).__name__}, not a reward; put @rewards.register above it"
    )


def _import_path(name: str) -> object:
    """Import `package.module.function`, or `path/to/file.py:function`, also from here."""
    place, _, attribute = name.rpartition(":") if ":" in name else name.rpartition(".")
    if place.endswith(".py"):
        module = _load_file(Path(place), name)
    else:
        here = str(Path.cwd())
        sys.path.insert(0, here)
        try:
            module = importlib.import_module(place)
        except ImportError as error:
            raise UnknownRewardError(
                f"reward {name!r}: cannot import {place!r} ({error}); a dotted path is looked for "
                f"in {here} and among installed packages"
            ) from error
        finally:
            sys.path.remove(here)
    members = vars(module)
    if attribute not in members:
        known = [key for key, value in members.items() if isinstance(value, UserReward)]
        raise UnknownRewardError(f"{place} has no {attribute!r}; {nearest(attribute, known)}")
    return members[attribute]


def _load_file(path: Path, name: str) -> object:
    if not path.is_file():
        raise UnknownRewardError(f"reward {name!r}: no file {path.absolute()}")
    key = f"rewards_file_{path.absolute()}"
    if key not in sys.modules:
        spec = importlib.util.spec_from_file_location(key, path)
        if spec is None or spec.loader is None:
            raise UnknownRewardError(f"reward {name!r}: {path} is no Python file")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules[key] = module
    return sys.modules[key]
