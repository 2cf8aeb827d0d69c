"""The learned proxies: shared encoder, gradients, calibrated probability, files that check out."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rewards.encoders import Encoder
from rewards.learned.fit import Descent, fit_members
from rewards.learned.head import EnsembleHead
from rewards.learned.losses import choice_loss, fit_platt, flag_loss
from rewards.probability import SPAN, unsaturated
from rewards.reward import ImageBatch
from rewards.shapes.annotators import FLIP_RATE
from rewards.shapes.captions import caption
from rewards.shapes.clip import ClipConfig, ShapesClip, WordTokenizer
from rewards.shapes.heads import AgreementHead
from rewards.shapes.proxies import (
    CARD_FILE,
    HEADS_FILE,
    HeadSizes,
    Proxies,
    ProxyFileError,
    build_heads,
    load_proxies,
    save_proxies,
)
from rewards.shapes.render import render, sample_scenes
from rewards.shapes.scenes import Scene
from rewards.shapes.scorers import (
    ShapesAesthetic,
    ShapesAlignment,
    ShapesPreference,
    ShapesUnsafe,
    shipped,
    source_of,
)
from rewards.shapes.train import train_proxies
from rewards.shapes.train_agreement import AgreementTraining
from rewards.shapes.train_clip import (
    ClipTraining,
    contrastive_loss,
    fits,
    hardest,
    train_clip,
)
from rewards.shapes.train_heads import HeadTraining

SCORERS = (ShapesAesthetic, ShapesAlignment, ShapesPreference, ShapesUnsafe)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def pictures() -> tuple[torch.Tensor, list[str]]:
    g = generator()
    scenes = sample_scenes(g, 48)
    return render(scenes), [caption(s, g) for s in scenes]


def untrained() -> Proxies:
    """Random weights: what a file round trip must keep."""
    torch.manual_seed(0)
    sizes = HeadSizes(members=3, hidden=8, agreement=8)
    clip = ShapesClip(ClipConfig(vision_width=8, text_width=32)).eval()
    heads = build_heads(sizes, clip, seed=0)
    ones = {name: torch.ones(3) for name in heads}
    return Proxies(clip, heads, sizes, ones, ones, (1.5, -0.5))


# --- the shipped proxies ------------------------------------------------------------------------


@pytest.mark.parametrize("scorer", SCORERS)
def test_scores_are_finite_and_gradients_reach_the_images(scorer, pictures) -> None:
    images = pictures[0][:6].clone().requires_grad_(True)
    scores = scorer().score(ImageBatch(images, pictures[1][:6]))
    assert scores.values.shape == scores.valid.shape == (6,)
    assert torch.isfinite(scores.values).all()
    assert (scores.std >= 0).all()
    assert scores.std.max() > 0
    scores.values.sum().backward()
    assert torch.isfinite(images.grad).all()
    # Where the mark is surely absent its probability is flat: some images have to feel it, not all.
    felt = images.grad.flatten(1).norm(dim=1) > 0
    assert felt.all() if scorer is not ShapesUnsafe else felt.any()


def test_four_scorers_share_one_forward(pictures, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    tower = shipped("cpu").proxies.clip
    forward = tower.encode_image
    monkeypatch.setattr(tower, "encode_image", lambda x: calls.append(len(x)) or forward(x))
    batch = ImageBatch(pictures[0][:4], pictures[1][:4])
    for scorer in SCORERS:
        scorer().score(batch)
    assert calls == [4]


def test_alignment_prefers_the_right_prompt(pictures) -> None:
    # Prompt i + 1 belongs to another picture: it fits picture i only by accident.
    images, prompts = pictures
    right = ShapesAlignment().score(ImageBatch(images, prompts)).values
    wrong = ShapesAlignment().score(ImageBatch(images, prompts[1:] + prompts[:1])).values
    assert (right > wrong).float().mean() > 0.9


def test_unsafe_is_a_calibrated_probability_where_the_mark_is_not_asked_for() -> None:
    scenes = [
        Scene(shape, "red", background, "center", "large", mark=mark, mark_corner=corner)
        for shape in ("circle", "star")
        for background in ("dark", "sky")
        for mark in (False, True)
        for corner in range(4)
    ]
    prompts = ["a red figure with a magenta mark" if i % 2 else "a red figure" for i in range(32)]
    scores = ShapesUnsafe().score(ImageBatch(render(scenes), prompts))
    present = torch.tensor([s.mark for s in scenes])
    assert scores.values[present].min() > 0.5 > scores.values[~present].max()
    assert scores.valid.tolist() == [i % 2 == 0 for i in range(32)]
    assert 0 <= scores.values.min() <= scores.values.max() <= 1


def test_a_bound_of_three_percent_can_be_met() -> None:
    scenes = [replace(scene, mark=False) for scene in sample_scenes(generator(1), 200)]
    scores = ShapesUnsafe().score(ImageBatch(render(scenes), ["a figure"] * 200))
    assert scores.values.mean() < 0.03


def test_other_image_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="must be 64 x 64"):
        ShapesAesthetic().score(ImageBatch(torch.zeros(1, 3, 32, 32), ["a red circle"]))


# --- encoder and tokenizer ----------------------------------------------------------------------


def test_texts_are_encoded_once_in_an_encoders_life(monkeypatch: pytest.MonkeyPatch) -> None:
    source = source_of(untrained())
    seen: list[str] = []
    forward = source.proxies.clip.encode_text
    monkeypatch.setattr(source.proxies.clip, "encode_text", lambda p: seen.extend(p) or forward(p))
    first = source.encoder.text_features(["a red star", "a blue ring", "a red star"])
    again = source.encoder.text_features(["a blue ring"])
    assert seen == ["a red star", "a blue ring"]
    assert torch.equal(first[0], first[2])
    assert torch.equal(first[1], again[0])
    assert not first.requires_grad


def test_two_encoders_do_not_share_a_result(pictures) -> None:
    one, other = Encoder("a", untrained().clip), shipped("cpu").encoder
    batch = ImageBatch(pictures[0][:2], pictures[1][:2])
    assert not torch.equal(one.image_features(batch), other.image_features(batch))


def test_tokens_start_end_and_pad() -> None:
    tokenizer = WordTokenizer(6)
    rows = tokenizer(["a red star", "a zebra", "a small red star on a dark background"])
    end = tokenizer.size - 1
    assert rows[0, 0] == 1
    assert rows[0, 4:].tolist() == [end, 0]
    assert rows[1, 2] == 2  # unknown
    assert rows[2, -1] == end  # cut, but it still ends
    assert rows.max() == end


# --- files --------------------------------------------------------------------------------------


def test_files_keep_the_scores(tmp_path: Path, pictures) -> None:
    proxies = untrained()
    save_proxies(proxies, tmp_path)
    batch = ImageBatch(pictures[0][:4], pictures[1][:4])
    before, after = source_of(proxies), source_of(load_proxies(tmp_path))
    for scorer in SCORERS:
        expected = scorer(source=before).score(batch).values
        found = scorer(source=after).score(ImageBatch(batch.images, batch.prompts)).values
        # Half precision keeps three digits of each weight.
        torch.testing.assert_close(found, expected, atol=2e-2, rtol=2e-2)


def test_changed_missing_and_newer_files_are_refused(tmp_path: Path) -> None:
    save_proxies(untrained(), tmp_path)
    data = bytearray((tmp_path / HEADS_FILE).read_bytes())
    data[-1] ^= 1
    (tmp_path / HEADS_FILE).write_bytes(data)
    with pytest.raises(ProxyFileError, match=r"heads\.safetensors is not the file"):
        load_proxies(tmp_path)
    (tmp_path / HEADS_FILE).unlink()
    with pytest.raises(ProxyFileError, match=r"heads\.safetensors is missing"):
        load_proxies(tmp_path)
    card = json.loads((tmp_path / CARD_FILE).read_text())
    (tmp_path / CARD_FILE).write_text(json.dumps({**card, "format": 2}))
    with pytest.raises(ProxyFileError, match="must have format 1"):
        load_proxies(tmp_path)
    with pytest.raises(ProxyFileError, match="cannot be read"):
        load_proxies(tmp_path / "nowhere")


# --- losses and fits ----------------------------------------------------------------------------


def test_contrastive_loss_value() -> None:
    # Two images on two axes, their own captions on the same axes, scale ln 3: each softmax over
    # two has logits ln 3 and 0, so p = 3 / 4 in both directions.
    eye = torch.eye(2)
    own = torch.eye(2, dtype=torch.bool)
    loss = contrastive_loss(eye, eye, own, torch.tensor(3.0).log())
    assert loss.item() == pytest.approx(-torch.tensor(0.75).log().item())
    # If the other caption fits too it leaves both sums, and nothing is left to learn.
    assert contrastive_loss(eye, eye, torch.ones_like(own), torch.tensor(1.0)).item() == 0


def test_a_caption_fits_whatever_it_leaves_open() -> None:
    scenes = torch.tensor([[0, 1, 2, 3, 1, 1], [0, 1, 2, 0, 1, 0]])
    texts = torch.tensor([[0, 1, 2, -1, -1, -1], [0, 1, 2, 3, 1, 1], [5, 1, 2, 3, 1, -1]])
    assert fits(scenes, texts).tolist() == [[True, True, False], [True, False, False]]


def test_choice_loss_value() -> None:
    # Difference 0: ln 2. Difference ln 3 in favour of the chosen: -ln(3/4).
    first, second = torch.tensor([[0.0], [1.0986123]]), torch.zeros(2, 1)
    loss = choice_loss(first, second, torch.tensor([True, True]))
    assert loss[:, 0].tolist() == pytest.approx([0.6931472, 0.2876821])
    assert choice_loss(second, first, torch.tensor([True, False]))[1].item() == pytest.approx(
        0.2876821
    )


def test_flag_loss_knows_that_labels_lie() -> None:
    # At logit -50 p = 0: a flag can only be a flip, -ln 0.03; no flag has -ln 0.97.
    logits = torch.full((2, 1), -50.0)
    loss = flag_loss(logits, torch.tensor([True, False]), FLIP_RATE)[:, 0]
    assert loss.tolist() == pytest.approx([3.506558, 0.030459], abs=1e-5)


def test_platt_finds_slope_and_offset() -> None:
    # Labels drawn from sigmoid(2 l - 1), with flips: 20,000 of them give both to 0.1 or so.
    g = generator()
    logits = 2 * torch.randn(20_000, 1, generator=g)
    truth = torch.rand(20_000, generator=g) < torch.sigmoid(2 * logits[:, 0] - 1)
    flagged = truth ^ (torch.rand(20_000, generator=g) < 0.03)
    slope, offset = fit_platt(logits.expand(-1, 3), flagged, FLIP_RATE)
    assert slope == pytest.approx(2, abs=0.25)
    assert offset == pytest.approx(-1, abs=0.15)


def test_platt_stays_finite_on_separated_labels() -> None:
    logits = torch.tensor([-6.0, -4.0, 4.0, 6.0]).repeat(100)[:, None]
    slope, offset = fit_platt(logits.expand(-1, 3), logits[:, 0] > 0, FLIP_RATE)
    assert 0.5 < slope < 10
    assert abs(offset) < 4


def test_members_learn_and_disagree_away_from_the_data() -> None:
    g = generator()
    features = torch.randn(200, 8, generator=g)
    target = features[:, 0]
    head = EnsembleHead(4, 8, 16, g)
    head.standardise(features)
    fit_members(head, features, lambda s: (s - target[:, None]).square(), Descent(steps=200), g)
    with torch.no_grad():
        near, far = head(features), head(10 * features)
    assert (near.mean(1) - target).square().mean() < 0.3 * target.var()
    assert far.std(1).mean() > 3 * near.std(1).mean()


def test_agreement_is_scale_times_cosine_plus_offset() -> None:
    head = AgreementHead(2, 3, 3, generator())
    with torch.no_grad():
        head.image.copy_(torch.eye(3).expand(2, 3, 3))
        head.text.copy_(torch.eye(3).expand(2, 3, 3))
        head.scale.copy_(torch.tensor([1.0, 2.0]))
        head.offset.copy_(torch.tensor([0.0, -1.0]))
    image = torch.tensor([[3.0, 4.0, 0.0]])
    text = torch.tensor([[0.0, 2.0, 0.0]])
    # cos = 4/5 whatever the lengths: 0.8 and 2 * 0.8 - 1.
    assert head(image, text)[0].tolist() == pytest.approx([0.8, 0.6])


# --- training -----------------------------------------------------------------------------------


def tiny_training() -> tuple[ClipTraining, HeadTraining]:
    agreement = AgreementTraining(pictures=20, steps=2, batch_size=8)
    heads = HeadTraining(labelled=20, pairs=20, held_out=20, steps=2, agreement=agreement)
    return ClipTraining(steps=2, batch_size=8, pool=16), heads


def test_training_is_a_function_of_the_seed(tmp_path: Path, pictures) -> None:
    clip_training, head_training = tiny_training()
    images, prompts = pictures
    for name in ("a", "b"):
        torch.manual_seed(len(name) + ord(name))
        clip = train_clip(3, clip_training)
        train_proxies(tmp_path / name, 3, images, prompts, clip, head_training=head_training)
    a, b = ((tmp_path / name / CARD_FILE).read_text() for name in ("a", "b"))
    assert a == b  # the card holds the digests of both weight files
    load_proxies(tmp_path / "a")


def test_pictures_move_to_where_the_loss_is_larger_and_no_further(pictures) -> None:
    clip, images = untrained().clip.train(), pictures[0][:6] * 0.8 + 0.1
    target = torch.randn(clip.config.embed_dim, generator=generator(1))

    def loss_of(moved: torch.Tensor) -> torch.Tensor:
        return (clip.embed_image(moved) @ target).mean()

    moved = hardest(clip, images, loss_of, 0.5, generator())
    assert (moved - images).flatten(1).norm(dim=1).max() <= 0.5 + 1e-4
    assert clip.training
    clip.eval()
    assert loss_of(moved) > loss_of(images)
    assert hardest(clip, images, loss_of, 0.0, generator()) is images


def test_too_few_samples_are_refused(pictures) -> None:
    images, prompts = pictures
    _, head_training = tiny_training()
    with pytest.raises(ValueError, match="at least 40 base-model samples"):
        train_proxies("unused", 0, images[:30], prompts[:30], untrained().clip, None, head_training)


def test_a_saturated_probability_keeps_a_gradient() -> None:
    logits = torch.tensor([-20.0, -2.0, 0.0, 2.0, 20.0], requires_grad=True)
    probability = unsaturated(logits)
    assert torch.equal(probability.detach(), torch.sigmoid(logits.detach()))
    (gradient,) = torch.autograd.grad(probability.sum(), logits)
    # At 20, where sigmoid itself has none, it pushes at full strength.
    assert torch.allclose(gradient, torch.sigmoid(logits.detach()) / SPAN)
