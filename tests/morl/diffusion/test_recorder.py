"""What is recorded, and that a pipeline which is not what its family says is stopped."""

import pytest
import torch

from morl.diffusion.recorder import Recorder
from morl.diffusion.replay import replay_log_probs
from morl.diffusion.rollout import Rollout
from morl.errors import PipelineError


def recorder_of(case, guidance: float = 1.0, eta: float = 0.0) -> Recorder:
    generator = torch.Generator().manual_seed(1)
    return Recorder(
        case.pipe,
        case.family,
        batch=3,
        guidance=guidance,
        eta=eta,
        generator=generator,
        record=True,
    )


def run(case, recorder: Recorder, guided: bool = False, **options: object) -> torch.Tensor:
    """Call the pipeline with options that `sample` does not offer."""
    arguments = {
        **case.conditioning.arguments(guided),
        "latents": case.family.pack(case.latents),
        "height": 16,
        "width": 16,
        "num_inference_steps": 4,
        "guidance_scale": 1.0,
        "output_type": "latent",
        "return_dict": False,
    }
    with recorder.attached():
        return case.pipe(**{**arguments, **options})[0]


def test_the_record_is_complete_and_shared(case) -> None:
    trajectory = case.sample(eta=0.7).trajectory
    assert len(trajectory.latents) == 5
    assert len(trajectory.calls) == 4
    assert trajectory.log_probs.shape == (3, 4)
    assert trajectory.has_log_prob.tolist() == [True, True, True, False]
    assert trajectory.log_probs[:, 3].eq(0).all()
    for call, latents in zip(trajectory.calls, trajectory.latents, strict=False):
        # No copies: the recorded sample is the very memory that the pipeline passed on.
        assert call.sample.data_ptr() == latents.data_ptr()
        assert call.conditioning is trajectory.calls[0].conditioning
        assert call.batch == 3


def test_guided_rows_are_unconditional_then_conditional(case_of) -> None:
    trajectory = case_of("sd").sample(guidance=3.0).trajectory
    call = trajectory.calls[1]
    assert call.groups == 2
    assert torch.equal(call.sample, torch.cat([trajectory.latents[1]] * 2))


def test_timesteps_and_levels_are_the_schedulers(case) -> None:
    schedule = case.sample().trajectory.schedule
    assert torch.equal(schedule.timesteps, case.pipe.scheduler.timesteps)
    assert len(schedule.levels) == 5


def test_without_recording_only_the_result_remains(sd_case) -> None:
    kept, recorded = sd_case.sample(record=False, eta=0.5), sd_case.sample(eta=0.5)
    assert torch.equal(kept.final, recorded.final)
    assert kept.trajectory.latents == ()
    assert kept.trajectory.calls == ()
    assert kept.trajectory.log_probs is None


def test_a_deterministic_run_has_no_log_probs(case) -> None:
    trajectory = case.sample(eta=0.0).trajectory
    assert trajectory.log_probs is None
    assert not trajectory.has_log_prob.any()


def test_latents_are_recorded_after_the_cast(case_of) -> None:
    # In half precision the sampled latents are rounded; scored before the rounding they would
    # have another log-prob than in a replay.
    case = case_of("sd", torch.bfloat16)
    rollout = case.sample(eta=0.7)
    assert {latents.dtype for latents in rollout.trajectory.latents} == {torch.bfloat16}
    assert rollout.trajectory.log_probs.dtype == torch.float32
    replayed = replay_log_probs(*case.common, rollout, [0, 1, 2])
    assert torch.equal(replayed, rollout.trajectory.log_probs[:, :3])


def test_guidance_for_part_of_the_steps_is_replayed(sd_case) -> None:
    def cut_off(pipe, step, _timestep, values):
        if step == 1:
            pipe._guidance_scale = 1.0
            values["prompt_embeds"] = values["prompt_embeds"][-3:]
        return values

    recorder = recorder_of(sd_case, guidance=3.0, eta=0.7)
    result = run(
        sd_case,
        recorder,
        guided=True,
        guidance_scale=3.0,
        callback_on_step_end=cut_off,
        callback_on_step_end_tensor_inputs=["latents", "prompt_embeds"],
    )
    final, trajectory = recorder.finish(result)
    assert [call.groups for call in trajectory.calls] == [2, 2, 1, 1]
    rollout = Rollout(("a",) * 3, sd_case.weights, sd_case.latents, final, 3.0, 0.7, trajectory)
    replayed = replay_log_probs(*sd_case.common, rollout, [0, 1, 2])
    assert torch.equal(replayed, trajectory.log_probs[:, :3])


