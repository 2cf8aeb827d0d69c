"""What the adapter promises whatever its core: reference, binding, repetition, gradients."""

import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from morl.diffusion.loading import base_identity
from morl.errors import ConfigError, IntegrityError, WeightError
from morl.lora.conditioned import ConditionedAdapter
from morl.lora.settings import AdapterConfig

FAMILIES = ("auraflow", "flux", "sana", "sd", "sd3", "sdxl")
CORES = ("constant", "linear", "mlp", "experts")
OBJECTIVES = ("aesthetic", "alignment", "safety")


def simplex(rows, seed=0):
    draws = -torch.rand(rows, 3, generator=torch.Generator().manual_seed(seed)).log()
    return draws / draws.sum(dim=1, keepdim=True)


def gradients(adapter):
    found = {n: p.grad.clone() for n, p in adapter.named_parameters() if p.grad is not None}
    for parameter in adapter.parameters():
        parameter.grad = None
    return found


@pytest.mark.parametrize("name", FAMILIES)
def test_an_untrained_adapter_is_the_base_bit_for_bit(name, adapted) -> None:
    case = adapted(name, trained=False)
    inputs = case.inputs(3)
    assert torch.equal(case(inputs, simplex(3)), case.reference(inputs))


@pytest.mark.parametrize("name", FAMILIES)
def test_switched_off_it_is_the_base_bit_for_bit(name, adapted) -> None:
    case = adapted(name)
    inputs = case.inputs(3)
    assert not torch.allclose(case(inputs, simplex(3)), case.reference(inputs), atol=1e-3)
    with case.adapter.disabled():
        assert torch.equal(case.denoiser(**inputs, return_dict=False)[0], case.reference(inputs))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_base_keeps_its_bits_and_gets_an_fp32_adapter(dtype, build_pipe) -> None:
    unet, twin = (build_pipe("sd").unet.to(dtype) for _ in range(2))
    adapter = ConditionedAdapter.inject(unet, OBJECTIVES, AdapterConfig(targets="attention+conv"))
    assert {p.dtype for p in adapter.parameters()} == {torch.float32}
    x = torch.randn(2, 4, 8, 8, dtype=dtype)
    text = torch.randn(2, 5, 16, dtype=dtype)
    with adapter.bind(simplex(2)):
        out = unet(x, 1, text).sample
    assert out.dtype == dtype
    assert torch.equal(out, twin(x, 1, text).sample)


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("name", FAMILIES)
def test_a_mixed_batch_is_its_samples_one_by_one(name, core, adapted) -> None:
    case = adapted(name, core=core)
    inputs, weights = case.inputs(4), simplex(4)
    mixed = case(inputs, weights)
    for i in range(4):
        single = {
            k: {n: t[i : i + 1] for n, t in v.items()}
            if isinstance(v, dict)
            else v
            if k.endswith("_ids")
            else v[i : i + 1]
            for k, v in inputs.items()
        }
        alone = case(single, weights[i])
        torch.testing.assert_close(mixed[i : i + 1], alone, atol=1e-4, rtol=1e-3)
    if core != "constant":
        assert not torch.allclose(mixed, case(inputs, weights.roll(1, 0)), atol=1e-3)


def test_guided_rows_belong_to_sample_i_mod_b(adapted) -> None:
    case = adapted("sd")
    inputs, weights = case.inputs(3), simplex(3)
    twice = {k: torch.cat([v, v]) for k, v in inputs.items()}
    expected = case(inputs, weights)
    torch.testing.assert_close(
        case(twice, weights), torch.cat([expected, expected]), atol=1e-4, rtol=1e-3
    )


def test_a_single_vector_serves_any_batch(adapted) -> None:
    case = adapted("sd")
    inputs, w = case.inputs(3), simplex(1)[0]
    torch.testing.assert_close(case(inputs, w), case(inputs, w.expand(3, 3)))


