"""What hacked rewards look like, as numbers."""

import math

import pytest
import torch

from morl.guard.signals import fine_detail, group_distance, paired_drop


def test_drop_in_standard_errors() -> None:
    # differences 1, 2, 3: mean 2, std 1, error 1 / sqrt 3
    best = torch.tensor([2.0, 4.0, 6.0])
    assert paired_drop(best, torch.tensor([1.0, 2.0, 3.0])) == pytest.approx(2 * math.sqrt(3))
    assert paired_drop(torch.tensor([1.0, 2.0, 3.0]), best) == pytest.approx(-2 * math.sqrt(3))


def test_drop_without_noise() -> None:
    same = torch.tensor([1.0, 2.0])
    assert paired_drop(same, same) == 0.0
    assert paired_drop(same, same - 1) == math.inf
    assert paired_drop(same, same + 1) == -math.inf


def test_distance_of_flat_images() -> None:
    # black and white: every cell differs by 1
    pair = torch.stack([torch.zeros(3, 16, 16), torch.ones(3, 16, 16)])
    assert group_distance(pair[None]) == pytest.approx(1.0)
    # two prompts, of which one draws the same image twice
    assert group_distance(torch.stack([pair, pair[:1].expand(2, -1, -1, -1)])) == pytest.approx(0.5)


def test_distance_looks_past_fine_noise() -> None:
    board = ((torch.arange(64)[:, None] + torch.arange(64)) % 2).float().expand(3, 64, 64)
    assert group_distance(torch.stack([board, 1 - board])[None]) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(("waves", "share"), [(2, 0.0), (7, 0.0), (9, 1.0), (15, 1.0)])
def test_fine_detail_of_waves(waves: int, share: float) -> None:
    # Nyquist of 32 pixels is 16 waves; half of it 8
    wave = torch.cos(2 * math.pi * waves * torch.arange(32) / 32)
    for image in (wave[None].expand(32, 32), wave[:, None].expand(32, 32)):
        images = (0.5 + 0.25 * image).expand(1, 3, 32, 32)
        assert fine_detail(images) == pytest.approx(share, abs=1e-6)


def test_fine_detail_counts_both_halves_of_the_spectrum() -> None:
    # Parseval: white noise spreads evenly, and (15 / 32)^2 of the frequencies are coarse
    noise = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert fine_detail(noise) == pytest.approx(1 - (17 / 32) ** 2, abs=0.02)


def test_flat_images_have_no_detail() -> None:
    assert fine_detail(torch.full((2, 3, 8, 8), 0.5)) == 0.0
