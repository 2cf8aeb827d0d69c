"""Facts of the rewards that read what an image shows: language models, detectors, recognisers."""

from __future__ import annotations

from functools import partial

from rewards.facts import RewardFacts

_JUDGE = partial(RewardFacts, low=0.0, high=1.0, licence="that of your judge", needs="judge")
_SHIELDGEMMA = partial(
    RewardFacts,
    category="safety",
    low=0.0,
    high=1.0,
    higher_is_better=False,
    reads_prompt=False,
    encoder="shieldgemma_2_4b",
    licence="Gemma",
)
_DETECTOR = partial(
    RewardFacts,
    category="alignment",
    low=0.0,
    high=1.0,
    record="include",
    licence="that of your detector",
    needs="detector",
)

JUDGES: tuple[RewardFacts, ...] = (
    _JUDGE(
        name="vlm_judge",
        category="alignment",
        summary="how well the image shows the prompt, by a judge behind an HTTP endpoint",
        source="rewards.scorers.judge:VlmJudge",
    ),
    _JUDGE(
        name="vlm_judge_aesthetic",
        category="aesthetic",
        summary="how good a picture it is, by a judge behind an HTTP endpoint",
        source="rewards.scorers.judge:VlmJudgeAesthetic",
    ),
    _JUDGE(
        name="vlm_judge_unsafe",
        category="safety",
        summary="how unsuitable it is for everybody, by a judge behind an HTTP endpoint",
        higher_is_better=False,
        source="rewards.scorers.judge:VlmJudgeUnsafe",
    ),
    RewardFacts(
        name="vqa_score",
        category="alignment",
        summary="P(yes) of a vision-language model asked whether the image shows the prompt",
        low=0.0,
        high=1.0,
        encoder="vlm",
        source="rewards.scorers.vlm:VqaScore",
    ),
    _SHIELDGEMMA(
        name="shieldgemma_2_dangerous",
        summary="ShieldGemma 2: probability that the policy on dangerous content is violated",
        source="rewards.scorers.shieldgemma:ShieldGemmaDangerous",
    ),
    _SHIELDGEMMA(
        name="shieldgemma_2_sexual",
        summary="ShieldGemma 2: probability that the policy on sexual content is violated",
        source="rewards.scorers.shieldgemma:ShieldGemmaSexual",
    ),
    _SHIELDGEMMA(
        name="shieldgemma_2_violence",
        summary="ShieldGemma 2: probability that the policy on violence is violated",
        source="rewards.scorers.shieldgemma:ShieldGemmaViolence",
    ),
    RewardFacts(
        name="ocr_accuracy",
        category="alignment",
        summary='share of the text in "double quotes" of the prompt that a recogniser reads',
        low=0.0,
        high=1.0,
        licence="that of your recogniser",
        needs="recogniser",
        source="rewards.scorers.ocr:OcrAccuracy",
    ),
    _DETECTOR(
        name="geneval",
        summary="1 where all that the GenEval record asks for is there, else 0",
        source="rewards.scorers.geneval:GenEval",
    ),
    _DETECTOR(
        name="geneval_share",
        summary="share of the GenEval record's requirements that are met",
        source="rewards.scorers.geneval:GenEvalShare",
    ),
)