def test_rows_that_are_no_multiple_are_refused(adapted) -> None:
    case = adapted("sd")
    with pytest.raises(WeightError, match="3 rows is no multiple of the 2 bound"):
        case(case.inputs(3), simplex(2))


@pytest.mark.parametrize(
    "bad", [torch.ones(2), torch.ones(1, 4), torch.ones(0, 3), torch.ones(1, 1, 3)]
)
def test_weights_of_another_shape_are_refused(bad, adapted) -> None:
    with pytest.raises(WeightError, match=r"\[batch, 3\] \(aesthetic, alignment, safety\)"):
        adapted("sd").adapter.set_weights(bad)


def test_nothing_bound_is_an_error_and_not_the_base(adapted) -> None:
    case = adapted("sd")
    with pytest.raises(WeightError, match="no weights are bound"):
        case.denoiser(**case.inputs(1))
    case(case.inputs(1), simplex(1))
    with pytest.raises(WeightError, match="no weights are bound"):  # nor what was bound before
        case.denoiser(**case.inputs(1))


def test_the_innermost_binding_counts_and_ends_with_its_block(adapted) -> None:
    case = adapted("sd")
    adapter, inputs, (one, two) = case.adapter, case.inputs(1), simplex(2)

    def run():
        return case.denoiser(**inputs).sample

    first, second = case(inputs, one), case(inputs, two)
    with adapter.bind(one):
        with adapter.disabled():
            assert torch.equal(run(), case.reference(inputs))
            with adapter.bind(two):
                assert torch.equal(run(), second)
        assert torch.equal(run(), first)
        adapter.set_weights(two)
        assert torch.equal(run(), second)
    adapter.set_weights(one)
    with pytest.raises(ZeroDivisionError), adapter.bind(two):
        raise ZeroDivisionError
    assert torch.equal(run(), first)


def test_a_failing_call_leaves_no_gates_behind(adapted) -> None:
    case = adapted("sd")
    inputs = case.inputs(2)
    broken = {**inputs, "encoder_hidden_states": torch.zeros(2, 5, 7)}
    with pytest.raises(RuntimeError):
        case(broken, simplex(2))
    assert all(len(layer.gate) == 0 for layer in case.adapter.layers)


def test_gates_follow_the_gradient_mode_of_the_call(adapted) -> None:
    # A sampler may bind without gradients and switch them on for its last steps.
    case = adapted("sd")
    inputs, weights = case.inputs(2), simplex(2)
    with torch.no_grad(), case.adapter.bind(weights):
        case.denoiser(**inputs)
        with torch.enable_grad():
            case.denoiser(**inputs).sample.sum().backward()
    assert gradients(case.adapter)["gates.slope"].abs().sum() > 0


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("name", ["flux", "sd", "sd3"])
def test_two_forwards_one_backward_with_and_without_checkpointing(name, core, adapted) -> None:
    case = adapted(name, core=core)
    first, second = simplex(2, 1), simplex(2, 2)
    inputs = case.inputs(2)

    def run(later_binding: bool) -> dict[str, torch.Tensor]:
        one, two = case(inputs, first), case(inputs, second)
        with case.adapter.disabled():
            reference = case.denoiser(**inputs, return_dict=False)[0]
        loss = one.square().mean() + 3 * two.square().mean() + reference.square().mean()
        with case.adapter.bind(simplex(2, 3)) if later_binding else nullcontext():
            loss.backward()
        return gradients(case.adapter)

    def close(found: dict[str, torch.Tensor]) -> None:
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, atol=1e-5, rtol=1e-3)

    case.denoiser.train()
    expected: dict[str, torch.Tensor] = {}
    for weights, factor in ((first, 1.0), (second, 3.0)):
        (factor * case(inputs, weights).square().mean()).backward()
        for key, value in gradients(case.adapter).items():
            expected[key] = expected.get(key, 0) + value
    close(run(later_binding=False))
    case.adapter.enable_gradient_checkpointing()
    assert case.denoiser.is_gradient_checkpointing
    close(run(later_binding=False))
    close(run(later_binding=True))


