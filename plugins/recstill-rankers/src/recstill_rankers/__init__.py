"""Deep rankers: large teachers and the small students that learn from them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from recstill.api import hookimpl

if TYPE_CHECKING:
    from collections.abc import Mapping

    from recstill.api import Model


@hookimpl
def register_teachers() -> Mapping[str, type[Model]]:
    from recstill_rankers.dcn import DCNv2
    from recstill_rankers.dlrm import DLRM
    from recstill_rankers.two_tower import TwoTower

    return {"dcnv2": DCNv2, "dlrm": DLRM, "two-tower": TwoTower}


@hookimpl
def register_students() -> Mapping[str, type[Model]]:
    from recstill_rankers.dcn import SmallDCN
    from recstill_rankers.mlp import SmallMLP
    from recstill_rankers.two_tower import TwoTower

    return {"small-mlp": SmallMLP, "small-dcn": SmallDCN, "two-tower": TwoTower}
