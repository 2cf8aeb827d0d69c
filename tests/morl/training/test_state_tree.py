"""Optimiser state survives the way through tensors and JSON."""

from __future__ import annotations

import json

import pytest
import torch

from morl.training.state_tree import join, split


def stepped_optimizer(parameter):
    optimizer = torch.optim.AdamW([parameter], lr=0.1)
    for _ in range(2):
        parameter.square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return optimizer


def test_an_optimizer_goes_on_exactly_where_it_was():
    first, second = (torch.nn.Parameter(torch.tensor([1.0, -2.0])) for _ in range(2))
    before = stepped_optimizer(first)
    tensors, skeleton = split(before.state_dict())
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    after = torch.optim.AdamW([second], lr=0.9)
    after.load_state_dict(join(tensors, json.loads(json.dumps(skeleton))))
    second.data.copy_(first.data)
    for parameter, optimizer in ((first, before), (second, after)):
        parameter.square().sum().backward()
        optimizer.step()
    assert torch.equal(first, second)


def test_names_tell_the_place():
    tensors, skeleton = split({"state": {0: {"exp_avg": torch.ones(2)}}, "lrs": (0.1, None)})
    assert set(tensors) == {"state.0.exp_avg"}
    assert join(tensors, skeleton)["lrs"] == [0.1, None]
    assert join(tensors, skeleton)["state"][0]["exp_avg"] is tensors["state.0.exp_avg"]


def test_a_bare_tensor_and_empty_nests():
    value = torch.ones(1)
    assert join(*split(value)) is value
    assert join(*split({})) == {}
    assert join(*split([])) == []


def test_what_has_no_plain_form_is_refused_by_place():
    with pytest.raises(TypeError, match=r"state at 'a\.b' is a set"):
        split({"a": {"b": {1, 2}}})
