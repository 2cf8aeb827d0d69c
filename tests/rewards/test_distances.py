"""Distances of sets: closed forms on Gaussians, hand-made sets, and torchmetrics on images."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from rewards.distances import cmmd, fid, kid

WIDTH = 4


def whitened(n: int, seed: int = 0) -> torch.Tensor:
    """A set whose mean is exactly 0 and whose unbiased covariance is exactly the identity."""
    rows = torch.randn(n, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    rows = rows - rows.mean(dim=0)
    covariance = rows.T @ rows / (n - 1)
    return rows @ torch.linalg.inv(torch.linalg.cholesky(covariance)).T


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class TestFid:
    def test_gaussians_with_commuting_covariances(self):
        # N(0, I) against N(m, diag(a^2)): |m|^2 + sum (a - 1)^2 = 0.25 * 4 + 0 + 1 + 0.25 + 4
        shift, spread = torch.full((WIDTH,), 0.5), torch.tensor([1.0, 2.0, 0.5, 3.0])
        found = fid(whitened(50), whitened(70, 1) * spread + shift)
        assert found == pytest.approx(6.25, abs=1e-9)

    def test_gaussians_whose_covariances_do_not_commute(self):
        # N(0, I) against N(0, A A^T): tr(I) + tr(A A^T) - 2 sum of A's singular values
        a = torch.tensor(
            [[1.0, 2, 0, 0], [0, 1, 1, 0], [0, 0, 2, 0], [1, 0, 0, 1]], dtype=torch.float64
        )
        expected = WIDTH + a.square().sum() - 2 * torch.linalg.svdvals(a).sum()
        assert fid(whitened(40), whitened(40, 2) @ a.T) == pytest.approx(expected.item(), abs=1e-8)

    def test_a_set_against_itself(self):
        assert fid(whitened(30), whitened(30)) == pytest.approx(0, abs=1e-7)

    def test_fewer_images_than_features(self):
        x = torch.randn(3, 64, generator=draw())
        assert fid(x, x) == pytest.approx(0, abs=1e-4)
        assert fid(x, x + 1) == pytest.approx(64, rel=1e-4)

    def test_torchmetrics_on_images(self):
        """The same numbers as its own class gives with a network of ours on 8-bit images."""
        network = Shrunk()
        metric = FrechetInceptionDistance(feature=network)
        first, second = images(0), images(1)
        metric.update(first, real=True)
        metric.update(second, real=False)
        assert fid(network(second), network(first)) == pytest.approx(metric.compute().item())


class Shrunk(nn.Module):
    """Mean colours of four quarters."""

    num_features = 12

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return nn.functional.adaptive_avg_pool2d(pixels.float() / 255, 2).flatten(1)


def images(seed: int, n: int = 30) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, 8, 8), generator=draw(seed), dtype=torch.uint8)


class TestKid:
    def test_two_points_each(self):
        # d = 1, k = (x y + 1)^3: k(0, 0) = 1 off the diagonal, k(1, 1) = 8, k(0, 1) = 1;
        # 1 + 8 - 2 * 1 = 7
        mean, std = kid(torch.zeros(2, 1), torch.ones(2, 1), draw())
        assert (mean, std) == (pytest.approx(7), pytest.approx(0))

    def test_equal_distributions_lie_around_zero(self):
        x = torch.randn(400, 8, generator=draw(1))
        mean, _ = kid(x[:200], x[200:], draw())
        shifted, _ = kid(x[:200], x[200:] + 1, draw())
        assert abs(mean) < 0.05
        assert shifted > 1

    @pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance`")
    def test_torchmetrics_on_images(self):
        """All of both sets in every subset: no draw can differ."""
        network, first, second = Shrunk(), images(0), images(1)
        metric = KernelInceptionDistance(feature=network, subset_size=len(first), subsets=2)
        metric.update(first, real=True)
        metric.update(second, real=False)
        mean, _ = metric.compute()
        found, std = kid(network(second), network(first), draw())
        assert found == pytest.approx(mean.item(), abs=1e-6)
        assert std == pytest.approx(0, abs=1e-12)

    def test_the_generator_draws_and_nothing_else(self):
        x, y = torch.randn(30, 4, generator=draw()), torch.randn(20, 4, generator=draw(3))
        before = torch.random.get_rng_state()
        assert kid(x, y, draw(5)) == kid(x, y, draw(5))
        assert kid(x, y, draw(5)) != kid(x, y, draw(6))
        assert torch.equal(torch.random.get_rng_state(), before)


class TestCmmd:
    def test_two_directions(self):
        # unit vectors: |x - x'| = 0 within, |x - y|^2 = 2 across, k = exp(-2 / 200);
        # 1000 (1 + 1 - 2 exp(-0.01)) = 19.9003
        x, y = torch.eye(2)[:1].repeat(3, 1) * 5, torch.eye(2)[1:].repeat(2, 1)
        assert cmmd(x, y) == pytest.approx(2000 * (1 - math.exp(-0.01)), rel=1e-12)

    def test_all_pairs_count(self):
        # {e1, e2} against {e1, e1}: (2 + 2k)/4 + 1 - 2 (1 + k)/2 = (1 - k) / 2
        x, y = torch.eye(2), torch.eye(2)[:1].repeat(2, 1)
        assert cmmd(x, y) == pytest.approx(500 * (1 - math.exp(-0.01)), rel=1e-12)

    def test_many_rows_are_summed_in_parts(self):
        x, y = torch.randn(2500, 3, generator=draw()), torch.randn(1500, 3, generator=draw(1))
        unit = [nn.functional.normalize(rows.double(), dim=1) for rows in (x, y)]
        within = [torch.exp(-torch.cdist(u, u).square() / 200).mean() for u in unit]
        across = torch.exp(-torch.cdist(*unit).square() / 200).mean()
        expected = 1000 * (within[0] + within[1] - 2 * across)
        assert cmmd(x, y) == pytest.approx(expected.item(), rel=1e-6)

    def test_length_plays_no_part_and_a_set_is_itself(self):
        x = torch.randn(20, 5, generator=draw())
        assert cmmd(x, x * 7) == pytest.approx(0, abs=1e-9)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("metric", [fid, cmmd, lambda x, y: kid(x, y, draw())])
class TestErrors:
    def test_other_widths(self, metric):
        with pytest.raises(ValueError, match="must be of one width; got 3 and 4"):
            metric(torch.zeros(5, 3), torch.zeros(5, 4))

    def test_too_few(self, metric):
        with pytest.raises(ValueError, match="`reference` must hold at least 2 images; got 1"):
            metric(torch.zeros(5, 3), torch.zeros(1, 3))

    def test_nan(self, metric):
        with pytest.raises(ValueError, match="`features` must be finite"):
            metric(torch.full((5, 3), torch.nan), torch.zeros(5, 3))
