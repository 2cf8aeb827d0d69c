"""Which pretrained weights the scorers read, one row each, without importing torch."""

from __future__ import annotations

from dataclasses import dataclass

_OPENAI = "rewards.scorers.clip_tower:openai_clip"
_TRANSFORMERS = "rewards.scorers.clip_tower:transformers_clip"
_HPS = "rewards.scorers.clip_tower:hps_clip"
_SIGLIP = "rewards.scorers.siglip_tower:siglip"
_VLM = "rewards.scorers.vlm:chat_model"
_SHIELDGEMMA = "rewards.scorers.shieldgemma:shieldgemma"
_LLAVAGUARD = "rewards.scorers.llavaguard:llavaguard"
_BLIP = "rewards.scorers.blip_tower:image_reward_blip"
_MPS = "rewards.scorers.mps_tower:mps_clip"
_HPSV3 = "rewards.scorers.hpsv3_tower:hpsv3_qwen"
_INCEPTION = "rewards.scorers.inception_tower:inception_fid"
_ALEXNET = "rewards.scorers.lpips_tower:lpips_alexnet"
_CHECKER = "rewards.scorers.safety_checker:safety_checker"


@dataclass(frozen=True)
class Checkpoint:
    """One set of weights. Two encoders of one architecture with other weights are two rows."""

    name: str
    repo: str
    revision: str
    source: str
    """`module:function` that turns a folder into a tower."""
    licence: str
    memory_gb: float
    """Of the weights in float32."""
    original: str = "pytorch_model.bin"
    """The authors' file that `morl rewards convert` reads."""
    sha256: str = ""
    """Of that file, where it is known."""
    layout: str = "transformers_clip"
    """Names of the tensors in that file: a key of `rewards.convert.LAYOUTS`; empty: as we read."""
    on_hub: bool = True
    """Whether the hub holds it in the layout that we read; otherwise it is converted first."""
    fetch: str = ""
    """The command that brings the authors' file where no hub has it, and says where it lies."""
    beside: tuple[str, ...] = ()
    """Files that must lie beside the authors' one, such as a vocabulary of another repository."""
    beside_origin: tuple[str, str] = ("", "")
    """Repository and revision of those files."""

    @property
    def origin(self) -> str:
        """Where the weights come from."""
        return f"{self.repo} @ {self.revision}"