def test_rescaled_guidance_is_stopped(sd_case) -> None:
    recorder = recorder_of(sd_case, guidance=3.0)
    with pytest.raises(PipelineError, match=r"StableDiffusionPipeline, step 0: .*guidance 3.0"):
        run(sd_case, recorder, guided=True, guidance_scale=3.0, guidance_rescale=0.7)


def test_true_guidance_with_two_calls_a_step_is_stopped(case_of) -> None:
    case = case_of("flux")
    negative = {
        f"negative_{name}": rows.clone() for name, rows in case.conditioning.positive.items()
    }
    with pytest.raises(PipelineError, match=r"FluxPipeline, step 0: the denoiser ran 2 times"):
        run(case, recorder_of(case), true_cfg_scale=2.0, **negative)


def test_skipped_layers_are_stopped_at_their_step(case_of) -> None:
    case = case_of("sd3")
    options = {
        "skip_guidance_layers": [0],
        "skip_layer_guidance_start": 0.2,
        "skip_layer_guidance_stop": 0.9,
    }
    recorder = recorder_of(case, guidance=3.0)
    with pytest.raises(PipelineError, match=r"StableDiffusion3Pipeline, step 1: the denoiser ran"):
        run(case, recorder, guided=True, guidance_scale=3.0, **options)


def test_latents_changed_between_steps_are_noticed(sd_case) -> None:
    def brighten(_pipe, _step, _timestep, values):
        return {"latents": values["latents"] + 0.1}

    with pytest.raises(PipelineError, match="step 1: it changes the latents"):
        run(sd_case, recorder_of(sd_case), callback_on_step_end=brighten)


def test_latents_changed_after_the_last_step_are_noticed(sd_case) -> None:
    def brighten_last(_pipe, step, _timestep, values):
        return {"latents": values["latents"] + 0.1} if step == 3 else values

    recorder = recorder_of(sd_case)
    result = run(sd_case, recorder, callback_on_step_end=brighten_last)
    with pytest.raises(PipelineError, match="are not those of the last step"):
        recorder.finish(result)


def test_partial_denoising_is_noticed(case_of) -> None:
    case = case_of("sdxl")
    recorder = recorder_of(case)
    result = run(case, recorder, denoising_end=0.5)
    with pytest.raises(PipelineError, match="2 of 4 scheduler steps"):
        recorder.finish(result)


def test_an_unexpected_batch_is_noticed(sd_case) -> None:
    with pytest.raises(PipelineError, match="9 rows for 3 samples"):
        run(sd_case, recorder_of(sd_case), num_images_per_prompt=3, latents=None)


def test_the_pipeline_is_left_as_it_was(sd_case) -> None:
    pipe, step = sd_case.pipe, sd_case.pipe.scheduler.step

    def fail(*_: object) -> None:
        raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        run(sd_case, recorder_of(sd_case), callback_on_step_end=fail)
    assert pipe.scheduler.step == step
    assert "step" not in vars(pipe.scheduler)
    assert not pipe.unet._forward_hooks
    sd_case.sample()


def test_recording_twice_at_once_is_refused(sd_case) -> None:
    with (
        recorder_of(sd_case).attached(),
        pytest.raises(PipelineError, match="one call at a time"),
        recorder_of(sd_case).attached(),
    ):
        pass
    assert "step" not in vars(sd_case.pipe.scheduler)


def test_a_denoiser_without_the_declared_arguments(sd_case) -> None:
    sd_case.pipe.unet.forward = lambda hidden, timestep: (hidden, timestep)
    with pytest.raises(PipelineError, match="no argument `sample`; it has hidden, timestep"):
        recorder_of(sd_case)
