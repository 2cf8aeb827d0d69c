"""Facts of the scorers of real models, one row each, without importing torch."""

from __future__ import annotations

from functools import partial

from rewards.facts import RewardFacts

_AESTHETIC = "rewards.scorers.aesthetic:"
_ALIGNMENT = "rewards.scorers.alignment:"
_PREFERENCE = "rewards.scorers.preference:"
_SAFETY = "rewards.scorers.safety:"
_DIVERSITY = "rewards.scorers.diversity:"

# A row is what a scorer adds to its encoder, a row of `rewards.checkpoints`.
_MIT = partial(RewardFacts, differentiable=True, licence="MIT")
_APACHE = partial(RewardFacts, differentiable=True, licence="Apache-2.0")
_L14 = partial(_MIT, encoder="clip_vit_l_14")
_B32 = partial(_MIT, encoder="clip_vit_b_32")
_B16 = partial(_MIT, encoder="clip_vit_b_16")
_H14 = partial(_MIT, encoder="open_clip_vit_h_14")
_PICK = partial(_MIT, encoder="pickscore_v1")
_HPS = partial(_APACHE, encoder="hpsv2")
_HPS21 = partial(_APACHE, encoder="hpsv2_1")
_SIGLIP = partial(_APACHE, encoder="siglip_so400m_384")
_CHECKER = partial(
    RewardFacts,
    category="safety",
    higher_is_better=False,
    reads_prompt=False,
    encoder="sd_safety_checker",
    licence="CreativeML-OpenRAIL-M",
)

