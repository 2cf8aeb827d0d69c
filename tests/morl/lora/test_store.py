"""Adapter files: what they say of themselves, and every way in which one is refused."""

import dataclasses
import json
import os
import pickle

import pytest
import torch
from safetensors.torch import save_file

from morl.diffusion.loading import base_identity
from morl.errors import ConfigError, DataError, IntegrityError, ResourceError
from morl.lora.file import read_safetensors, write_safetensors
from morl.lora.settings import AdapterConfig
from morl.lora.store import (
    FORMAT,
    KEY,
    AdapterHeader,
    digest_of,
    load_adapter,
    read_adapter,
    save_adapter,
)

OBJECTIVES = ("aesthetic", "alignment", "safety")
W = torch.tensor([0.5, 0.2, 0.3])


def header(**changes) -> AdapterHeader:
    values = {
        "objectives": OBJECTIVES,
        "config": AdapterConfig(rank=6, alpha=12.0, targets="attention+conv"),
        "base": {"pipeline": "StableDiffusionPipeline", "model": "tiny", "denoiser": "a" * 64},
        "region": {"low": [0.0, 0.0, 0.1], "high": [1.0, 1.0, 0.5]},
        "calibration": {"names": list(OBJECTIVES), "mean": [1.0, 2.0, 3.0], "std": [1.0] * 3},
        "sampling": {"steps": 10, "guidance": 1.0},
        "notes": {"seed": "3"},
    }
    return AdapterHeader(**{**values, **changes})


def fresh(build_pipe):
    pipe = build_pipe("sd")
    return pipe, base_identity(pipe)


def test_round_trip(adapted, build_pipe, tmp_path) -> None:
    case = adapted("sd", core="mlp", strength=0.5, targets=["to_q", "conv1"])
    pipe, base = fresh(build_pipe)
    head = header(config=case.adapter.config, base=base)
    file = save_adapter(tmp_path / "new" / "adapter.safetensors", case.adapter, head)
    adapter, found = load_adapter(file, pipe.unet, base)
    assert found == head
    assert (adapter.objectives, adapter.config) == (OBJECTIVES, case.adapter.config)
    inputs = case.inputs(2)
    with adapter.bind(W):
        assert torch.equal(pipe.unet(**inputs).sample, case(inputs, W))
    assert [p.name for p in file.parent.iterdir()] == ["adapter.safetensors"]


def test_the_header_says_which_weights_were_trained() -> None:
    assert header().outside([0.5, 0.2, 0.3]) == []
    assert header().outside([0.5, 0.5, 0.0]) == ["safety=0 (trained in 0.1..0.5)"]
    with pytest.raises(ConfigError, match=r"region\['low'\] must have 3 entries"):
        header(region={"low": [0.0], "high": [1.0] * 3})


def test_a_header_of_another_adapter_is_not_saved(adapted, tmp_path) -> None:
    case = adapted("sd")
    with pytest.raises(ConfigError, match="header is of another adapter"):
        save_adapter(tmp_path / "a.safetensors", case.adapter, header(objectives=("a", "b", "c")))


def test_another_base_is_refused_unless_forced(adapted, build_pipe, tmp_path) -> None:
    case, (pipe, base) = adapted("sd"), fresh(build_pipe)
    head = header(config=case.adapter.config)
    file = save_adapter(tmp_path / "a.safetensors", case.adapter, head)
    with pytest.raises(IntegrityError, match=r"trained on tiny .*aaaaaaaaaaaa.*, but this is"):
        load_adapter(file, pipe.unet, base)
    adapter, _ = load_adapter(file, pipe.unet, base, force=True)
    assert torch.equal(adapter.layers[0].down, case.adapter.layers[0].down)


def test_tensors_that_do_not_fit_are_listed(adapted, build_pipe, tmp_path) -> None:
    case, (pipe, base) = adapted("sd"), fresh(build_pipe)
    head = header(config=case.adapter.config, base=base)
    file = save_adapter(tmp_path / "a.safetensors", case.adapter, head)
    metadata, tensors = read_safetensors(file)
    renamed = {f"x.{n}" if "mid" in n else n: t for n, t in tensors.items()}
    write_safetensors(file, renamed, metadata)
    with pytest.raises(IntegrityError, match=r"tensors do not match .*mid_block") as caught:
        load_adapter(file, pipe.unet, base)
    assert str(caught.value).count("lora_") == 5
    assert pipe.unet.state_dict().keys() == build_pipe("sd").unet.state_dict().keys()


def test_a_plain_lora_has_no_slider(tmp_path) -> None:
    file = tmp_path / "plain.safetensors"
    save_file({"unet.to_q.lora_A.weight": torch.ones(2, 2)}, file)
    with pytest.raises(IntegrityError, match=r"plain LoRA .*load_lora_weights"):
        read_adapter(file)


