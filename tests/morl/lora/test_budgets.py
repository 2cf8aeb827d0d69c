"""Adapters conditioned on (w, d): the gates, their gradient, the file, and one plain LoRA of it."""

from __future__ import annotations

import json

import pytest
import torch

from morl.diffusion.loading import base_identity
from morl.errors import ConfigError, IntegrityError, WeightError
from morl.lora.collapse import export_lora
from morl.lora.conditioned import ConditionedAdapter
from morl.lora.file import read_safetensors, write_safetensors
from morl.lora.gates import GAIN, LinearGates, make_gates
from morl.lora.settings import AdapterConfig
from morl.lora.store import (
    FORMAT,
    KEY,
    WITHOUT_BUDGETS,
    AdapterHeader,
    load_adapter,
    read_adapter,
    save_adapter,
)
from rewards.budgets import Budget

UNSAFE = Budget("unsafe", 0.01, 0.2)
OBJECTIVES = ("aesthetic", "alignment", "safety")
W = torch.tensor([0.5, 0.2, 0.3])
ROWS = torch.tensor([[0.5, 0.2, 0.3, 0.0], [0.5, 0.2, 0.3, 0.25], [0.5, 0.2, 0.3, 1.0]])
MOVED = 1e-3  # a difference that is no rounding


def gates(core: str, budgets: int = 1, rank: int = 8, specialisation: float = 1.0):
    generator = torch.Generator().manual_seed(0)
    return make_gates(
        core, 3, 2, rank, budgets=budgets, specialisation=specialisation, generator=generator
    )


def test_linear_value_by_hand() -> None:
    # K = 2, w = (0.75, 0.25), t = 0.75: (G, H) = (2, -1, 3) gives 1 + 4 (0.75 + 3 x 0.25) = 7.
    linear = LinearGates(2, 1, 1, 0.0, budgets=1)
    with torch.no_grad():
        linear.slope.copy_(torch.tensor([[[2.0, -1.0, 3.0]]]))
    assert linear(torch.tensor([[0.75, 0.25, 0.75]])).item() == pytest.approx(1 + GAIN * 1.5)


def test_a_budget_starts_with_components_that_a_strict_bound_opens() -> None:
    # 3 objectives and 1 budget share 8 components in turn: 3 w_k each, and 2, 1.5 and 0 at t.
    expected = torch.tensor([[1.5, 0.6, 0.9, 2.0], [1.5, 0.6, 0.9, 1.5], [1.5, 0.6, 0.9, 0.0]])
    expected = expected.repeat(1, 2)[:, None].expand(3, 2, 8)
    torch.testing.assert_close(gates("linear")(ROWS), expected)
    torch.testing.assert_close(gates("mlp")(ROWS), expected)


@pytest.mark.parametrize("core", ["linear", "mlp"])
def test_the_mean_over_vertices_and_ends_is_one(core: str) -> None:
    ends = torch.cartesian_prod(torch.arange(3), torch.tensor([0, 1]))
    rows = torch.cat([torch.eye(3)[ends[:, 0]], ends[:, 1:].float()], dim=1)
    torch.testing.assert_close(gates(core)(rows).mean(dim=0), torch.ones(2, 8))
    assert torch.equal(gates(core, specialisation=0.0)(rows), torch.ones(6, 2, 8))


@pytest.mark.parametrize("core", ["linear", "mlp"])
def test_without_budgets_nothing_changes(core: str) -> None:
    plain, none = gates(core, budgets=0, rank=6), gates(core, budgets=0, rank=6)
    assert [p.shape for p in plain.parameters()] == [p.shape for p in none.parameters()]
    old = make_gates(core, 3, 2, 6, generator=torch.Generator().manual_seed(0))
    for now, before in zip(none.parameters(), old.parameters(), strict=True):
        assert torch.equal(now, before)
    assert dict(none.named_parameters()).keys() == dict(old.named_parameters()).keys()


@pytest.mark.parametrize("core", ["linear", "mlp"])
def test_outputs_and_gradients_follow_the_budget(core: str, adapted) -> None:
    case = adapted("sd", core=core, budgets=[UNSAFE], rank=4)
    inputs = case.inputs(3)
    mixed = case(inputs, ROWS)
    for i, row in enumerate(ROWS):
        one = {name: value[i : i + 1] for name, value in inputs.items()}
        torch.testing.assert_close(case(one, row), mixed[i : i + 1], atol=1e-4, rtol=1e-3)
    assert (case(inputs, ROWS[:1]) - case(inputs, ROWS[2:])).abs().max() > MOVED
    slope = dict(case.adapter.named_parameters())[
        "gates.slope" if core == "linear" else "gates.linear.slope"
    ]
    case(inputs, ROWS).square().sum().backward()
    assert slope.grad is not None
    assert slope.grad[..., 3].abs().sum() > 0


