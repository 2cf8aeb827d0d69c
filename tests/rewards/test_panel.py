"""Several rewards on one batch: once each, in order, with faults named."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from rewards.encoders import Encoder
from rewards.errors import MissingExtraError, RewardFault
from rewards.facts import RewardFacts
from rewards.panel import MaskedFaultWarning, Panel, RewardTable
from rewards.reward import ImageBatch, Reward, Scores
from rewards.scorers.quality import Brightness, Contrast, Saturation


class Tower(nn.Module):
    """Mean colour as a feature; counts the images and prompts that it encodes."""

    def __init__(self) -> None:
        super().__init__()
        self.images = self.prompts = 0

    def encode_image(self, images):
        self.images += len(images)
        return images.mean(dim=(2, 3))

    def encode_text(self, prompts):
        self.prompts += len(prompts)
        return torch.ones(len(prompts), 3)


class Channel(Reward):
    """One channel of an encoder's feature."""

    def __init__(self, encoder: Encoder, channel: int, differentiable: bool = True) -> None:
        self.facts = RewardFacts(
            f"channel_{channel}", "quality", "", differentiable=differentiable, encoder="tower"
        )
        self.encoder, self.channel = encoder, channel

    def score(self, batch):
        similar = self.encoder.image_features(batch) * self.encoder.text_features(batch.prompts)
        return Scores.of(similar[:, self.channel])


class Given(Reward):
    """Returns what it is told, or raises it; remembers the batches that it saw."""

    def __init__(self, *results, name="given", granularity="sample", differentiable=False) -> None:
        self.facts = RewardFacts(
            name, "quality", "", granularity=granularity, differentiable=differentiable
        )
        self.results = list(results)
        self.seen: list[list[str]] = []

    def score(self, batch):
        self.seen.append(list(batch.prompts))
        result = self.results[min(len(self.seen), len(self.results)) - 1]
        if isinstance(result, Exception):
            raise result
        return result(batch) if callable(result) else result


class Picky(Given):
    """Raises on one prompt."""

    def __init__(self, prompt: str) -> None:
        super().__init__(None, name="picky")
        self.prompt = prompt

    def score(self, batch):
        if self.prompt in batch.prompts:
            raise ZeroDivisionError("no such colour")
        return Scores.of(torch.ones(len(batch)))


def scores(*values: float, valid=None, std=None) -> Scores:
    tensor = torch.tensor(values)
    mask = torch.ones(len(values), dtype=torch.bool) if valid is None else torch.tensor(valid)
    return Scores(tensor, mask, None if std is None else torch.tensor(std))


def of_size(count: int) -> ImageBatch:
    images = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    return ImageBatch(images, [f"prompt {i}" for i in range(count)])


class TestTable:
    def test_columns_stand_in_the_given_order(self, batch):
        table = Panel([Saturation(), Brightness()])(batch)
        assert table.names == ("saturation", "brightness")
        # black, white, red: saturation 0, 0, 1; brightness 0, 1, 0.299
        assert table.values[:3].flatten().tolist() == pytest.approx([0, 0, 0, 1, 1, 0.299])
        assert table.valid.all()
        assert table.std.abs().max() == 0
        assert torch.equal(table.column("brightness").values, table.values[:, 1])

    def test_disagreement_and_validity_travel(self):
        given = scores(1.0, 2.0, valid=[True, False], std=[0.1, 0.2])
        table = Panel([Given(given)])(of_size(2))
        # what does not apply counts for nothing
        assert table.values.tolist() == [[1.0], [0.0]]
        assert table.valid.tolist() == [[True], [False]]
        assert table.std.flatten().tolist() == pytest.approx([0.1, 0.0])

    def test_gradients_flow_to_the_images_of_differentiable_rewards_only(self):
        images = torch.rand(2, 3, 8, 8, requires_grad=True)
        silent = Given(lambda b: Scores.of(b.images.sum((1, 2, 3))), name="silent")
        table = Panel([Brightness(), silent])(ImageBatch(images, ["a", "b"]))
        table.values.sum().backward()
        # d mean luma / d red = 0.299 / 64; the silent one adds nothing
        assert images.grad[0, 0, 0, 0].item() == pytest.approx(0.299 / 64)

    def test_half_precision_comes_back_as_float32(self):
        given = Given(lambda b: Scores.of(torch.ones(len(b), dtype=torch.bfloat16)))
        assert Panel([given])(of_size(2)).values.dtype == torch.float32

    def test_joined(self):
        tables = [Panel([Brightness(), Contrast()])(of_size(n)) for n in (2, 3)]
        joined = RewardTable.joined(tables)
        assert joined.names == ("brightness", "contrast")
        assert torch.equal(joined.values, torch.cat([table.values for table in tables]))