def rewrite(file, change) -> None:
    metadata, tensors = read_safetensors(file)
    values = json.loads(metadata[KEY])
    change(values)
    write_safetensors(file, tensors, {KEY: json.dumps(values)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.update(format_version=FORMAT + 1, what_is_this=1), "reads up to 2: upgrade"),
        (lambda v: v.pop("format_version"), "damaged"),
        (lambda v: v.pop("objectives"), "damaged"),
        (lambda v: v["config"].update(ranks=3), "damaged .*ranks"),
        (lambda v: v.update(region={}), "damaged .*region"),
    ],
)
def test_newer_and_damaged_headers(change, message, adapted, tmp_path) -> None:
    case = adapted("sd", rank=2, targets=["to_q"])
    file = tmp_path / "a.safetensors"
    save_adapter(file, case.adapter, header(config=case.adapter.config))
    rewrite(file, change)
    with pytest.raises(IntegrityError, match=message) as caught:
        read_adapter(file)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_a_pickle_is_refused_by_content(protocol, suffix, tmp_path) -> None:
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    file = tmp_path / f"a.{suffix}"
    file.write_bytes(pickle.dumps(Evil(), protocol=protocol))
    with pytest.raises(IntegrityError, match="pickle" if protocol >= 2 else "no safetensors file"):
        read_safetensors(file)
    torch.save({"a": torch.ones(2)}, file)
    with pytest.raises(IntegrityError, match=r"pickle.*weights_only"):
        read_safetensors(file)
    assert not (tmp_path / "ran").exists()


def test_every_truncation_is_refused(tmp_path) -> None:
    file = tmp_path / "a.safetensors"
    write_safetensors(file, {"a": torch.ones(3), "b": torch.ones(2)}, {"key": "value"})
    whole = file.read_bytes()
    assert read_safetensors(file)[0] == {"format": "pt", "key": "value"}
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        with pytest.raises(IntegrityError, match=r"a\.safetensors"):
            read_safetensors(file)


@pytest.mark.parametrize(
    "damage",
    [
        lambda d: (2**40).to_bytes(8, "little") + d[8:],  # a header larger than the file
        lambda d: d[:9] + b"\xff" + d[10:],  # not UTF-8
        lambda d: d.replace(b"[0,8]", b"[4,8]"),  # a hole
        lambda d: d + b"\0",  # bytes that no tensor owns
    ],
)
def test_corrupt_headers_are_refused(damage, tmp_path) -> None:
    file = tmp_path / "a.safetensors"
    write_safetensors(file, {"a": torch.ones(2)}, {})
    data = damage(file.read_bytes())
    assert data != file.read_bytes()
    file.write_bytes(data)
    with pytest.raises(IntegrityError, match=r"a\.safetensors"):
        read_safetensors(file)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_neither_read_nor_written(value, tmp_path) -> None:
    file = tmp_path / "a.safetensors"
    bad = torch.tensor([1.0, value])
    with pytest.raises(IntegrityError, match="'weight' holds NaN"):
        write_safetensors(file, {"weight": bad}, {})
    assert not file.exists()
    save_file({"fine": torch.ones(2), "weight": bad}, file)
    with pytest.raises(IntegrityError, match=r"'weight' holds NaN or inf.*checkpoint"):
        read_safetensors(file)


def test_missing_and_unwritable_paths(tmp_path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_safetensors(tmp_path / "none.safetensors")
    with pytest.raises(DataError, match="cannot be read"):
        read_safetensors(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ResourceError, match="cannot be written"):
        write_safetensors(tmp_path / "file" / "a.safetensors", {}, {})


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch) -> None:
    file = tmp_path / "a.safetensors"
    write_safetensors(file, {"a": torch.ones(2)}, {})

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError, match="No space left"):
        write_safetensors(file, {"a": torch.zeros(2)}, {})
    assert torch.equal(read_safetensors(file)[1]["a"], torch.ones(2))
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_the_lora_beside_it_must_be_the_same_file(adapted, build_pipe, tmp_path) -> None:
    case, (pipe, base) = adapted("sd", targets=["to_q"]), fresh(build_pipe)
    beside = tmp_path / "style.safetensors"
    write_safetensors(beside, {"a": torch.ones(1)}, {})
    config = dataclasses.replace(case.adapter.config, beside=str(beside))
    case.adapter.config = config
    head = header(config=config, base=base, beside_sha256=digest_of(beside))
    file = save_adapter(tmp_path / "a.safetensors", case.adapter, head)
    write_safetensors(beside, {"a": torch.zeros(1)}, {})
    with pytest.raises(IntegrityError, match="beside another file"):
        load_adapter(file, pipe.unet, base, pipe=pipe)
    beside.unlink()
    with pytest.raises(IntegrityError, match="not there"):
        load_adapter(file, pipe.unet, base, pipe=pipe)