REAL_MODELS: tuple[RewardFacts, ...] = (
    _L14(
        name="laion_aesthetic_v2",
        category="aesthetic",
        summary="rating about 1 to 10 by LAION's improved predictor, which is affine",
        licence="Apache-2.0",
        reads_prompt=False,
        source=_AESTHETIC + "LaionAestheticV2",
    ),
    _L14(
        name="laion_aesthetic_v1_l14",
        category="aesthetic",
        summary="rating about 0 to 10 by LAION's first linear predictor",
        reads_prompt=False,
        source=_AESTHETIC + "LaionAestheticV1L14",
    ),
    _B32(
        name="laion_aesthetic_v1_b32",
        category="aesthetic",
        summary="rating about 0 to 10 by LAION's first linear predictor",
        reads_prompt=False,
        source=_AESTHETIC + "LaionAestheticV1B32",
    ),
    _B16(
        name="laion_aesthetic_v1_b16",
        category="aesthetic",
        summary="rating about 0 to 10 by LAION's first linear predictor",
        reads_prompt=False,
        source=_AESTHETIC + "LaionAestheticV1B16",
    ),
    _SIGLIP(
        name="siglip_head",
        category="aesthetic",
        summary="an affine head of your own on SigLIP (see morl rewards convert)",
        licence="that of your head",
        reads_prompt=False,
        source=_AESTHETIC + "SiglipHead",
    ),
    _L14(
        name="clip_score",
        category="alignment",
        summary="cosine of image and prompt",
        low=-1.0,
        high=1.0,
        source=_ALIGNMENT + "ClipScore",
    ),
    _B32(
        name="clip_score_hessel",
        category="alignment",
        summary='2.5 max(cosine, 0) with the prefix "A photo depicts", as the paper has it',
        low=0.0,
        high=2.5,
        source=_ALIGNMENT + "ClipScoreHessel",
    ),
    _L14(
        name="clip_score_100",
        category="alignment",
        summary="100 x cosine, as torchmetrics has it",
        low=-100.0,
        high=100.0,
        source=_ALIGNMENT + "ClipScore100",
    ),
    _L14(
        name="clip_logit",
        category="alignment",
        summary="exp(logit_scale) x cosine, the logit of CLIP's own training",
        source=_ALIGNMENT + "ClipLogit",
    ),
    _H14(
        name="open_clip_score",
        category="alignment",
        summary="cosine of image and prompt by open_clip's ViT-H/14",
        low=-1.0,
        high=1.0,
        source=_ALIGNMENT + "OpenClipScore",
    ),
    _SIGLIP(
        name="siglip_score",
        category="alignment",
        summary="cosine of image and prompt by SigLIP",
        low=-1.0,
        high=1.0,
        source=_ALIGNMENT + "SiglipScore",
    ),
    _PICK(
        name="pickscore",
        category="preference",
        summary="PickScore v1, about 16 to 26; compare within one prompt only",
        source=_PREFERENCE + "PickScore",
    ),
    _HPS(
        name="hpsv2",
        category="preference",
        summary="HPS v2, a cosine about 0.24 to 0.30; compare within one prompt only",
        low=-1.0,
        high=1.0,
        source=_PREFERENCE + "HpsV2",
    ),
    _HPS21(
        name="hpsv2_1",
        category="preference",
        summary="HPS v2.1, a cosine about 0.20 to 0.34; compare within one prompt only",
        low=-1.0,
        high=1.0,
        source=_PREFERENCE + "HpsV21",
    ),
    _APACHE(
        name="image_reward",
        category="preference",
        summary="ImageReward v1, about -2.5 to 2 with mean 0 and deviation 1 where it was trained",
        encoder="image_reward",
        source=_PREFERENCE + "ImageReward",
    ),
    _MIT(
        name="mps",
        category="preference",
        summary="MPS (overall), about 8 to 16; compare within one prompt only",
        encoder="mps",
        source=_PREFERENCE + "Mps",
    ),
    _L14(
        name="laion_nsfw_l14",
        category="safety",
        summary="logit of LAION's NSFW classifier, cut to 10 either way",
        low=-10.0,
        high=10.0,
        higher_is_better=False,
        reads_prompt=False,
        source=_SAFETY + "LaionNsfwL14",
    ),
    _B32(
        name="laion_nsfw_b32",
        category="safety",
        summary="logit of LAION's NSFW classifier, cut to 10 either way",
        low=-10.0,
        high=10.0,
        higher_is_better=False,
        reads_prompt=False,
        source=_SAFETY + "LaionNsfwB32",
    ),
    _L14(
        name="q16",
        category="safety",
        summary="logit of inappropriate content by two learned prompts, which you supply",
        low=-200.0,
        high=200.0,
        higher_is_better=False,
        licence="not stated",
        reads_prompt=False,
        source=_SAFETY + "Q16",
    ),
    _CHECKER(
        name="sd_safety_margin",
        summary="how far Stable Diffusion's safety checker is from its threshold, above 0: unsafe",
        differentiable=True,
        source="rewards.scorers.safety_checker:SafetyMargin",
    ),
    _CHECKER(
        name="sd_safety_flag",
        summary="1 where Stable Diffusion's safety checker would black the image out",
        low=0.0,
        high=1.0,
        source="rewards.scorers.safety_checker:SafetyFlag",
    ),
    _HPS(
        name="steering_similarity",
        category="safety",
        summary="cosine with the prompt moved towards safety, after SafeDiffusion-R1",
        low=-1.0,
        high=1.0,
        source=_SAFETY + "SteeringSimilarity",
    ),
    _L14(
        name="clip_diversity",
        category="diversity",
        summary="mean cosine distance to the other images of the prompt",
        low=0.0,
        high=2.0,
        granularity="group",
        source=_DIVERSITY + "ClipDiversity",
    ),
    RewardFacts(
        name="lpips_diversity",
        category="diversity",
        summary="mean LPIPS distance to the other images of the prompt (AlexNet, version 0.1)",
        low=0.0,
        differentiable=True,
        granularity="group",
        encoder="alexnet",
        licence="BSD-2-Clause",
        source=_DIVERSITY + "LpipsDiversity",
    ),
    _L14(
        name="vendi_score",
        category="diversity",
        summary="effective number of different images of the prompt",
        low=1.0,
        granularity="group",
        source=_DIVERSITY + "VendiScore",
    ),
)
