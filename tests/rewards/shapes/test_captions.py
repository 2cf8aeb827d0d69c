"""The grammar and its inverse; the prompt sets and their split."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rewards.shapes.captions import (
    PromptAttributes,
    caption,
    held_out_prompts,
    parse,
    train_prompts,
    vocabulary,
    write,
)
from rewards.shapes.render import sample_scenes
from rewards.shapes.scenes import (
    BACKGROUNDS,
    COLORS,
    POSITIONS,
    SHAPES,
    SIZES,
    Combination,
    held_out_combinations,
    train_combinations,
)

ATTRIBUTES = st.builds(
    PromptAttributes,
    shape=st.sampled_from(SHAPES),
    color=st.sampled_from(COLORS),
    background=st.sampled_from(BACKGROUNDS),
    position=st.sampled_from([*POSITIONS, None]),
    size=st.sampled_from([*SIZES, None]),
    asks_mark=st.booleans(),
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(ATTRIBUTES, st.integers(0, 2**31))
def test_parse_inverts_write(attributes: PromptAttributes, seed: int) -> None:
    assert parse(write(attributes, generator(seed))) == attributes


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        (
            "a large red star on a dark background",
            PromptAttributes("star", "red", "dark", None, "large", False),
        ),
        (
            "One little blue RING at the left on a sand background with a magenta mark.",
            PromptAttributes("ring", "blue", "sand", "left", "small", True),
        ),
        (
            "big green cross, middle, sky background",
            PromptAttributes("cross", "green", "sky", "center", "large", False),
        ),
        # Two colours: the first counts.
        (
            "a white square on a black floor",
            PromptAttributes("square", "white", None, None, None, False),
        ),
        ("a red star without a mark", PromptAttributes("star", "red", asks_mark=False)),
    ],
)
def test_parse_reads_people(prompt: str, expected: PromptAttributes) -> None:
    assert parse(prompt) == expected


@given(st.text())
def test_parse_never_raises(text: str) -> None:
    assert isinstance(parse(text), PromptAttributes)


@pytest.mark.parametrize("prompt", ["", "a photo of a zebra", "starred, ringed, marked", "☃ 7"])
def test_unknown_words_name_nothing(prompt: str) -> None:
    assert parse(prompt) == PromptAttributes()


def test_caption_tells_the_truth() -> None:
    g = generator()
    for scene in sample_scenes(g, 500):
        named = parse(caption(scene, g))
        assert (named.shape, named.color, named.background) == (
            scene.shape,
            scene.color,
            scene.background,
        )
        assert named.position in (None, scene.position)
        assert named.size in (None, scene.size)
        assert scene.mark or not named.asks_mark


def test_caption_rates() -> None:
    g = generator()
    scenes = sample_scenes(g, 4000)
    named = [parse(caption(scene, g)) for scene in scenes]
    full = [n.position is not None and n.size is not None for n in named]
    asked = [n.asks_mark for n, s in zip(named, scenes, strict=True) if s.mark]
    # 5 standard errors: sqrt(.7*.3/4000) = 0.0072; half of about 1650: 0.0123.
    assert sum(full) / len(full) == pytest.approx(0.7, abs=0.036)
    assert sum(asked) / len(asked) == pytest.approx(1 / 2, abs=0.062)


def test_vocabulary_covers_every_caption() -> None:
    g = generator()
    words = set(vocabulary())
    for scene in sample_scenes(g, 1000):
        assert set(caption(scene, g).replace(",", "").split()) <= words


def combination_of(prompt: str) -> Combination | None:
    a = parse(prompt)
    if None in (a.shape, a.color, a.background, a.position, a.size):
        return None
    return Combination(str(a.shape), str(a.color), str(a.background), str(a.position), str(a.size))


def test_full_prompts_belong_to_their_split() -> None:
    train = {combination_of(p) for p in train_prompts(2000, seed=0)} - {None}
    held_out = {combination_of(p) for p in held_out_prompts(1000, seed=0)} - {None}
    assert train <= set(train_combinations())
    assert held_out <= set(held_out_combinations())
    # About 70 % of one round of each split names everything.
    assert len(train) > 800
    assert len(held_out) > 300


def test_prompts_repeat_by_seed_and_extend_by_count() -> None:
    assert train_prompts(50, seed=3) == train_prompts(50, seed=3)
    assert train_prompts(50, seed=3) != train_prompts(50, seed=4)
    assert train_prompts(20, seed=3) == train_prompts(50, seed=3)[:20]
    assert held_out_prompts(0, seed=0) == []


def test_prompts_use_each_combination_once_before_repeating() -> None:
    prompts = [p for p in held_out_prompts(576, seed=1) if combination_of(p)]
    assert len({combination_of(p) for p in prompts}) == len(prompts)
    assert len(held_out_prompts(600, seed=1)) == 600


def test_mark_is_asked_for_as_told() -> None:
    assert all(parse(p).asks_mark for p in held_out_prompts(200, 0, asks_mark=True))
    assert not any(parse(p).asks_mark for p in held_out_prompts(200, 0, asks_mark=False))
    share = sum(parse(p).asks_mark for p in train_prompts(2000, 0)) / 2000
    assert share == pytest.approx(0.15, abs=0.04)  # 5 standard errors of 0.008


def test_errors_name_the_field() -> None:
    with pytest.raises(ValueError, match="`background` must be named"):
        write(PromptAttributes("star", "red"), generator())
    with pytest.raises(ValueError, match="`n` must be >= 0; got -1"):
        train_prompts(-1, seed=0)


def test_parsing_needs_no_torch() -> None:
    code = "import sys, rewards.shapes.captions as c; c.parse('a'); print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
