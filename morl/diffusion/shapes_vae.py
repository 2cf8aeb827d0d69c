"""The autoencoder of the embedded world: 64x64x3 images to 16x16x4 latents and back."""

from collections.abc import Sequence

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from jaxtyping import Float
from torch import Tensor, nn

from rewards.shapes.render import IMAGE_SIZE, MARK_CENTRES, figure_geometry
from rewards.shapes.scenes import Scene

CROP = 32  # pixels: figures and marks fill a crop, so the loss is not mostly background
KL_WEIGHT = 1e-6  # keeps latents from drifting in scale, too weak to blur
WHOLE_SHARE = 0.2  # last part of the training, on whole images, to match how it is used
FIGURE_CENTRED, MARK_CENTRED = 0.5, 0.3  # shares of the crops; the others are placed at random


def build_vae(seed: int, device: str = "cpu") -> AutoencoderKL:
    """A factor-4 autoencoder of 0.68 M parameters with random weights."""
    torch.manual_seed(seed)
    vae: AutoencoderKL = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=IMAGE_SIZE,
    )
    module: nn.Module = vae
    module.to(memory_format=torch.channels_last).to(device)
    return vae


def vae_loss(
    vae: AutoencoderKL, images: Float[Tensor, "batch 3 height width"], generator: torch.Generator
) -> Float[Tensor, ""]:
    """Reconstruction loss: mean |x - y| + 2 mean (x - y)^2 + 1e-6 KL per image.

    x: `images` in [-1, 1]; y: decoded from a sample of the posterior; KL: to a standard normal.
    """
    posterior = vae.encode(images).latent_dist
    noise = torch.randn(posterior.mean.shape, generator=generator).to(images.device)
    decoded: Tensor = vae.decode(posterior.mean + posterior.std * noise).sample
    divergence: Tensor = posterior.kl().mean()
    error = decoded - images
    return error.abs().mean() + 2 * error.square().mean() + KL_WEIGHT * divergence


def training_crops(
    images: Float[Tensor, "image 3 64 64"],
    scenes: Sequence[Scene],
    count: int,
    generator: torch.Generator,
) -> Float[Tensor, "batch 3 32 32"]:
    """Random crops around figures, around marks, and anywhere, from random images."""
    rows = torch.randint(len(scenes), (count,), generator=generator).tolist()
    kinds = torch.rand(count, generator=generator).tolist()
    jitter = torch.randint(-6, 7, (count, 2), generator=generator)
    anywhere = torch.randint(0, IMAGE_SIZE - CROP + 1, (count, 2), generator=generator)
    figures, _ = figure_geometry([scenes[row] for row in rows])
    crops = []
    for i, (row, kind) in enumerate(zip(rows, kinds, strict=True)):
        scene, corner = images[row], anywhere[i]
        if kind < FIGURE_CENTRED:
            corner = figures[i].round().long() - CROP // 2 + jitter[i]
        elif kind < FIGURE_CENTRED + MARK_CENTRED and scenes[row].mark:
            centre = torch.tensor(MARK_CENTRES[scenes[row].mark_corner])
            corner = centre.long() - CROP // 2 + jitter[i]
        x, y = corner.clamp(0, IMAGE_SIZE - CROP).tolist()
        crops.append(scene[:, y : y + CROP, x : x + CROP])
    return torch.stack(crops)


@torch.no_grad()
def encode_moments(
    vae: AutoencoderKL, images: Float[Tensor, "image 3 64 64"], chunk: int = 64
) -> Float[Tensor, "image 8 16 16"]:
    """Mean and log-variance of every image's posterior; images in [0, 1]."""
    parts = []
    for part in images.split(chunk):
        scaled = (2 * part - 1).contiguous(memory_format=torch.channels_last)
        parts.append(vae.encode(scaled).latent_dist.parameters)
    return torch.cat(parts)


@torch.no_grad()
def standardize_latents(
    vae: AutoencoderKL, moments: Float[Tensor, "image 8 16 16"]
) -> tuple[Float[Tensor, "image 4 16 16"], Float[Tensor, "image 4 16 16"]]:
    """Give every latent channel mean 0 and variance 1, by changing the autoencoder itself.

    The affine map z' = (z - m) / s of each channel is folded into the 1x1 convolutions on either
    side of the latents, so reconstructions stay the same and `scaling_factor` is 1. Without it
    the channels differ in scale by a factor of 5, and noise drowns the faint ones first.
    moments: of a large sample of images, before the change. Returns the changed mean and std.
    Raises ValueError if the autoencoder was built without those convolutions.
    """
    mean, log_variance = moments.chunk(2, dim=1)
    shift, scale = mean.mean(dim=(0, 2, 3)), mean.std(dim=(0, 2, 3))
    before, after, channels = vae.quant_conv, vae.post_quant_conv, len(scale)
    if before is None or after is None or before.bias is None or after.bias is None:
        raise ValueError("`vae` must have 1x1 convolutions with bias around its latents.")
    before.weight[:channels] /= scale[:, None, None, None]
    before.bias[:channels] = (before.bias[:channels] - shift) / scale
    before.bias[channels:] -= 2 * scale.log()
    after.bias += after.weight[:, :, 0, 0] @ shift
    after.weight *= scale[:, None, None]
    vae.register_to_config(scaling_factor=1.0)
    center, spread = shift[:, None, None], scale[:, None, None]
    return (mean - center) / spread, (0.5 * log_variance).exp() / spread
