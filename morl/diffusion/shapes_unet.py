"""The captioned denoiser of the embedded world: U-Net, noise levels and loss."""

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from jaxtyping import Float, Int
from torch import Tensor, nn

from morl.diffusion.shapes_text import WIDTH

TIMESTEPS = 1000
CORNER, CORNER_WEIGHT = 4, 2.0  # latents a side where marks stand, and what their error counts


def build_unet(seed: int, device: str = "cpu") -> UNet2DConditionModel:
    """A U-Net of 4.4 M parameters with random weights.

    Besides cross-attention, the pooled text is added to the time embedding and scales the
    features (`addition_embed_type`, `scale_shift`): a caption's attributes multiply what the
    convolutions know of place, which a short training does not learn through attention alone.
    Both need nothing but `encoder_hidden_states`, so the standard pipeline runs unchanged.
    """
    torch.manual_seed(seed)
    unet: UNet2DConditionModel = UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(32, 64, 128),
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=8,
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
        resnet_time_scale_shift="scale_shift",
    )
    module: nn.Module = unet
    module.to(memory_format=torch.channels_last).to(device)
    return unet


def build_scheduler() -> DDIMScheduler:
    """DDIM with velocity prediction, the DDPM noise levels and trailing spacing.

    The levels end at cumulative alpha 4e-5. Figures here are large and plain: at the 5e-3 of
    Stable Diffusion a network still reads place and background from the noisiest training
    latents, and at sampling, where they are pure noise, believes what is not there. Velocities
    stay of order 1 at these levels, where x0 from a noise prediction is off by a factor of 150.
    With leading spacing the last of few steps would be at t = 0, where the gradient of a reward
    through the sampler's last step vanishes. Source: arXiv 2305.08891.
    """
    scheduler: DDIMScheduler = DDIMScheduler(
        num_train_timesteps=TIMESTEPS,
        beta_start=1e-4,
        beta_end=0.02,
        beta_schedule="linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
    )
    return scheduler


def denoising_loss(
    unet: UNet2DConditionModel,
    scheduler: DDIMScheduler,
    latents: Float[Tensor, "batch 4 16 16"],
    context: Float[Tensor, "batch token feature"],
    noise: Float[Tensor, "batch 4 16 16"],
    timesteps: Int[Tensor, " batch"],
) -> Float[Tensor, ""]:
    """Mean squared error of the velocity, v = sqrt(a) e - sqrt(1 - a) x.

    x: `latents`, of unit variance; e: `noise`, standard normal; a: cumulative alpha at
    `timesteps`, 0..999; context: states of the text encoder. As an error of x it is weighted by
    1 + SNR, so the noisiest levels, where place and colour are decided, count in full. The
    corners, where a mark is small and rare, count `CORNER_WEIGHT` times in every image alike, so
    the minimiser stays the mean velocity. Source: arXiv 2202.00512, section 4.
    """
    alpha = scheduler.alphas_cumprod.to(latents.device)[timesteps, None, None, None]
    signal, spread = alpha.sqrt(), (1 - alpha).sqrt()
    noisy = (signal * latents + spread * noise).contiguous(memory_format=torch.channels_last)
    predicted: Tensor = unet(noisy, timesteps, context).sample
    error = (predicted - (signal * noise - spread * latents)).square().mean(dim=(0, 1))
    weight = _corner_weights(error.shape[-1]).to(error.device)
    return (weight * error).sum() / weight.sum()


def _corner_weights(side: int) -> Float[Tensor, "{side} {side}"]:
    near = torch.arange(side)
    edge = (near < CORNER) | (near >= side - CORNER)
    return 1 + (CORNER_WEIGHT - 1) * (edge[:, None] & edge[None, :]).float()
