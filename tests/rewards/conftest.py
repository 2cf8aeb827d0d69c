"""Images and a switch that the tests of rewards share."""

from __future__ import annotations

from collections.abc import Iterator

import jaxtyping
import pytest
import torch

from rewards.reward import ImageBatch


@pytest.fixture(scope="class")
def unchecked() -> Iterator[None]:
    """As for a user: without the checker of shapes, whose own error would come first.

    Its random samples of containers would also disturb hypothesis.
    """
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def batch() -> ImageBatch:
    """Four images: black, white, pure red, noise."""
    images = torch.zeros(4, 3, 16, 16)
    images[1] = 1.0
    images[2, 0] = 1.0
    images[3] = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0))
    return ImageBatch(images, ["black", "white", "red", "noise"])
