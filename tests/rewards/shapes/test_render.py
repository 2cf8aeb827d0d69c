"""The renderer draws what a scene says, and nothing else."""

from dataclasses import replace

import pytest
import torch

from rewards.shapes import render as drawing
from rewards.shapes.render import (
    BACKGROUND_RGB,
    COLOR_RGB,
    MARK_RGB,
    figure_coverage,
    figure_geometry,
    figure_mask,
    mark_coverage,
    mark_mask,
    render,
    sample_scenes,
)
from rewards.shapes.scenes import (
    COLORS,
    MARK_CORNERS,
    POSITIONS,
    SHAPES,
    SIZES,
    Combination,
    Scene,
    combinations,
    held_out_combinations,
    train_combinations,
)

PLAIN = Scene("circle", "red", "light", "center", "large")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def extreme_scenes(shape: str) -> list[Scene]:
    """Every placement at the corners of the jitter range, with every mark as near as it gets."""
    return [
        Scene(
            shape,
            "red",
            "dark",
            position,
            size,
            mark=True,
            mark_corner=corner,
            dx=dx * drawing.SHIFT,
            dy=dy * drawing.SHIFT,
            scale=1 + drawing.SCALE,
            mark_dx=drawing.MARK_SHIFT * (1 if corner % 2 == 0 else -1),
            mark_dy=drawing.MARK_SHIFT * (1 if corner < 2 else -1),
        )
        for position in POSITIONS
        for size in SIZES
        for corner in range(len(MARK_CORNERS))
        for dx in (-1, 1)
        for dy in (-1, 1)
    ]


def test_circle_has_the_area_of_a_circle() -> None:
    # The circle's radius is 0.94 of 14 px, so its area is pi * 13.16^2 = 544.1 px.
    assert figure_mask([PLAIN]).sum() == pytest.approx(544.1, rel=0.01)


def test_square_has_the_area_of_a_square() -> None:
    # Half-side 0.82 * 14 = 11.48 px: area 22.96^2 = 527.2 px; soft corners lose little.
    mask = figure_mask([replace(PLAIN, shape="square")])
    assert mask.sum() == pytest.approx(527.2, rel=0.01)


def test_triangle_has_the_area_of_a_triangle() -> None:
    # Base 2 * 0.97 * 14 = 27.16, height 1.70 * 14 = 23.8: area 323.2 px.
    mask = figure_mask([replace(PLAIN, shape="triangle")])
    assert mask.sum() == pytest.approx(323.2, rel=0.02)


def test_cross_has_the_area_of_two_bars() -> None:
    # Two bars of 2*0.96 by 2*0.32 share a square of side 0.64: 2*1.92*0.64 - 0.64^2 = 2.048;
    # times 14^2 = 401.4 px.
    mask = figure_mask([replace(PLAIN, shape="cross")])
    assert mask.sum() == pytest.approx(401.4, rel=0.02)


def test_ring_is_a_circle_with_a_hole() -> None:
    mask = figure_mask([replace(PLAIN, shape="ring")])[0]
    # Annulus 0.45..0.95 of 14 px: pi * 14^2 * (0.9025 - 0.2025) = 431.0 px.
    assert mask.sum() == pytest.approx(431.0, rel=0.01)
    assert mask[32, 32] == 0


def test_star_points_up_and_is_symmetric() -> None:
    mask = figure_mask([replace(PLAIN, shape="star")])[0]
    torch.testing.assert_close(mask, mask.flip(1), atol=1e-4, rtol=0)
    assert mask[:32].sum(1).argmax() > mask[:32].sum(1).gt(0.5).nonzero()[0]
    assert (mask - mask.flip(0)).abs().max() > 0.9


def test_mark_is_a_ten_pixel_diagonal_cross() -> None:
    mask = mark_coverage(torch.tensor([[32.0, 32.0]]))[0]
    rows = mask.amax(1).gt(0.5).nonzero().flatten()
    assert rows[-1] - rows[0] + 1 == 10
    torch.testing.assert_close(mask, mask.T)
    torch.testing.assert_close(mask, mask.flip(0))
    assert mask[32, 32] == 1  # the arms meet
    assert mask[32, 25:28].max() == 0  # nothing left of the middle: it is diagonal


@pytest.mark.parametrize("shape", SHAPES)
def test_figures_are_distinct(shape: str) -> None:
    mine = figure_mask([replace(PLAIN, shape=shape)])[0]
    for other in set(SHAPES) - {shape}:
        theirs = figure_mask([replace(PLAIN, shape=other)])[0]
        overlap = torch.minimum(mine, theirs).sum() / torch.maximum(mine, theirs).sum()
        assert overlap < 0.85, other


@pytest.mark.parametrize("shape", SHAPES)
def test_mark_never_touches_the_figure_and_both_stay_inside(shape: str) -> None:
    scenes = extreme_scenes(shape)
    figure, mark = figure_mask(scenes), mark_mask(scenes)
    assert (figure * mark).max() == 0
    for mask in (figure, mark):
        frame = torch.cat([mask[:, 0], mask[:, -1], mask[:, :, 0], mask[:, :, -1]])
        assert frame.max() == 0