class TestOnce:
    def test_every_encoder_and_prompt_once_a_batch(self):
        tower = Tower()
        encoder = Encoder("tower", tower)
        panel = Panel([Channel(encoder, 0), Channel(encoder, 1), Channel(encoder, 2)])
        panel(ImageBatch(torch.rand(4, 3, 8, 8), ["a", "b", "a", "b"]))
        assert (tower.images, tower.prompts) == (4, 2)
        panel(ImageBatch(torch.rand(4, 3, 8, 8), ["a", "b", "c", "c"]))
        assert (tower.images, tower.prompts) == (8, 3)

    def test_one_forward_serves_all_gradients(self):
        tower = Tower()
        encoder = Encoder("tower", tower)
        images = torch.rand(2, 3, 4, 4, requires_grad=True)
        table = Panel([Channel(encoder, 0), Channel(encoder, 2)])(ImageBatch(images, ["a", "b"]))
        table.values.sum().backward()
        assert tower.images == 2
        assert images.grad[:, 0].unique().item() == pytest.approx(1 / 16)
        assert images.grad[:, 1].abs().max() == 0

    def test_two_encoders_of_one_name_share_nothing(self):
        first, second = Tower(), Tower()
        batch = of_size(2)
        Panel([Channel(Encoder("tower", first), 0), Channel(Encoder("tower", second), 1)])(batch)
        assert (first.images, second.images) == (2, 2)

    def test_every_reward_once_a_batch(self):
        given = Given(lambda b: Scores.of(torch.ones(len(b))))
        panel = Panel([given, Brightness()])
        panel(of_size(3))
        assert given.seen == [["prompt 0", "prompt 1", "prompt 2"]]

    def test_a_memory_ends_with_its_batch(self):
        encoder = Encoder("tower", Tower())
        images = torch.rand(1, 3, 4, 4)
        first = encoder.image_features(ImageBatch(images, ["a"]))
        again = encoder.image_features(ImageBatch(1 - images, ["a"]))
        assert not torch.equal(first, again)


class TestChunks:
    @pytest.mark.parametrize("chunk", [1, 2, 3, 6, 7, 100])
    def test_the_size_changes_nothing(self, chunk):
        batch = of_size(7)
        rewards = [Brightness(), Saturation()]
        whole, parts = Panel(rewards)(batch), Panel(rewards, chunk=chunk)(batch)
        torch.testing.assert_close(parts.values, whole.values)
        assert torch.equal(parts.valid, whole.valid)

    def test_no_more_than_a_chunk_at_once(self):
        given = Given(lambda b: Scores.of(torch.ones(len(b))))
        Panel([given], chunk=3)(of_size(7))
        assert [len(prompts) for prompts in given.seen] == [3, 3, 1]

    def test_groups_stay_whole_and_rows_keep_their_place(self):
        # groups 0: rows 0 2 4, 1: rows 1 3, 2: row 5; chunk 3 holds 0, then 1 and 2
        def size_of_group(batch):
            return Scores.of(torch.tensor([float(batch.group.count(g)) for g in batch.group]))

        given = Given(size_of_group, granularity="group")
        images = torch.rand(6, 3, 4, 4, generator=torch.Generator().manual_seed(0))
        batch = ImageBatch(images, list("abcdef"), group=[0, 1, 0, 1, 0, 2])
        table = Panel([given, Brightness()], chunk=3)(batch)
        assert table.values[:, 0].tolist() == [3, 2, 3, 2, 3, 1]
        assert given.seen == [["a", "c", "e"], ["b", "d", "f"]]
        torch.testing.assert_close(table.values[:, 1], Brightness().score(batch).values)

    def test_a_group_larger_than_a_chunk_goes_through_as_one(self):
        given = Given(lambda b: Scores.of(torch.ones(len(b))), granularity="group")
        images = torch.rand(5, 3, 4, 4)
        Panel([given], chunk=2)(ImageBatch(images, ["p", "p", "p", "q", "r"]))
        assert given.seen == [["p", "p", "p"], ["q", "r"]]

    def test_metadata_goes_with_its_image(self):
        given = Given(lambda b: Scores.of(torch.tensor([float(m["i"]) for m in b.metadata])))
        batch = ImageBatch(torch.rand(5, 3, 4, 4), ["p"] * 5, [{"i": i} for i in range(5)])
        assert Panel([given], chunk=2)(batch).values.flatten().tolist() == [0, 1, 2, 3, 4]