def test_diffusers_own_checkpointing_is_refused_and_not_wrong(adapted) -> None:
    case = adapted("sd")
    case.denoiser.train()
    case.denoiser.enable_gradient_checkpointing()
    loss = case(case.inputs(2), simplex(2)).sum()
    with pytest.raises(WeightError, match="enable_gradient_checkpointing"):
        loss.backward()


@pytest.mark.parametrize("core", CORES)
def test_gradients_match_finite_differences(core, adapted) -> None:
    case = adapted("sd", core=core)
    case.denoiser.double()
    inputs = {k: v.double() for k, v in case.inputs(2).items()}
    weights = simplex(2)
    case(inputs, weights).square().mean().backward()
    found = gradients(case.adapter)
    for name, parameter in case.adapter.named_parameters():
        if "gates" not in name and "mid_block" not in name:
            continue
        flat, index, step = parameter.data.view(-1), parameter.numel() // 2, 1e-5
        values = []
        for sign in (1, -1):
            flat[index] += sign * step
            with torch.no_grad():
                values.append(case(inputs, weights).square().mean().item())
            flat[index] -= sign * step
        slope = (values[0] - values[1]) / (2 * step)
        assert found[name].view(-1)[index].item() == pytest.approx(slope, rel=1e-4, abs=1e-8)


def test_only_the_adapter_is_trained_and_the_denoiser_holds_all_of_it(adapted) -> None:
    case = adapted("sdxl", core="mlp")
    trained = {id(p) for p in case.denoiser.parameters() if p.requires_grad}
    assert trained == {id(p) for p in case.adapter.parameters()}
    assert any(name.startswith("morl_gates.") for name, _ in case.denoiser.named_parameters())


def test_the_seed_decides_and_the_global_generator_is_left_alone(build_pipe) -> None:
    def state(seed):
        adapter = ConditionedAdapter.inject(
            build_pipe("sd").unet, OBJECTIVES, AdapterConfig(core="mlp"), seed=seed
        )
        return torch.cat([value.flatten() for value in adapter.state_dict().values()])

    before = torch.random.get_rng_state()
    first = state(1)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(5)
    assert torch.equal(state(1), first)
    assert not torch.equal(state(2), first)


def test_strength_scales_the_update_and_zero_is_the_base(adapted) -> None:
    case = adapted("sd", targets=["conv_out"], strength=0.5)  # conv_out: linear in the update
    inputs, weights = case.inputs(2), simplex(2)
    assert case.adapter.strength == 0.5
    half, base = case(inputs, weights) - case.reference(inputs), case.reference(inputs)
    case.adapter.strength = 1.5
    torch.testing.assert_close(case(inputs, weights) - base, 3 * half)
    case.adapter.strength = 0.0
    assert torch.equal(case(inputs, weights), base)


def test_diffusers_own_scales_act_on_it(adapted) -> None:
    case = adapted("sd", targets=["conv_out"])
    inputs, weights = case.inputs(2), simplex(2)
    base, full = case.reference(inputs), case(inputs, weights)
    scaled = case({**inputs, "cross_attention_kwargs": {"scale": 0.25}}, weights)
    torch.testing.assert_close(scaled - base, 0.25 * (full - base))
    case.denoiser.set_adapters(["morl"], 0.5)
    torch.testing.assert_close(case(inputs, weights) - base, 0.5 * (full - base))


def test_state_dict_round_trip_and_what_does_not_fit(adapted) -> None:
    one, two = adapted("sd"), adapted("sd", trained=False)
    two.adapter.load_state_dict(one.adapter.state_dict())
    inputs, weights = one.inputs(2), simplex(2)
    assert torch.equal(one(inputs, weights), two(inputs, weights))
    state = one.adapter.state_dict()
    name = next(iter(state))
    state["strange"] = state.pop(name)
    with pytest.raises(IntegrityError, match=f"missing {name}; unknown strange; other shape none"):
        two.adapter.load_state_dict(state)
    with pytest.raises(IntegrityError, match=r"other shape gates\.slope"):
        two.adapter.load_state_dict({**one.adapter.state_dict(), "gates.slope": torch.ones(1)})


