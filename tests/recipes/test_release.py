"""Promotion while others promote."""

from __future__ import annotations

import pytest

import recstill.recipes.release as release
from recstill.api.errors import GateError, RegistryError
from recstill.recipes.platform import Platform
from recstill.recipes.release import Judgement, promote, rollback
from recstill.registry.models import VersionRow
from recstill.registry.runs import add_run
from recstill.registry.versions import (
    AliasMovedError,
    NewVersion,
    add_version,
    aliases_of,
    feature_set_of,
    find_version,
    lineage_of,
    set_alias,
)
from recstill.settings import Settings


def like_the_first(platform: Platform, run_id: str, auc: float) -> VersionRow:
    """Register a version with the files of ads:1 and another AUC."""
    with platform.registry.transaction() as session:
        first = find_version(session, "ads:1")
        add_run(session, run_id, "ads", "ads", {})
        lineage = [(row.relation, row.value, row.details) for row in lineage_of(session, first)]
        metrics = {**first.measured, "purchase.auc": auc}
        return add_version(platform.registry, session, NewVersion(
            "ads", "ads", run_id, first.artifact, first.size_bytes, first.num_parameters, feature_set_of(session, first),
            metrics, lineage,
        ))  # fmt: skip


def move(platform: Platform, number: int) -> None:
    with platform.registry.transaction() as session:
        set_alias(platform.registry, session, find_version(session, f"ads:{number}"), "champion", reason="somebody else")


def test_a_version_is_judged_beside_the_champion_of_the_moment_it_moves(
    home_copy: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform = Platform.open(home_copy)
    worse, better = like_the_first(platform, "worse", 0.8), like_the_first(platform, "better", 0.95)
    move(platform, 1)
    judge, seen = release.judge, []

    def judge_while_another_promotes(platform: Platform, reference: str) -> Judgement:
        found = judge(platform, reference)
        if not seen:
            move(platform, better.number)
        seen.append(found.champion)
        return found

    monkeypatch.setattr(release, "judge", judge_while_another_promotes)
    with pytest.raises(GateError, match="quality"):
        promote(platform, f"ads:{worse.number}", "champion", "")
    assert seen == [1, better.number]  # passed beside the first, judged again beside the better one
    with platform.registry.read() as session:
        assert aliases_of(session, "ads")["champion"] == better.number


def test_a_champion_that_keeps_moving_is_not_overwritten(home_copy: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    platform = Platform.open(home_copy)
    others = [1, like_the_first(platform, "other", 0.5).number]
    best = like_the_first(platform, "best", 0.99)
    judge = release.judge

    def judge_while_others_promote(platform: Platform, reference: str) -> Judgement:
        found = judge(platform, reference)
        others.reverse()
        move(platform, others[0])
        return found

    monkeypatch.setattr(release, "judge", judge_while_others_promote)
    with pytest.raises(AliasMovedError, match="was moved meanwhile.*call again"):
        promote(platform, f"ads:{best.number}", "champion", "")
    monkeypatch.undo()
    assert promote(platform, f"ads:{best.number}", "champion", "")["before"] == others[0]


def test_no_champion_comes_by_the_back_door(home_copy: Settings) -> None:
    platform = Platform.open(home_copy)
    worse = like_the_first(platform, "worse", 0.1)
    move(platform, 1)
    with pytest.raises(RegistryError, match="not `latest`, `previous`"):  # a rollback would make it champion, ungated
        promote(platform, f"ads:{worse.number}", "previous", "")
    with pytest.raises(RegistryError, match="no previous champion"):
        rollback(platform, "ads")


def test_a_rollback_to_what_is_gone_is_refused(home_copy: Settings) -> None:
    platform = Platform.open(home_copy)
    other = like_the_first(platform, "other", 0.9)
    move(platform, 1)
    move(platform, other.number)
    platform.artifacts.delete(f"{other.artifact[:2]}/{other.artifact}")
    with pytest.raises(RegistryError, match=r"ads:1 cannot be promoted: its artifact \w+ is missing"):
        rollback(platform, "ads")
    with platform.registry.read() as session:
        assert aliases_of(session, "ads") == {"champion": other.number, "previous": 1}
