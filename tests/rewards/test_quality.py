"""Rewards without a network."""

from __future__ import annotations

import io
import math

import pytest
import torch
from PIL import Image
from properties import assert_finite_with_gradient, assert_gradient_matches_finite_difference

from rewards.reward import ImageBatch
from rewards.scorers.quality import (
    Brightness,
    Colorfulness,
    Contrast,
    JpegCompressibility,
    Saturation,
    Sharpness,
)

DIFFERENTIABLE = [Brightness, Colorfulness, Contrast, Saturation, Sharpness]


def plain(*color: float) -> torch.Tensor:
    return torch.tensor(color)[None, :, None, None].expand(1, 3, 8, 8).clone()


def halves(left: float, right: float) -> torch.Tensor:
    """Grey image, left and right half."""
    images = torch.full((1, 3, 8, 8), left)
    images[..., 4:] = right
    return images


def noise(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def value(kind, images: torch.Tensor) -> float:
    return kind().score(ImageBatch(images, ["x"] * len(images))).values[0].item()


class TestValues:
    @pytest.mark.parametrize(
        ("color", "luma"),
        [((1, 1, 1), 1.0), ((0, 0, 0), 0.0), ((1, 0, 0), 0.299), ((0, 1, 0.5), 0.587 + 0.057)],
    )
    def test_brightness(self, color, luma):
        assert value(Brightness, plain(*map(float, color))) == pytest.approx(luma, abs=1e-6)

    @pytest.mark.parametrize(
        ("color", "expected"),
        [
            ((0.5, 0.5, 0.5), 0.0),
            ((0.0, 0.0, 0.0), 0.0),
            ((0.8, 0.2, 0.4), 0.75),
            ((0.1, 0, 0), 1),
            ((0.001, 0, 0), 0.255),
        ],
    )
    def test_saturation(self, color, expected):
        # (max - min) / max: (0.8 - 0.2) / 0.8 = 0.75; below one 8-bit step over 1/255: 0.255
        assert value(Saturation, plain(*map(float, color))) == pytest.approx(expected, abs=1e-6)

    def test_contrast(self):
        # Half 0.2, half 0.6: mean 0.4, every pixel 0.2 away
        assert value(Contrast, halves(0.2, 0.6)) == pytest.approx(0.2, abs=1e-6)

    def test_contrast_is_highest_for_half_black_half_white(self):
        assert value(Contrast, halves(0.0, 1.0)) == pytest.approx(0.5, abs=1e-6)

    def test_colorfulness_of_one_colour(self):
        # No spread: 0.3 sqrt(rg^2 + yb^2); red: rg = 1, yb = 0.5: 0.3 sqrt(1.25) = 0.335410
        assert value(Colorfulness, plain(1.0, 0.0, 0.0)) == pytest.approx(0.335410, abs=1e-6)

    def test_colorfulness_of_two_colours(self):
        # Half red, half green: rg = +-1, yb = 0.5: var rg = 1, var yb = 0, means (0, 0.5):
        # 1 + 0.3 x 0.5 = 1.15
        images = plain(1.0, 0.0, 0.0)
        images[..., 4:] = torch.tensor([0.0, 1.0, 0.0])[:, None, None]
        assert value(Colorfulness, images) == pytest.approx(1.15, abs=1e-6)

    def test_sharpness_of_an_edge(self):
        # Step of 1 between columns 3 and 4 of 8: the Laplacian is +1 and -1 in these two of the six
        # inner columns, 0 elsewhere: mean 2 / 6
        assert value(Sharpness, halves(0.0, 1.0)) == pytest.approx(1 / 3, abs=1e-6)

    def test_sharpness_of_a_dot(self):
        # 3 x 3 with a white centre: the one inner pixel sees |0 - 4| = 4
        images = torch.zeros(1, 3, 3, 3)
        images[..., 1, 1] = 1
        assert value(Sharpness, images) == pytest.approx(4.0, abs=1e-6)

    def test_jpeg_is_minus_the_size_that_pil_writes(self):
        images = noise(2, 3, 32, 32)
        pixels = (images[0] * 255).round().byte().permute(1, 2, 0).numpy()
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, format="JPEG", quality=95)
        assert value(JpegCompressibility, images) == pytest.approx(-len(file.getvalue()) / 1000)


class TestProperties:
    def test_brightness_is_linear(self):
        a, b = noise(1, 3, 8, 8), plain(0.2, 0.9, 0.4)
        mixed = value(Brightness, 0.25 * a + 0.75 * b)
        expected = 0.25 * value(Brightness, a) + 0.75 * value(Brightness, b)
        assert mixed == pytest.approx(expected, abs=1e-6)

    @pytest.mark.parametrize("kind", [Contrast, Sharpness, Colorfulness])
    def test_scales_with_the_image(self, kind):
        images = noise(1, 3, 16, 16)
        assert value(kind, images / 2) == pytest.approx(value(kind, images) / 2, rel=1e-4)

    @pytest.mark.parametrize("kind", DIFFERENTIABLE)
    def test_turning_the_image_changes_nothing(self, kind):
        images = noise(1, 3, 16, 16)
        assert value(kind, images.rot90(1, (2, 3))) == pytest.approx(value(kind, images), abs=1e-6)

    @pytest.mark.parametrize("kind", DIFFERENTIABLE)
    def test_gradient(self, kind):
        images = 0.1 + 0.8 * noise(2, 3, 5, 5)
        assert_gradient_matches_finite_difference(
            lambda x: kind().score(ImageBatch(x, ["a", "b"])).values, images
        )

    @pytest.mark.parametrize("kind", [*DIFFERENTIABLE, JpegCompressibility])
    def test_images_do_not_mix(self, kind):
        images = noise(3, 3, 16, 16)
        together = kind().score(ImageBatch(images, ["x"] * 3)).values
        alone = [value(kind, images[i : i + 1]) for i in range(3)]
        assert together.tolist() == pytest.approx(alone, abs=1e-6)

    def test_jpeg_prefers_plain_images(self):
        assert value(JpegCompressibility, plain(0.5, 0.5, 0.5)) > value(
            JpegCompressibility, noise(1, 3, 8, 8)
        )

    def test_jpeg_reads_no_graph(self):
        images = noise(1, 3, 8, 8).requires_grad_()
        values = JpegCompressibility().score(ImageBatch(images, ["x"])).values
        assert not values.requires_grad


class TestHardInputs:
    @pytest.mark.parametrize("kind", DIFFERENTIABLE)
    @pytest.mark.parametrize("level", [0.0, 1e-10, 0.5, 1.0])
    def test_plain_images_have_finite_gradients(self, kind, level):
        assert_finite_with_gradient(
            lambda x: kind().score(ImageBatch(x, ["x"])).values, plain(level, level, level)
        )

    @pytest.mark.parametrize("kind", DIFFERENTIABLE)
    def test_half_precision(self, kind):
        images = noise(1, 3, 16, 16)
        assert value(kind, images.bfloat16()) == pytest.approx(value(kind, images), rel=0.05)

    @pytest.mark.parametrize("kind", [*DIFFERENTIABLE, JpegCompressibility])
    def test_images_need_not_be_square(self, kind):
        assert math.isfinite(value(kind, noise(1, 3, 9, 31)))
