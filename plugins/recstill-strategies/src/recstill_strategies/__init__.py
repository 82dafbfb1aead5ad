"""Distillation strategies, each a short class."""

from __future__ import annotations

from typing import TYPE_CHECKING

from recstill.api import hookimpl

if TYPE_CHECKING:
    from collections.abc import Mapping

    from recstill.api import Strategy


@hookimpl
def register_strategies() -> Mapping[str, type[Strategy]]:
    from recstill_strategies.auxiliary import AuxiliaryHead
    from recstill_strategies.lists import (
        CalibratedList,
        CollaborativeDistillation,
        ListKL,
        MarginMSE,
        RankDistil,
        RankingDistillation,
        RelaxedRanking,
        TopKCrossEntropy,
        UnbiasedRanking,
    )
    from recstill_strategies.logit import HardTarget, SoftHardMix, SoftTarget

    return {
        "soft-target": SoftTarget,
        "hard-target": HardTarget,
        "soft-hard-mix": SoftHardMix,
        "auxiliary-head": AuxiliaryHead,
        "list-kl": ListKL,
        "topk-cross-entropy": TopKCrossEntropy,
        "relaxed-ranking": RelaxedRanking,
        "ranking-distillation": RankingDistillation,
        "collaborative": CollaborativeDistillation,
        "rank-distil": RankDistil,
        "margin-mse": MarginMSE,
        "calibrated-list": CalibratedList,
        "unbiased-ranking": UnbiasedRanking,
    }
