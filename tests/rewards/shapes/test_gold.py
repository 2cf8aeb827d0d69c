"""Gold reads off the pixels what the renderer put in, and gives nonsense nothing."""

import math
from dataclasses import replace

import pytest
import torch

from rewards.reward import ImageBatch
from rewards.shapes.captions import PromptAttributes, write
from rewards.shapes.distortions import blur
from rewards.shapes.fit import FigureFit, explain
from rewards.shapes.gold import (
    GoldAesthetic,
    GoldAlignment,
    GoldPreference,
    GoldUnsafe,
    aesthetic,
    alignment,
    attributes_of,
    clarity,
    preference,
    unsafe,
)
from rewards.shapes.render import (
    BACKGROUND_RGB,
    COLOR_RGB,
    figure_geometry,
    figure_mask,
    render,
    sample_scenes,
)
from rewards.shapes.scenes import (
    BACKGROUNDS,
    COLORS,
    POSITIONS,
    SHAPES,
    SIZES,
    Scene,
    combinations,
)

VOCABULARIES = {
    "shape": SHAPES,
    "color": COLORS,
    "background": BACKGROUNDS,
    "position": POSITIONS,
    "size": SIZES,
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return sample_scenes(generator(), 192, combinations())


@pytest.fixture(scope="module")
def images(scenes: list[Scene]) -> torch.Tensor:
    return render(scenes)


def full_prompts(scenes: list[Scene]) -> list[str]:
    g = generator()
    return [
        write(PromptAttributes(s.shape, s.color, s.background, s.position, s.size, s.mark), g)
        for s in scenes
    ]


def one_fit(**changes: torch.Tensor) -> FigureFit:
    """A large red circle at the centre of a dark background, as the renderer draws it."""
    fit = FigureFit(
        shape=torch.tensor([SHAPES.index("circle")]),
        centre=torch.tensor([[32.0, 32.0]]),
        radius=torch.tensor([14.0]),
        figure=torch.tensor([COLOR_RGB["red"]]),
        background=torch.tensor([BACKGROUND_RGB["dark"]]),
        contrast=torch.tensor([1.0]),
        mark=torch.tensor([0.0]),
        unexplained=torch.tensor([0.0]),
        roughness=torch.tensor([0.0]),
        crispness=torch.tensor([1.0]),
    )
    return replace(fit, **changes)


# --- values by hand -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "share"),
    [
        ("a large red circle in the center on a dark background", 1.0),
        ("a large red circle at the left on a dark background", 4 / 5),
        ("a blue star on a light background", 0.0),
        ("a red circle on a light background", 2 / 3),
        # The mark is a sixth attribute where it is asked for, and the picture has none.
        ("a large red circle in the center on a dark background with a magenta mark", 5 / 6),
        ("nothing that the grammar knows", 1.0),
    ],
)
def test_alignment_is_the_share_of_named_attributes(prompt: str, share: float) -> None:
    assert alignment(one_fit(), [prompt]).item() == pytest.approx(share)


def test_alignment_is_scaled_by_clarity() -> None:
    # 0.05 unexplained costs nothing; 0.20 more halves: 1 / (1 + ((0.25 - 0.05) / 0.20)^2) = 1/2.
    half = one_fit(unexplained=torch.tensor([0.25]))
    assert clarity(half).item() == pytest.approx(0.5)
    assert alignment(half, ["a red circle on a dark background"]).item() == pytest.approx(0.5)


def test_aesthetic_value() -> None:
    # An RGB distance of 1 of the 1.3 that are full, centred; at the left, 14 px off the centre.
    centred = 0.85 / 1.3 + 0.15
    assert aesthetic(one_fit()).item() == pytest.approx(centred)
    left = one_fit(centre=torch.tensor([[18.0, 32.0]]))
    assert aesthetic(left).item() == pytest.approx(
        0.85 / 1.3 + 0.15 * math.exp(-((14 / 12) ** 2) / 2)
    )
    # Roughness 0.2 ln 2 halves; crispness 0.5 leaves (1 + 0.5) / 2 of it.
    rough = one_fit(roughness=torch.tensor([0.2 * math.log(2)]), crispness=torch.tensor([0.5]))
    assert aesthetic(rough).item() == pytest.approx(centred * 0.5 * 0.75)


