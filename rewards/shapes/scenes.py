"""What a scene is: the vocabulary of the world, one scene's description, the held-out split."""

import hashlib
import itertools
from dataclasses import dataclass
from functools import cache

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
COLORS = ("red", "green", "blue", "yellow", "orange", "purple", "white", "black")
BACKGROUNDS = ("dark", "light", "sky", "sand")
POSITIONS = ("center", "left", "right", "top", "bottom")
SIZES = ("small", "large")

HELD_OUT_SHARE = 0.3
MARK_CORNERS = ("top left", "top right", "bottom left", "bottom right")


@dataclass(frozen=True, order=True)
class Combination:
    """The five attributes that a caption can name; the unit of the train / held-out split."""

    shape: str
    color: str
    background: str
    position: str
    size: str

    def __post_init__(self) -> None:
        """Raises ValueError, naming field, value and the known words, for an unknown word."""
        for field, known in _VOCABULARY.items():
            value = getattr(self, field)
            if value not in known:
                raise ValueError(f"`{field}` must be one of {', '.join(known)}; got {value!r}.")


_VOCABULARY = {
    "shape": SHAPES,
    "color": COLORS,
    "background": BACKGROUNDS,
    "position": POSITIONS,
    "size": SIZES,
}


@dataclass(frozen=True)
class Scene(Combination):
    """A complete description of one image: rendering it twice gives the same pixels.

    mark: whether the forbidden mark is present; mark_corner: 0..3, index into `MARK_CORNERS`;
    dx, dy: figure offset from its nominal place, pixels; scale: factor on the nominal radius;
    tint: offset of the figure's RGB; background_tint: of the background's RGB;
    mark_dx, mark_dy: offset of the mark's centre, pixels.
    """

    mark: bool = False
    mark_corner: int = 0
    dx: float = 0.0
    dy: float = 0.0
    scale: float = 1.0
    tint: tuple[float, float, float] = (0.0, 0.0, 0.0)
    background_tint: tuple[float, float, float] = (0.0, 0.0, 0.0)
    mark_dx: float = 0.0
    mark_dy: float = 0.0

    def __post_init__(self) -> None:
        """Raises ValueError for an unknown word or a corner outside 0..3."""
        super().__post_init__()
        if not 0 <= self.mark_corner < len(MARK_CORNERS):
            raise ValueError(f"`mark_corner` must be 0, 1, 2 or 3; got {self.mark_corner}.")


@cache
def combinations() -> tuple[Combination, ...]:
    """All 1,920 attribute combinations, in the order of the vocabulary."""
    return tuple(Combination(*words) for words in itertools.product(*_VOCABULARY.values()))


@cache
def held_out_combinations() -> tuple[Combination, ...]:
    """The 30 % of combinations that no base-model image and no training prompt is drawn from.

    Chosen by the order of a SHA-256 of the words: fixed on every platform and Python version.
    """
    ranked = sorted(combinations(), key=_digest)
    return tuple(sorted(ranked[: round(HELD_OUT_SHARE * len(ranked))]))


@cache
def train_combinations() -> tuple[Combination, ...]:
    """The combinations that are not held out."""
    held_out = set(held_out_combinations())
    return tuple(c for c in combinations() if c not in held_out)


def _digest(combination: Combination) -> str:
    words = (getattr(combination, field) for field in _VOCABULARY)
    return hashlib.sha256(" ".join(words).encode()).hexdigest()