_ROWS = (
    Checkpoint(
        name="clip_vit_l_14",
        repo="openai/clip-vit-large-patch14",
        revision="32bd64288804d66eefd0ccbe215aa642df71cc41",
        source=_OPENAI,
        licence="MIT",
        memory_gb=1.7,
    ),
    # CMMD alone reads it.
    Checkpoint(
        name="clip_vit_l_14_336",
        repo="openai/clip-vit-large-patch14-336",
        revision="ce19dc912ca5cd21c8a653c79e251e808ccabcd1",
        source=_OPENAI,
        licence="MIT",
        memory_gb=1.7,
    ),
    Checkpoint(
        name="clip_vit_b_32",
        repo="openai/clip-vit-base-patch32",
        revision="3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268",
        source=_OPENAI,
        licence="MIT",
        memory_gb=0.6,
    ),
    Checkpoint(
        name="clip_vit_b_16",
        repo="openai/clip-vit-base-patch16",
        revision="57c216476eefef5ab752ec549e440a49ae4ae5f3",
        source=_OPENAI,
        licence="MIT",
        memory_gb=0.6,
    ),
    Checkpoint(
        name="open_clip_vit_h_14",
        repo="laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
        revision="1c2b8495b28150b8a4922ee1c8edee224c284c0c",
        source=_OPENAI,
        licence="MIT",
        memory_gb=3.9,
        original="open_clip_pytorch_model.bin",
        layout="open_clip",
    ),
    Checkpoint(
        name="pickscore_v1",
        repo="yuvalkirstain/PickScore_v1",
        revision="a4e4367c6dfa7288a00c550414478f865b875800",
        source=_TRANSFORMERS,
        licence="MIT",
        memory_gb=3.9,
    ),
    Checkpoint(
        name="hpsv2",
        repo="xswu/HPSv2",
        revision="697403c78157020a1ae59d23f111aa58ced35b0a",
        source=_HPS,
        licence="Apache-2.0",
        memory_gb=3.9,
        original="HPS_v2_compressed.pt",
        layout="open_clip",
        on_hub=False,
    ),
    Checkpoint(
        name="hpsv2_1",
        repo="xswu/HPSv2",
        revision="697403c78157020a1ae59d23f111aa58ced35b0a",
        source=_HPS,
        licence="Apache-2.0",
        memory_gb=3.9,
        original="HPS_v2.1_compressed.pt",
        sha256="c57a38fb4a2f7e7c15bf00da2ea377cdf165448b4dd1052a484c215a998c9837",
        layout="open_clip",
        on_hub=False,
    ),
    Checkpoint(
        name="siglip_so400m_384",
        repo="google/siglip-so400m-patch14-384",
        revision="9fdffc58afc957d1a03a25b10dba0329ab15c2a3",
        source=_SIGLIP,
        licence="Apache-2.0",
        memory_gb=3.5,
        layout="transformers",
    ),
    # Any image-text-to-text model of transformers does: name its folder in the settings.
    Checkpoint(
        name="vlm",
        repo="Qwen/Qwen2-VL-2B-Instruct",
        revision="895c3a49bc3fa70a340399125c650a463535e71c",
        source=_VLM,
        licence="Apache-2.0",
        memory_gb=8.8,
        layout="transformers",
    ),
    Checkpoint(
        name="shieldgemma_2_4b",
        repo="google/shieldgemma-2-4b-it",
        revision="eaf60452b5fc41a911338a022e628b0c15283897",
        source=_SHIELDGEMMA,
        licence="Gemma",
        memory_gb=17.2,
        layout="transformers",
    ),
    Checkpoint(
        name="llavaguard",
        repo="AIML-TUDA/LlavaGuard-v1.2-0.5B-OV-hf",
        revision="main",
        source=_LLAVAGUARD,
        licence="Apache-2.0",
        memory_gb=3.6,
        layout="",
        on_hub=False,
        fetch="hf download AIML-TUDA/LlavaGuard-v1.2-0.5B-OV-hf "
        "--local-dir ~/.cache/morl/rewards/llavaguard, and put its policy there as policy.txt",
    ),
    Checkpoint(
        name="image_reward",
        repo="THUDM/ImageReward",
        revision="5736be03b2652728fb87788c9797b0570450ab72",
        source=_BLIP,
        licence="Apache-2.0",
        memory_gb=1.8,
        original="ImageReward.pt",
        layout="image_reward",
        on_hub=False,
        beside=("vocab.txt",),
        beside_origin=("google-bert/bert-base-uncased", "86b5e0934494bd15c9632b12f734a8a67f723594"),
    ),
    Checkpoint(
        name="mps",
        repo="RE-N-Y/mpsv1",
        revision="main",
        source=_MPS,
        licence="MIT",
        memory_gb=4.4,
        original="model.safetensors",
        layout="mps",
        on_hub=False,
    ),
    Checkpoint(
        name="hpsv3",
        repo="MizzenAI/HPSv3",
        revision="main",
        source=_HPSV3,
        licence="MIT",
        memory_gb=33.2,
        original="HPSv3.safetensors",
        layout="hpsv3",
        on_hub=False,
        fetch="hf download MizzenAI/HPSv3 HPSv3.safetensors --local-dir . && "
        "hf download Qwen/Qwen2-VL-7B-Instruct tokenizer.json tokenizer_config.json --local-dir . "
        "&& curl -LO https://raw.githubusercontent.com/MizzenAI/HPSv3/"
        "d232ff8669a0b00759766067c6c3a26e2e717fac/hpsv3/dataset/data_collator_qwen.py",
        beside=("tokenizer.json", "tokenizer_config.json", "data_collator_qwen.py"),
        beside_origin=("Qwen/Qwen2-VL-7B-Instruct and github.com/MizzenAI/HPSv3", ""),
    ),
    Checkpoint(
        name="sd_safety_checker",
        repo="CompVis/stable-diffusion-safety-checker",
        revision="cb41f3a270d63d454d385fc2e4f571c487c253c5",
        source=_CHECKER,
        licence="CreativeML-OpenRAIL-M",
        memory_gb=1.2,
    ),
    # FID and KID alone read it.
    Checkpoint(
        name="inception_v3_fid",
        repo="mseitzer/pytorch-fid",
        revision="fid_weights",
        source=_INCEPTION,
        licence="Apache-2.0",
        memory_gb=0.1,
        original="pt_inception-2015-12-05-6726825d.pth",
        layout="inception",
        on_hub=False,
        fetch="curl -LO https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
        "pt_inception-2015-12-05-6726825d.pth",
    ),
    Checkpoint(
        name="alexnet",
        repo="pytorch/vision",
        revision="IMAGENET1K_V1",
        source=_ALEXNET,
        licence="BSD-3-Clause",
        memory_gb=0.01,
        original="alexnet-owt-7be5be79.pth",
        layout="alexnet",
        on_hub=False,
        fetch="python -c \"import torchvision.models as m; m.alexnet(weights='IMAGENET1K_V1')\"",
    ),
)
CHECKPOINTS: dict[str, Checkpoint] = {row.name: row for row in _ROWS}