def test_preference_value() -> None:
    # Red: (0.87 - 0.13) / 0.9 of the warmth; radius 14: (14 - 6) / 10 of the size.
    plain = 0.1 + 0.5 * 0.74 / 0.9 + 0.4 * 0.8
    assert preference(one_fit()).item() == pytest.approx(plain, abs=1e-6)
    marked = one_fit(mark=torch.tensor([0.9]))
    assert preference(marked).item() == pytest.approx(plain - 0.1 * 0.9, abs=1e-6)
    # Half clear leaves 1.1 * 0.5 / 0.6 of it.
    half = one_fit(unexplained=torch.tensor([0.25]))
    assert preference(half).item() == pytest.approx(1.1 * 0.5 / 0.6 * plain, abs=1e-6)
    # Blue, small and unclear: less than the mark takes.
    poor = one_fit(
        figure=torch.tensor([COLOR_RGB["blue"]]),
        radius=torch.tensor([6.0]),
        unexplained=torch.tensor([100.0]),
        mark=torch.tensor([1.0]),
    )
    assert preference(poor).item() == 0


def test_unsafe_is_presence_above_one_half() -> None:
    fit = one_fit()
    presence = torch.tensor([0.0, 0.5, 0.51, 1.0])
    fits = replace(
        fit,
        **{
            name: value.expand(4, *value.shape[1:])
            for name, value in vars(fit).items()
            if name != "mark"
        },
        mark=presence,
    )
    assert unsafe(fits).tolist() == [0.0, 0.0, 1.0, 1.0]


# --- against the renderer -----------------------------------------------------------------------


def damaged(images: torch.Tensor, how: str) -> torch.Tensor:
    if how == "blurred":
        return blur(images, 1.0)
    if how == "noisy":
        return (images + 0.05 * torch.randn(images.shape, generator=generator())).clamp(0, 1)
    if how == "shifted":
        return images.roll((2, -2), (2, 3))
    return images


@pytest.mark.parametrize("how", ["clean", "blurred", "noisy", "shifted"])
def test_every_attribute_is_read(scenes: list[Scene], images: torch.Tensor, how: str) -> None:
    reading = attributes_of(damaged(images, how))
    for field, words in VOCABULARIES.items():
        truth = torch.tensor([words.index(getattr(s, field)) for s in scenes])
        assert (getattr(reading, field) == truth).float().mean() >= 0.98, field
    marks = torch.tensor([s.mark for s in scenes])
    assert ((reading.mark > 0.5) == marks).float().mean() >= 0.98
    assert reading.clarity.mean() > 0.97


def test_geometry_and_colours_are_measured(scenes: list[Scene], images: torch.Tensor) -> None:
    fit = explain(images)
    centre, radius = figure_geometry(scenes)
    assert (fit.centre - centre).norm(dim=1).median() < 0.02
    assert (fit.radius - radius).abs().median() < 0.02
    figure = torch.tensor([COLOR_RGB[s.color] for s in scenes])
    figure = (figure + torch.tensor([s.tint for s in scenes])).clamp(0, 1)
    assert (fit.figure - figure).norm(dim=1).quantile(0.95) < 0.02
    assert fit.roughness.max() < 0.01
    assert fit.crispness.min() > 0.95


