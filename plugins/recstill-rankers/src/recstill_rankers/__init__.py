"""Deep rankers: large teachers and the small students that learn from them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from recstill.api import hookimpl

if TYPE_CHECKING:
    from collections.abc import Mapping

    from recstill.api import Model


@hookimpl
def register_teachers() -> Mapping[str, type[Model]]:
    from recstill_rankers import autoint, dcn, din, dlrm, multitask, two_tower

    return {
        "dcnv2": dcn.DCNv2,
        "dlrm": dlrm.DLRM,
        "autoint": autoint.AutoInt,
        "din": din.DIN,
        "mmoe": multitask.MMoE,
        "ple": multitask.PLE,
        "esmm": multitask.ESMM,
        "two-tower": two_tower.TwoTower,
    }


@hookimpl
def register_students() -> Mapping[str, type[Model]]:
    from recstill_rankers import autoint, dcn, din, dlrm, mlp, multitask, two_tower

    return {
        "small-mlp": mlp.SmallMLP,
        "small-dcn": dcn.SmallDCN,
        "small-dlrm": dlrm.SmallDLRM,
        "small-autoint": autoint.SmallAutoInt,
        "small-din": din.SmallDIN,
        "shared-bottom": multitask.SharedBottom,
        "mmoe": multitask.MMoE,
        "ple": multitask.PLE,
        "esmm": multitask.ESMM,
        "two-tower": two_tower.TwoTower,
    }