class TestRaise:
    def test_what_a_scorer_raises_names_it_and_the_first_offending_prompt(self):
        message = (
            r"reward 'picky' raised ZeroDivisionError: no such colour \(first offending prompt: "
            r"'prompt 2'\)"
        )
        with pytest.raises(RewardFault, match=message) as raised:
            Panel([Brightness(), Picky("prompt 2")])(of_size(4))
        assert isinstance(raised.value.__cause__, ZeroDivisionError)

    def test_a_scorer_that_raises_on_the_batch_alone_names_the_first_prompt(self):
        def only_alone(batch):
            if len(batch) > 1:
                raise RuntimeError("too many")
            return scores(1.0)

        with pytest.raises(RewardFault, match=r"'given' raised RuntimeError: too many.*'prompt 0'"):
            Panel([Given(only_alone)])(of_size(3))

    @pytest.mark.parametrize(
        ("result", "found"),
        [
            (scores(0.0, math.nan, math.inf), "nan"),
            (scores(0.0, math.inf, 0.0), "inf"),
            (scores(0.0, math.nan, 0.0, valid=[True, False, True]), "nan"),
            (scores(0.0, 1.0, 1.0, std=[0.0, math.nan, 0.0]), "1 with std nan"),
            (scores(0.0, 1.0, 1.0, std=[0.0, -0.5, 0.0]), "1 with std -0.5"),
        ],
    )
    def test_a_value_that_is_no_number(self, result, found):
        message = (
            f"reward 'given' returned {found} for prompt 'prompt 1'; where a reward does not apply "
            "it says valid=False with any finite value"
        )
        with pytest.raises(RewardFault, match=message):
            Panel([Given(result)])(of_size(3))

    @pytest.mark.usefixtures("unchecked")
    @pytest.mark.parametrize("policy", ["raise", "mask"])
    @pytest.mark.parametrize(
        ("result", "found"),
        [
            (lambda b: scores(1.0, 2.0), r"values of shape \[3\]; got \[2\]"),
            (lambda b: Scores.of(torch.ones(3, 1)), r"values of shape \[3\]; got \[3, 1\]"),
            (lambda b: Scores.of(torch.tensor(1.0)), r"values of shape \[3\]; got \[\]"),
            (lambda b: scores(1.0, 1.0, 1.0, valid=[True]), r"valid of shape \[3\]; got \[1\]"),
            (lambda b: scores(1.0, 1.0, 1.0, std=[0.1]), r"std of shape \[3\]; got \[1\]"),
        ],
    )
    def test_a_wrong_shape_is_never_masked(self, policy, result, found):
        message = rf"reward 'given' must return {found} \(first prompt: 'prompt 0'\)"
        with pytest.raises(RewardFault, match=message):
            Panel([Given(result)], on_fault=policy)(of_size(3))

    def test_a_gradient_that_was_promised(self):
        images = torch.rand(2, 3, 4, 4, requires_grad=True)
        given = Given(scores(1.0, 2.0), differentiable=True)
        message = "'given' declares differentiable=True, but its values carry no gradient"
        with pytest.raises(RewardFault, match=message):
            Panel([given])(ImageBatch(images, ["a", "b"]))
        with torch.no_grad():
            Panel([given])(ImageBatch(images, ["a", "b"]))

    @pytest.mark.parametrize("policy", ["raise", "mask"])
    @pytest.mark.parametrize("error", [MissingExtraError("pip install"), MemoryError("full")])
    def test_what_is_no_fault_of_a_sample_passes(self, policy, error):
        with pytest.raises(type(error)):
            Panel([Given(error)], on_fault=policy)(of_size(2))

    @pytest.mark.parametrize("level", [-1.0, 255.0, math.nan])
    def test_images_out_of_range(self, level):
        message = r"`images` must lie in \[0, 1\]; got "
        with pytest.raises(ValueError, match=message):
            Panel([Brightness()])(ImageBatch(torch.full((1, 3, 4, 4), level), ["a"]))