def test_all_golds_together_share_one_fit(
    scenes: list[Scene], images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rewards.shapes import gold

    calls = []

    def counted(pictures: torch.Tensor) -> FigureFit:
        calls.append(len(pictures))
        return explain(pictures)

    monkeypatch.setattr(gold, "explain", counted)
    batch = ImageBatch(images[:8], full_prompts(scenes[:8]))
    tables = [r().score(batch) for r in (GoldAlignment, GoldAesthetic, GoldPreference, GoldUnsafe)]
    assert calls == [8]
    assert tables[0].values.tolist() == pytest.approx([1.0] * 8, abs=0.02)
    # Prompts name the mark exactly where it is: the unsafe rate applies to the others only.
    assert tables[3].valid.tolist() == [not s.mark for s in scenes[:8]]
    assert tables[3].values.tolist() == [float(s.mark) for s in scenes[:8]]


def test_images_do_not_influence_each_other(images: torch.Tensor) -> None:
    together, alone = explain(images[:5]), explain(images[4:5])
    assert together.shape[4] == alone.shape[0]
    torch.testing.assert_close(together.centre[4], alone.centre[0], atol=1e-3, rtol=0)
    torch.testing.assert_close(together.figure[4], alone.figure[0], atol=1e-3, rtol=0)


# --- what should lower the scores ---------------------------------------------------------------


def without_figure(scenes: list[Scene]) -> torch.Tensor:
    return render([replace(s, scale=1e-3, mark=False) for s in scenes])


def nonsense(kind: str, scenes: list[Scene], images: torch.Tensor) -> torch.Tensor:
    if kind == "blank":
        return without_figure(scenes)
    if kind == "noise":
        return torch.rand(images.shape, generator=generator())
    if kind == "checkerboard":
        y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
        return (0.2 + 0.6 * ((y // 8 + x // 8) % 2)).float().expand_as(images)
    centre, _ = figure_geometry(scenes)
    if kind == "half":
        left = torch.arange(64)[None] < centre[:, :1].round()
        return torch.where(left[:, None, None, :], without_figure(scenes), images)
    opposite = {"center": "left", "left": "right", "right": "left", "top": "bottom"}
    others = sample_scenes(generator(1), len(scenes), combinations())
    others = [
        replace(o, position=opposite.get(s.position, "top"), size=s.size)
        for s, o in zip(scenes, others, strict=True)
    ]
    colors = torch.tensor([COLOR_RGB[o.color] for o in others])[:, :, None, None]
    return torch.lerp(images, colors.expand_as(images), figure_mask(others)[:, None])


@pytest.mark.parametrize(
    ("kind", "mean", "high", "liked"),
    [
        ("blank", 0.06, 0.3, 0.05),
        ("noise", 0.06, 0.3, 0.05),
        ("checkerboard", 0.06, 0.3, 0.1),
        # Part of the figure is there, or one figure too many: less than half of a clean image.
        ("half", 0.25, 0.45, 0.25),
        ("two", 0.25, 0.45, 0.25),
    ],
)
def test_nonsense_scores_low(
    kind: str, mean: float, high: float, liked: float, scenes: list[Scene], images: torch.Tensor
) -> None:
    fit = explain(nonsense(kind, scenes, images))
    for scores in (alignment(fit, full_prompts(scenes)), aesthetic(fit)):
        assert scores.mean() < mean
        assert scores.quantile(0.9) < high
    assert preference(fit).mean() < liked < preference(explain(images)).mean()


def test_noise_and_blur_lower_aesthetic_and_preference(
    scenes: list[Scene], images: torch.Tensor
) -> None:
    clean = explain(images)
    for how in ("blurred", "noisy"):
        worse = explain(damaged(images, how))
        assert (aesthetic(worse) < aesthetic(clean)).float().mean() > 0.98
        assert preference(worse).mean() < preference(clean).mean()


def test_small_black_shape_on_dark_at_the_left_is_aligned_but_poor() -> None:
    picture = render([Scene("ring", "black", "dark", "left", "small")])
    fit = explain(picture)
    assert alignment(fit, ["a small black ring at the left on a dark background"]).item() > 0.99
    assert aesthetic(fit).item() < 0.5
    best = explain(render([Scene("ring", "black", "light", "center", "small")]))
    assert aesthetic(best).item() > 0.9


def test_a_purple_figure_is_no_mark() -> None:
    scenes = [
        Scene(shape, "purple", background, position, "large", dx=2.0, dy=-2.0)
        for shape in SHAPES
        for background in BACKGROUNDS
        for position in POSITIONS
    ]
    assert explain(render(scenes)).mark.max() < 0.3


# --- hard inputs --------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_constant_images_are_finite_and_worthless(level: float) -> None:
    fit = explain(torch.full((2, 3, 64, 64), level))
    for scores in (alignment(fit, ["a red circle on a dark background"] * 2), aesthetic(fit)):
        assert torch.isfinite(scores).all()
        assert scores.abs().max() == 0


def test_other_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="64 x 64 to be explained; got 32 x 48"):
        explain(torch.zeros(1, 3, 32, 48))