def test_using_other_values_leaves_recorded_graphs_valid(adapted) -> None:
    case = adapted("sd")
    inputs, weights = case.inputs(2), simplex(2)
    case(inputs, weights).square().mean().backward()
    expected = gradients(case.adapter)
    zeros = {name: torch.zeros_like(value) for name, value in case.adapter.state_dict().items()}
    loss = case(inputs, weights).square().mean()
    with case.adapter.using(zeros), torch.no_grad():
        assert torch.equal(case(inputs, weights), case.reference(inputs))
    loss.backward()
    for name, value in gradients(case.adapter).items():
        assert torch.equal(value, expected[name])


def test_removal_leaves_the_denoiser_as_it_was(adapted) -> None:
    case = adapted("sd")
    case.adapter.remove()
    inputs = case.inputs(2)
    assert torch.equal(case.denoiser(**inputs).sample, case.reference(inputs))
    assert case.denoiser.state_dict().keys() == case.base.state_dict().keys()
    ConditionedAdapter.inject(case.denoiser, OBJECTIVES, AdapterConfig())  # and free for another


def test_the_base_keeps_its_identity_under_an_adapter(adapted, build_pipe) -> None:
    assert base_identity(adapted("sd").pipe) == base_identity(build_pipe("sd"))


COMPILED = """
import sys; sys.path[:0] = {folders!r}
import torch, conftest
from torch._dynamo.testing import CompileCounter
case, counter, frames = conftest.make("sd3"), CompileCounter(), []
compiled, inputs = torch.compile(case.denoiser, backend=counter), case.inputs(2)
for seed in range(3):
    weights = conftest.simplex(2, seed)
    with torch.no_grad(), case.adapter.bind(weights):
        out = compiled(**inputs, return_dict=False)[0]
    torch.testing.assert_close(out, case(inputs, weights), atol=1e-4, rtol=1e-3)
    frames.append(counter.frame_count)
assert 0 < frames[0] == frames[1] == frames[2], frames
"""


def test_changing_weights_recompiles_nothing() -> None:
    # In a process without the type checks of the tests, which would be compiled as well.
    here = Path(__file__).parent
    code = COMPILED.format(folders=[str(here), str(here.parents[1])])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize(
    ("objectives", "settings", "message"),
    [
        (OBJECTIVES, {"core": "experts", "rank": 8}, "nearest: 6 or 9"),
        ((), {}, "at least one"),
        (("a", "a"), {}, "different names"),
        (OBJECTIVES, {"beside": "x.safetensors"}, "loader of `pipe`"),
        (OBJECTIVES, {"core": "experts", "rank": 6, "init_from": "x"}, "no weight-free start"),
    ],
)
def test_settings_that_cannot_work(objectives, settings, message, build_pipe) -> None:
    with pytest.raises(ConfigError, match=message):
        ConditionedAdapter.inject(build_pipe("sd").unet, objectives, AdapterConfig(**settings))


def test_a_second_adapter_on_the_same_denoiser_is_refused(adapted) -> None:
    with pytest.raises(ConfigError, match="already"):
        ConditionedAdapter.inject(adapted("sd").denoiser, OBJECTIVES, AdapterConfig())


def test_a_layer_that_sees_another_batch_is_named(adapted) -> None:
    case = adapted("sd")
    layer = case.adapter.layers[0]
    layer.gate = torch.ones(4, 6)
    with pytest.raises(WeightError, match=f"{layer.path}: its input has 2 rows .* has 4"):
        layer.module(torch.zeros(2, layer.down.shape[1], 3, 3))
