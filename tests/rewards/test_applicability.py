"""Rewards that apply to part of the prompts: rules on records, and what weights are left."""

import pytest
import torch

from rewards.applicability import applicable_weights
from rewards.errors import ExpressionError
from rewards.evaluate import BoundObjective
from rewards.objective import Objective
from rewards.reward import ImageBatch
from rewards.routing import matches


@pytest.mark.parametrize(
    ("rule", "record", "expected"),
    [
        ("text", {"text": "SALE"}, True),
        ("text", {"text": ""}, False),
        ("text", {"text": False}, False),
        ("text", {}, False),
        ("count", {"count": 0}, True),
        ("tag=colors", {"tag": "colors"}, True),
        ("tag = colors", {"tag": "colors"}, True),
        ("tag=colors", {"tag": "position"}, False),
        ("count=2", {"count": 2}, True),
        ("tag=colors", {}, False),
    ],
)
def test_rules_read_records(rule, record, expected) -> None:
    assert matches(rule, record) is expected


def test_weights_are_shared_by_what_applies() -> None:
    # 0.5 / 0.7 and 0.2 / 0.7.
    weights = torch.tensor([[0.5, 0.3, 0.2]] * 3)
    valid = torch.tensor([[True, False, True], [True, True, True], [False, False, False]])
    found = applicable_weights(weights, valid)
    torch.testing.assert_close(found[0], torch.tensor([5 / 7, 0.0, 2 / 7]))
    assert torch.equal(found[1], weights[1])
    assert torch.equal(found[2], torch.zeros(3))


def test_a_weight_on_what_does_not_apply_counts_nowhere() -> None:
    found = applicable_weights(torch.tensor([[0.0, 1.0]]), torch.tensor([[True, False]]))
    assert torch.equal(found, torch.zeros(1, 2))


def objective(rule: object) -> Objective:
    return Objective.from_dict(
        {"maximize": {"light": "brightness", "text": "saturation"}, "applies": {"text": rule}}
    )


def test_an_objective_is_valid_on_matching_prompts_alone() -> None:
    bound = BoundObjective(objective("asked"))
    images = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    records = [{"asked": "SALE"}, {}, {"asked": None}]
    table = bound(ImageBatch(images, ["a", "b", "c"], records))
    assert table.reward_valid.tolist() == [[True, True], [True, False], [True, False]]
    assert table.rewards[1:, 1].tolist() == [0.0, 0.0]
    assert table.rewards[0, 1] > 0
    without = bound(ImageBatch(images, ["a", "b", "c"]))
    assert not without.reward_valid[:, 1].any()


def test_it_round_trips_and_prints() -> None:
    routed = objective("tag=ocr")
    assert Objective.from_dict(routed.to_dict()) == routed
    assert "saturation  where tag=ocr" in str(routed)


def test_a_rule_for_nobody_or_of_nothing_is_a_problem() -> None:
    strange = Objective.from_dict(
        {"maximize": {"light": "brightness"}, "applies": {"ligth": "a", "light": "=x"}}
    )
    problems = strange.problems()
    assert any("applies.ligth: no such objective; nearest: 'light'" in p for p in problems)
    assert any("applies.light: must be a field" in p for p in problems)
    with pytest.raises(ExpressionError, match="applies: must be a mapping"):
        Objective.from_dict({"maximize": {"light": "brightness"}, "applies": ["a"]})
