"""The learning rate over a training."""

import pytest

from morl.training.module import OptimiserSettings


def rates(steps: int, warmup: int, decay: float) -> list[float]:
    settings = OptimiserSettings(
        learning_rate=1.0,
        warmup=warmup,
        steps=steps,
        decay=decay,
        weight_decay=0.0,
        grad_clip=1.0,
    )
    return [settings.rate(step) for step in range(steps)]


def test_it_rises_and_stays() -> None:
    assert rates(4, warmup=2, decay=0.0) == [0.5, 1.0, 1.0, 1.0]


def test_it_falls_over_the_last_share_and_never_reaches_zero() -> None:
    # Half of 8 updates: 4 / 4 at the fifth, then 3 / 4, 2 / 4, 1 / 4
    assert rates(8, warmup=0, decay=0.5) == pytest.approx([1, 1, 1, 1, 1, 0.75, 0.5, 0.25])


def test_both_at_once() -> None:
    assert rates(2, warmup=2, decay=1.0) == pytest.approx([0.5, 0.5])
