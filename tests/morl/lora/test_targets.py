"""Which layers are adapted: golden counts of every family's presets, and the errors."""

from collections import Counter

import pytest
from torch import nn

from morl.errors import ConfigError
from morl.lora.targets import target_layers

ATTENTION = {"to_q", "to_k", "to_v", "to_out.0"}
JOINT = ATTENTION | {"add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"}


def endings(paths):
    names = [path.split(".") for path in paths]
    return Counter(".".join(n[-2:]) if n[-1].isdigit() else n[-1] for n in names)


def part(pipe):
    return pipe.components["unet"] if "unet" in pipe.components else pipe.components["transformer"]


@pytest.mark.parametrize("name", ["sd", "sdxl"])
def test_unet_presets(name, build_pipe) -> None:
    # (8, 16) with cross-attention on the lower level: 1 down, 1 middle, 2 up blocks of one
    # transformer each (the up block has layers_per_block + 1), two attentions in each transformer.
    unet = part(build_pipe(name))
    attention = endings(target_layers(unet, "attention"))
    assert attention == dict.fromkeys(ATTENTION, 8)
    # Two convolutions in each resnet: 2 down blocks x 1, 2 in the middle, 2 up blocks x 2.
    both = endings(target_layers(unet, "attention+conv"))
    assert both == attention + Counter({"conv1": 8, "conv2": 8})


def test_joint_transformer_presets(build_pipe) -> None:
    # SD3's last block does not update the text: one to_add_out fewer than blocks.
    sd3 = endings(target_layers(part(build_pipe("sd3")), "attention"))
    assert sd3 == {**dict.fromkeys(JOINT, 2), "to_add_out": 1}
    # FLUX: one joint block, and one single block that has no output projection of its own.
    flux = endings(target_layers(part(build_pipe("flux")), "attention"))
    assert flux == {**dict.fromkeys(JOINT, 1), "to_q": 2, "to_k": 2, "to_v": 2}
    # AuraFlow: one joint block; its single block has an output projection.
    aura = endings(target_layers(part(build_pipe("auraflow")), "attention"))
    assert aura == {**dict.fromkeys(JOINT, 1), **dict.fromkeys(ATTENTION, 2)}


def test_a_list_gives_endings_of_paths(build_pipe) -> None:
    unet = part(build_pipe("sd"))
    chosen = target_layers(unet, ["conv_out", "mid_block.attentions.0.proj_in"])
    assert sorted(chosen) == ["conv_out", "mid_block.attentions.0.proj_in"]
    assert all(path.endswith("attn2.to_k") for path in target_layers(unet, ["attn2.to_k"]))


def test_unknown_names_are_answered_with_the_nearest(build_pipe) -> None:
    unet = part(build_pipe("sd"))
    with pytest.raises(ConfigError, match=r"'to_qq'; nearest: .*'to_q'") as caught:
        target_layers(unet, ["to_qq", "to_v", "norm1"])
    assert len(caught.value.problems) == 2  # a norm is no Linear and no Conv2d
    with pytest.raises(ConfigError, match=r"no preset 'atention', only 'attention'"):
        target_layers(unet, "atention")
    with pytest.raises(ConfigError, match="empty"):
        target_layers(unet, [])


def test_an_unknown_network_needs_a_list() -> None:
    net = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(ConfigError, match="Sequential is not known"):
        target_layers(net, "attention")
    assert target_layers(net, ["0"]) == ["0"]


def test_grouped_convolutions_are_left_out() -> None:
    net = nn.ModuleDict({"a": nn.Conv2d(4, 4, 1, groups=2), "b": nn.Conv2d(4, 4, 1)})
    assert target_layers(net, ["b"]) == ["b"]
    with pytest.raises(ConfigError, match="'a'"):
        target_layers(net, ["a"])