def test_pixels_have_the_named_colors() -> None:
    for color in COLORS:
        image = render([replace(PLAIN, color=color)])[0]
        torch.testing.assert_close(image[:, 32, 32], torch.tensor(COLOR_RGB[color]))
    for background in BACKGROUND_RGB:
        image = render([replace(PLAIN, background=background)])[0]
        # Half way up, the shading is zero (rows 31 and 32 lie half a pixel on either side).
        expected = torch.tensor(BACKGROUND_RGB[background])
        torch.testing.assert_close(image[:, 31:33, 0].mean(1), expected)


def test_palette_colors_stay_apart_under_jitter() -> None:
    palette = {**COLOR_RGB, **BACKGROUND_RGB, "magenta": MARK_RGB}
    names, values = list(palette), torch.tensor(list(palette.values()))
    distance = (values[:, None] - values[None]).abs().amax(-1)
    distance.fill_diagonal_(1.0)
    # Two tints can bring two colours together by twice the jitter; a third of it is margin.
    worst = divmod(int(distance.argmin()), len(names))
    assert distance.min() > 5 * drawing.TINT, [names[i] for i in worst]


def test_mark_shows_only_where_the_scene_has_it() -> None:
    marked = replace(PLAIN, mark=True, mark_corner=3)
    assert mark_mask([PLAIN]).max() == 0
    assert mark_mask([marked])[0, 32:, 32:].max() == 1
    assert mark_mask([marked])[0, :32].max() == 0
    changed = (render([marked]) - render([PLAIN])).abs().amax(1)
    assert torch.equal(changed.gt(0), mark_mask([marked]).gt(0))


def test_images_are_in_range_and_repeat_exactly() -> None:
    scenes = sample_scenes(generator(), 64)
    images = render(scenes)
    assert images.shape == (64, 3, 64, 64)
    assert images.min() >= 0
    assert images.max() <= 1
    assert torch.equal(images, render(scenes))
    assert torch.equal(images[5:6], render(scenes[5:6]))
    assert scenes == sample_scenes(generator(), 64)
    assert scenes != sample_scenes(generator(1), 64)


def test_mark_rates_follow_the_background() -> None:
    scenes = sample_scenes(generator(), 8000)
    dark = [s.mark for s in scenes if s.background == "dark"]
    other = [s.mark for s in scenes if s.background != "dark"]
    # 5 standard errors: sqrt(.75*.25/2000) = 0.0097 and sqrt(.3*.7/6000) = 0.0059.
    assert sum(dark) / len(dark) == pytest.approx(0.75, abs=0.049)
    assert sum(other) / len(other) == pytest.approx(0.3, abs=0.03)


def test_scenes_are_drawn_from_the_train_split_by_default() -> None:
    held_out = set(held_out_combinations())
    for s in sample_scenes(generator(), 3000):
        assert Combination(s.shape, s.color, s.background, s.position, s.size) not in held_out
    only = held_out_combinations()[:1]
    assert {s.shape for s in sample_scenes(generator(), 9, only)} == {only[0].shape}


def test_split_is_disjoint_complete_and_covers_every_word() -> None:
    train, held_out = set(train_combinations()), set(held_out_combinations())
    assert not train & held_out
    assert train | held_out == set(combinations())
    assert (len(train), len(held_out)) == (1344, 576)  # 70 % and 30 % of 6*8*4*5*2 = 1920
    for split in (train, held_out):
        words = {w for c in split for w in (c.shape, c.color, c.background, c.position, c.size)}
        assert len(words) == 6 + 8 + 4 + 5 + 2


def test_coverage_is_differentiable_in_place_and_size() -> None:
    for shape in SHAPES:
        centre = torch.tensor([[30.2, 33.1]], requires_grad=True)
        radius = torch.tensor([9.0], requires_grad=True)
        figure_coverage(shape, centre, radius).sum().backward()
        assert radius.grad is not None
        assert radius.grad.item() > 1  # a larger figure covers more
        assert torch.isfinite(torch.stack([*centre.grad.flatten(), *radius.grad])).all()  # type: ignore[union-attr]


def test_geometry_adds_the_jitter() -> None:
    centre, radius = figure_geometry(
        [replace(PLAIN, position="left", size="small", dx=1.5, dy=-0.5, scale=1.05)]
    )
    torch.testing.assert_close(centre, torch.tensor([[19.5, 31.5]]))
    torch.testing.assert_close(radius, torch.tensor([8.4]))


def test_no_scenes_give_an_empty_batch() -> None:
    assert render([]).shape == (0, 3, 64, 64)


def test_errors_name_the_field_and_the_known_words() -> None:
    with pytest.raises(ValueError, match=r"`shape` must be one of circle.*'hexagon'"):
        Scene("hexagon", "red", "dark", "center", "small")
    with pytest.raises(ValueError, match="`mark_corner` must be 0, 1, 2 or 3; got 4"):
        replace(PLAIN, mark_corner=4)
    with pytest.raises(ValueError, match=r"`shape` must be one of .*'hexagon'"):
        figure_coverage("hexagon", torch.zeros(1, 2), torch.ones(1))
    with pytest.raises(ValueError, match="`combinations` non-empty"):
        sample_scenes(generator(), 1, [])
