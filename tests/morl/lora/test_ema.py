"""The running average: its value by hand, and what stays where."""

import pytest
import torch

from morl.errors import ConfigError, IntegrityError
from morl.lora.ema import AdapterEMA

W = torch.tensor([0.5, 0.2, 0.3])


def shift(adapter, by: float) -> None:
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(by)


def test_value_by_hand(adapted) -> None:
    # From theta: +1 gives theta + 0.25 at decay 3/4; again +1: 0.75 * 0.25 + 0.25 * 2 = 0.6875.
    adapter = adapted("sd").adapter
    start = adapter.state_dict()["gates.slope"].clone()
    ema = AdapterEMA(adapter, 0.75)
    for expected in (0.25, 0.6875):
        shift(adapter, 1.0)
        ema.update(adapter)
        torch.testing.assert_close(ema.state_dict()["gates.slope"], start + expected)


def test_zero_decay_keeps_no_average(adapted) -> None:
    adapter = adapted("sd").adapter
    ema = AdapterEMA(adapter, 0.0)
    shift(adapter, 0.3)
    ema.update(adapter)
    for name, value in adapter.state_dict().items():
        torch.testing.assert_close(ema.state_dict()[name], value)


def test_applied_samples_with_the_average_and_gives_the_parameters_back(adapted) -> None:
    case = adapted("sd")
    inputs = case.inputs(2)
    ema, before = AdapterEMA(case.adapter, 0.9), case(inputs, W)
    shift(case.adapter, 0.2)
    after = case(inputs, W)
    with ema.applied(case.adapter):
        assert torch.equal(case(inputs, W), before)
    assert torch.equal(case(inputs, W), after)
    with pytest.raises(ZeroDivisionError), ema.applied(case.adapter):
        raise ZeroDivisionError
    assert torch.equal(case(inputs, W), after)


def test_state_round_trip(adapted) -> None:
    one, two = adapted("sd").adapter, adapted("sd", trained=False).adapter
    ema, other = AdapterEMA(one, 0.5), AdapterEMA(two, 0.5)
    other.load_state_dict(ema.state_dict())
    assert all(torch.equal(v, other.state_dict()[n]) for n, v in ema.state_dict().items())
    with pytest.raises(IntegrityError, match="another adapter"):
        other.load_state_dict({"gates.slope": torch.ones(1)})


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_decay_has_a_range(decay, adapted) -> None:
    with pytest.raises(ConfigError, match="below 1"):
        AdapterEMA(adapted("sd").adapter, decay)