def test_weights_alone_stand_for_the_usual_budgets_the_strictest(adapted) -> None:
    case = adapted("sd", budgets=[UNSAFE], rank=4)
    inputs = case.inputs(2)
    assert torch.equal(case(inputs, W), case(inputs, ROWS[0]))
    assert torch.equal(case.adapter.layer_gates(W), case.adapter.layer_gates(ROWS[0]))
    case.adapter.usual = {"unsafe": 0.2}
    assert torch.equal(case(inputs, W), case(inputs, ROWS[2]))
    assert torch.equal(case(inputs, ROWS[1]), case(inputs, ROWS[1].expand(2, -1)))


def test_merging_is_the_row_that_is_merged(adapted) -> None:
    case = adapted("sd", budgets=[UNSAFE], rank=4)
    inputs = case.inputs(1)
    expected = case(inputs, ROWS[2])
    case.adapter.merge(ROWS[2])
    merged = case.denoiser(**inputs, return_dict=False)[0]
    torch.testing.assert_close(merged, expected, atol=1e-4, rtol=1e-3)


def header(case, base, **changes) -> AdapterHeader:
    values = {
        "objectives": OBJECTIVES,
        "config": case.adapter.config,
        "base": base,
        "region": {"low": [0.0] * 3, "high": [1.0] * 3},
        "budgets": case.adapter.budgets,
    }
    return AdapterHeader(**{**values, **changes})


def test_round_trip_through_the_file(adapted, build_pipe, tmp_path) -> None:
    case = adapted("sd", budgets=[UNSAFE, Budget("b", 0.5, -0.5)], rank=5, core="mlp")
    pipe = build_pipe("sd")
    head = header(case, base_identity(pipe))
    file = save_adapter(tmp_path / "adapter.safetensors", case.adapter, head)
    adapter, found = load_adapter(file, pipe.unet, base_identity(pipe))
    assert found == head
    assert found.format_version == FORMAT
    assert adapter.budgets == case.adapter.budgets
    inputs, row = case.inputs(2), torch.tensor([0.5, 0.2, 0.3, 0.4, 0.9])
    with adapter.bind(row):
        assert torch.equal(pipe.unet(**inputs).sample, case(inputs, row))


def test_a_file_without_budgets_stays_in_the_format_of_older_readers(adapted, tmp_path) -> None:
    case = adapted("sd", rank=3)
    head = header(case, {"pipeline": "p"})
    file = save_adapter(tmp_path / "adapter.safetensors", case.adapter, head)
    stored = json.loads(read_safetensors(file)[0][KEY])
    assert stored["format_version"] == WITHOUT_BUDGETS
    assert "budgets" not in stored
    assert read_adapter(file)[0].budgets == ()


def test_headers_that_do_not_fit(adapted, tmp_path) -> None:
    case = adapted("sd", budgets=[UNSAFE], rank=4)
    file = tmp_path / "adapter.safetensors"
    with pytest.raises(ConfigError, match="header is of another adapter"):
        save_adapter(file, case.adapter, header(case, {}, budgets=()))
    save_adapter(file, case.adapter, header(case, {}))
    metadata, tensors = read_safetensors(file)
    damaged = json.loads(metadata[KEY])
    damaged["budgets"][0].pop("loosest")
    write_safetensors(file, tensors, {KEY: json.dumps(damaged)})
    with pytest.raises(IntegrityError, match=r"damaged .*loosest"):
        read_adapter(file)


def test_a_plain_lora_is_the_adapter_at_its_budget(adapted, build_pipe, tmp_path) -> None:
    case, pipe = adapted("sd", budgets=[UNSAFE], rank=4), build_pipe("sd")
    file = export_lora(case.adapter, ROWS[2], tmp_path / "lora.safetensors")
    told = read_safetensors(file)[0]
    assert json.loads(told["morl_budgets"]) == {"unsafe": 0.2}
    assert json.loads(told["morl_weights"]).keys() == set(OBJECTIVES)
    pipe.load_lora_weights(str(file))
    inputs = case.inputs(2)
    torch.testing.assert_close(
        pipe.unet(**inputs).sample, case(inputs, ROWS[2]), atol=1e-4, rtol=1e-3
    )
    usual = export_lora(case.adapter, W, tmp_path / "usual.safetensors")
    assert json.loads(read_safetensors(usual)[0]["morl_budgets"]) == {"unsafe": 0.01}


@pytest.mark.parametrize("core", ["constant", "experts"])
def test_cores_that_have_nothing_for_a_budget(core: str, build_pipe) -> None:
    with pytest.raises(ConfigError, match=rf"adapter\.core: {core} .*use linear or mlp"):
        ConditionedAdapter.inject(
            build_pipe("sd").unet, OBJECTIVES, AdapterConfig(rank=3, core=core), budgets=[UNSAFE]
        )


def test_rows_of_another_width(adapted) -> None:
    adapter = adapted("sd", budgets=[UNSAFE], rank=4).adapter
    message = r"must have shape \[batch, 3\] or \[batch, 4\] with budgets .* got \[2, 5\]"
    with pytest.raises(WeightError, match=message):
        adapter.set_weights(torch.ones(2, 5))
    with pytest.raises(WeightError, match="one weight vector of 3 entries"):
        adapter.layer_gates(torch.ones(5))