class TestMask:
    def test_bad_samples_are_left_out_and_counted(self):
        panel = Panel(
            [Brightness(), Given(scores(1.0, math.nan, 3.0), scores(4.0, math.inf, math.nan))],
            on_fault="mask",
        )
        with pytest.warns(MaskedFaultWarning, match="'given' failed and is masked.*'prompt 1'"):
            table = panel(of_size(3))
        assert table.valid.tolist() == [[True, True], [True, False], [True, True]]
        assert table.values[:, 1].tolist() == [1.0, 0.0, 3.0]
        # said once, counted always: 1 of the first batch, 2 of the second
        panel(of_size(3))
        assert panel.faults == {"brightness": 0, "given": 3}

    def test_a_scorer_that_raises_loses_the_batch_and_spares_the_others(self):
        panel = Panel([Given(RuntimeError("gone")), Brightness()], on_fault="mask")
        with pytest.warns(MaskedFaultWarning, match="gone"):
            table = panel(of_size(3))
        assert table.valid.tolist() == [[False, True]] * 3
        assert table.values[:, 0].tolist() == [0, 0, 0]
        assert panel.faults == {"given": 3, "brightness": 0}

    def test_a_masked_value_can_not_poison_gradients(self):
        def undefined(batch):
            return Scores.of(batch.images.mean((1, 2, 3)).sub(0.5).log())

        # log 0 at the second image: the value and its gradient are infinite
        images = torch.full((2, 3, 4, 4), 0.75)
        images[1] = 0.5
        images.requires_grad_()
        panel = Panel([Given(undefined, differentiable=True), Brightness()], on_fault="mask")
        with pytest.warns(MaskedFaultWarning):
            table = panel(ImageBatch(images, ["a", "b"]))
        table.values.sum().backward()
        assert torch.isfinite(images.grad).all()

    def test_no_fault_no_warning(self):
        panel = Panel([Brightness()], on_fault="mask")
        panel(of_size(3))
        assert panel.faults == {"brightness": 0}


class TestErrors:
    def test_no_rewards(self):
        with pytest.raises(ValueError, match="`rewards` must be distinct and at least one"):
            Panel([])

    def test_a_reward_twice(self):
        with pytest.raises(ValueError, match=r"must be distinct.*repeated: brightness"):
            Panel([Brightness(), Contrast(), Brightness()])

    @pytest.mark.parametrize("chunk", [0, -1])
    def test_chunk(self, chunk):
        with pytest.raises(ValueError, match=f"`chunk` must be at least 1; got {chunk}"):
            Panel([Brightness()], chunk=chunk)

    @pytest.mark.usefixtures("unchecked")
    def test_policy(self):
        message = "`on_fault` must be 'raise' or 'mask'; got 'ignore'"
        with pytest.raises(ValueError, match=message):
            Panel([Brightness()], on_fault="ignore")

    @pytest.mark.usefixtures("unchecked")
    @pytest.mark.parametrize("shape", [(3, 4, 4), (2, 1, 4, 4), (2, 4, 4, 3)])
    def test_shape_of_images(self, shape):
        message = r"`images` must have shape \[batch, 3, height, width\]; got "
        with pytest.raises(ValueError, match=message):
            ImageBatch(torch.zeros(shape), ["a"] * shape[0])

    def test_no_images(self):
        with pytest.raises(ValueError, match="`images` must hold at least one image"):
            ImageBatch(torch.zeros(0, 3, 4, 4), [])

    def test_a_prompt_for_each_image(self):
        with pytest.raises(ValueError, match="one prompt an image: got 1 prompts for 2 images"):
            ImageBatch(torch.zeros(2, 3, 4, 4), ["a"])

    @pytest.mark.parametrize("name", ["metadata", "group"])
    def test_one_of_each_for_each_image(self, name):
        with pytest.raises(ValueError, match=f"`{name}` must have one entry an image: got 1 for 2"):
            ImageBatch(
                torch.zeros(2, 3, 4, 4), ["a", "b"], **{name: [0] if name == "group" else [{}]}
            )
