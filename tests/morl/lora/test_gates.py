"""The cores: values by hand, what they nest in, and the identity that each can be."""

import pytest
import torch

from morl.errors import ConfigError
from morl.lora.gates import GAIN, LinearGates, make_gates

W = torch.tensor([[1.0, 0.0, 0.0], [0.2, 0.3, 0.5]])


def gates(core: str, rank: int = 6, layers: int = 2, specialisation: float = 1.0):
    generator = torch.Generator().manual_seed(0)
    return make_gates(core, 3, layers, rank, specialisation=specialisation, generator=generator)


def test_constant_is_one_at_every_weight() -> None:
    assert torch.equal(gates("constant")(W), torch.ones(2, 2, 6))


def test_linear_starts_as_one_expert_for_each_objective() -> None:
    # sigma = 1: g_j = 1 + (K w_{j mod K} - 1) = 3 w_{j mod 3}.
    expected = (
        torch.tensor([[3.0, 0.0, 0.0], [0.6, 0.9, 1.5]]).repeat(1, 2)[:, None].expand(2, 2, 6)
    )
    torch.testing.assert_close(gates("linear")(W), expected)


def test_linear_value_by_hand() -> None:
    # K = 2, w = (0.75, 0.25): w - 1/2 = (0.25, -0.25); G = (2, -1) gives 1 + 4 (0.5 + 0.25) = 4.
    linear = LinearGates(2, 1, 1, 0.0)
    with torch.no_grad():
        linear.slope.copy_(torch.tensor([[[2.0, -1.0]]]))
    assert linear(torch.tensor([[0.75, 0.25]])).item() == pytest.approx(1 + GAIN * 0.75)


@pytest.mark.parametrize("core", ["constant", "linear", "mlp"])
def test_without_specialisation_every_gate_starts_at_one(core: str) -> None:
    assert torch.equal(gates(core, specialisation=0.0)(W), torch.ones(2, 2, 6))


@pytest.mark.parametrize("core", ["linear", "mlp"])
def test_the_mean_over_the_vertices_is_one(core: str) -> None:
    torch.testing.assert_close(gates(core)(torch.eye(3)).mean(dim=0), torch.ones(2, 6))


def test_mlp_starts_as_linear_and_can_bend() -> None:
    mlp = gates("mlp")
    torch.testing.assert_close(mlp(W), gates("linear")(W))
    with torch.no_grad():
        mlp.head.normal_(generator=torch.Generator().manual_seed(1))
    ends, middle = mlp(torch.eye(3)[:2]), mlp(torch.tensor([[0.5, 0.5, 0.0]]))
    assert (middle - ends.mean(dim=0)).abs().max() > 0.01


def test_experts_are_blocks_weighted_by_w() -> None:
    row = torch.tensor([0.2, 0.2, 0.3, 0.3, 0.5, 0.5])
    torch.testing.assert_close(gates("experts")(W)[1], row.expand(2, 6))
    assert not list(gates("experts").parameters())


def test_experts_need_blocks_of_equal_size() -> None:
    with pytest.raises(ConfigError, match="multiple of the 3 objectives"):
        gates("experts", rank=8)


@pytest.mark.parametrize("core", ["constant", "linear", "mlp", "experts"])
def test_one_objective_leaves_nothing_to_choose(core: str) -> None:
    generator = torch.Generator().manual_seed(0)
    one = make_gates(core, 1, 2, 4, generator=generator)(torch.ones(3, 1))
    assert torch.equal(one, torch.ones(3, 2, 4))


@pytest.mark.parametrize("core", ["linear", "mlp", "experts"])
def test_gradients_reach_weights_and_parameters(core: str) -> None:
    module = gates(core).double()
    weights = W.double().requires_grad_()
    assert torch.autograd.gradcheck(module, (weights,))
    module(weights).square().sum().backward()
    # The trunk of an mlp has no gradient before its head has moved.
    names = [n for n, p in module.named_parameters() if not p.grad.any()]
    assert names == (["trunk", "shift"] if core == "mlp" else [])
