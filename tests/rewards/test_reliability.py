"""Whether an uncertainty knows where its reward is wrong, on planted errors."""

from __future__ import annotations

import math

import pytest
import torch

from rewards.members import NoProtectionError
from rewards.registry import build
from rewards.reliability import (
    auroc,
    line_through,
    rank_correlation,
    reliability,
    reliability_of_answers,
    reliability_of_reward,
    table,
)
from rewards.reward import ImageBatch, Reward, Scores


def draw(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed))


TRUTH = draw(5000)
STD = 0.1 + draw(5000, seed=1).abs()
NOISE = draw(5000, seed=2)


class TestNumbers:
    def test_honest_uncertainty_covers_what_it_says(self):
        found = reliability(TRUTH + STD * NOISE, STD, TRUTH)
        for nominal, share in found.coverage.items():
            assert share == pytest.approx(nominal, abs=0.02)
        assert found.stretch == pytest.approx(1, abs=0.05)
        assert found.auroc > 0.75
        assert found.rank_correlation > 0.4

    def test_half_the_uncertainty_has_to_be_doubled(self):
        found = reliability(TRUTH + STD * NOISE, STD / 2, TRUTH)
        assert found.stretch == pytest.approx(2, rel=0.05)
        # P(|N| <= 1.645 / 2)
        assert found.coverage[0.9] == pytest.approx(math.erf(1.645 / 2 / 2**0.5), abs=0.02)

    def test_uncertainty_that_knows_nothing(self):
        found = reliability(TRUTH + 0.3 * NOISE, STD, TRUTH)
        assert found.auroc == pytest.approx(0.5, abs=0.03)
        assert found.rank_correlation == pytest.approx(0, abs=0.04)

    def test_a_common_error_is_not_covered(self):
        # Members that share a blind spot: the std is as before, and every value is off by 3.
        found = reliability(TRUTH + STD * NOISE + 3, STD, TRUTH)
        assert found.coverage[0.9] < 0.3
        assert found.stretch > 3

    def test_by_hand(self):
        # errors 1, 2, 3, 4, 5 with std 1 each but the last, whose std is 5: 4 of 5 are not large
        values = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
        found = reliability(values, torch.tensor([1.0, 1.0, 1.0, 1.0, 5.0]), torch.zeros(5))
        assert found.auroc == 1
        assert found.error == pytest.approx(11**0.5)
        assert found.std == pytest.approx(1.8)
        assert found.coverage[0.9] == pytest.approx(0.4)  # 1 / 1 and 5 / 5 lie below 1.645


class TestAnswers:
    def test_by_hand(self):
        # wrong is the last alone, the most unsure
        p = torch.tensor([0.9, 0.2, 0.8, 0.6, 0.6])
        yes = torch.tensor([True, False, True, True, False])
        found = reliability_of_answers(p, torch.tensor([0.1, 0.2, 0.3, 0.1, 0.5]), yes)
        assert found.error == pytest.approx(0.2)
        assert found.auroc == 1
        assert not found.coverage


class TestStatistics:
    def test_auroc(self):
        # pairs (positive, negative): (2, 1) right, (2, 2) tie, (3, 1), (3, 2) right: 3.5 of 4
        scores, positive = torch.tensor([2.0, 3.0, 1.0, 2.0]), torch.tensor([1, 1, 0, 0]).bool()
        assert auroc(scores, positive) == 3.5 / 4
        assert math.isnan(auroc(scores, torch.zeros(4, dtype=torch.bool)))

    def test_rank_correlation_sees_any_monotone_relation(self):
        x = draw(50)
        assert rank_correlation(x, x.exp()) == pytest.approx(1)
        assert rank_correlation(x, -x) == pytest.approx(-1)

    def test_the_line_of_least_squares(self):
        x = draw(20)
        assert line_through(x, 3 * x - 2) == pytest.approx((3, -2), abs=1e-5)


class TestRefusals:
    def test_no_uncertainty(self):
        with pytest.raises(NoProtectionError, match="states no uncertainty"):
            reliability(TRUTH, None, TRUTH)

    def test_uncertainty_that_never_varies(self):
        with pytest.raises(NoProtectionError, match="is 0 on all 5000 images"):
            reliability(TRUTH, torch.zeros(5000), TRUTH)

    def test_hard_inputs(self):
        with pytest.raises(ValueError, match="at least 5 images; got 2"):
            reliability(TRUTH[:2], STD[:2], TRUTH[:2])
        with pytest.raises(ValueError, match="must be finite"):
            reliability(TRUTH / 0, STD, TRUTH)


class Offset(Reward):
    """Twice the brightness, minus 1, and wrong by what it says on the second half of a batch."""

    facts = build("brightness").facts

    def score(self, batch: ImageBatch) -> Scores:
        scores = build("brightness").score(batch)
        wrong = torch.linspace(0, 0.2, len(batch))
        return Scores(2 * scores.values - 1 + wrong, scores.valid, wrong + 0.001)


def test_sets_of_images_are_judged_in_the_units_of_the_first():
    images = torch.rand(40, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    images = images * torch.linspace(0.1, 1, 40)[:, None, None, None].flip(0)
    base = ImageBatch(images, [""] * 40)
    optimised = ImageBatch(images[:20] * 0.5, [""] * 20)
    found = reliability_of_reward(Offset(), build("brightness"), {"base": base, "far": optimised})
    assert list(found) == ["base", "far"]
    assert found["far"].count == 20
    alone = reliability_of_reward(Offset(), build("brightness"), {"far": optimised})
    # Aligned on itself the second set looks better than in the units of the first.
    assert alone["far"].error < found["far"].error
    lines = table(found).splitlines()
    assert len(lines) == 3
    assert lines[1].startswith("base")
    assert lines[0].split()[:2] == ["images", "n"]
