"""Distillation strategies, each a short class, one module per family."""

from __future__ import annotations

from typing import TYPE_CHECKING

from recstill.api import hookimpl

if TYPE_CHECKING:
    from collections.abc import Mapping

    from recstill.api import Strategy


@hookimpl
def register_strategies() -> Mapping[str, type[Strategy]]:
    from recstill_strategies import (
        attention,
        auxiliary,
        committee,
        constraints,
        contrastive,
        feature,
        lists,
        logit,
        multitask,
        perturbed,
        relation,
    )

    return {
        "soft-target": logit.SoftTarget,
        "hard-target": logit.HardTarget,
        "soft-hard-mix": logit.SoftHardMix,
        "cross-debias": logit.CrossDebias,
        "logit-regression": logit.LogitRegression,
        "dkd": logit.DecoupledKD,
        "dist": logit.Dist,
        "auxiliary-head": auxiliary.AuxiliaryHead,
        "decoupled-towers": auxiliary.DecoupledTowers,
        "student-adapter": auxiliary.StudentAdapter,
        "hint": feature.Hint,
        "vid": feature.VariationalInformation,
        "distillation-experts": feature.DistillationExperts,
        "multi-level": feature.MultiLevel,
        "attention-transfer": attention.AttentionTransfer,
        "info-nce": contrastive.InfoNCE,
        "crd": contrastive.ContrastiveRepresentation,
        "rkd": relation.RelationalKD,
        "pkt": relation.ProbabilisticTransfer,
        "similarity-preserving": relation.SimilarityPreserving,
        "ftd": relation.FullTopology,
        "htd": relation.HierarchicalTopology,
        "list-kl": lists.ListKL,
        "topk-cross-entropy": lists.TopKCrossEntropy,
        "rrd": lists.RelaxedRanking,
        "ranking-distillation": lists.RankingDistillation,
        "collaborative": lists.CollaborativeDistillation,
        "rank-distil": lists.RankDistil,
        "margin-mse": lists.MarginMSE,
        "clid": lists.CalibratedList,
        "unkd": lists.UnbiasedRanking,
        "multi-task": multitask.MultiTask,
        "cross-distil": multitask.CrossDistil,
        "committee": committee.CommitteeTarget,
        "trajectory": committee.Trajectory,
        "continual": committee.Continual,
        "rocket": committee.Rocket,
        "uncertainty-weighted": perturbed.UncertaintyWeighted,
        "feature-dropout": perturbed.FeatureDropout,
        "sequence-augment": perturbed.SequenceAugment,
        "mix-up": perturbed.MixUp,
        "adversarial": perturbed.Adversarial,
        "posterior-regularisation": constraints.PosteriorRegularisation,
        "fairness": constraints.Fairness,
    }
