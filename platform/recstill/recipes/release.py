"""Promote through gates, roll back, compare, verify, collect garbage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NoReturn

from recstill.api.errors import GateError, RecstillError, RegistryError
from recstill.api.gates import Candidate, GateResult
from recstill.api.measured import numbers_of
from recstill.data.bundle import open_bundle, served_size
from recstill.recipes.gating import ask_gates, teacher_size
from recstill.recipes.judging import primary_metric
from recstill.registry.versions import (
    AliasMovedError,
    aliases_of,
    find_version,
    lineage_of,
    list_versions,
    roll_back,
    set_alias,
)

if TYPE_CHECKING:
    from recstill.api.task import Task
    from recstill.recipes.platform import Platform
    from recstill.registry.models import VersionRow

GATED = "champion"
_ATTEMPTS = 3


class Judgement(NamedTuple):
    """What each gate says of a version, beside the champion (its number; None without one) that it would replace."""

    version: VersionRow
    gates: dict[str, GateResult]
    champion: int | None


def judge(platform: Platform, reference: str) -> Judgement:
    """Ask every gate about a version."""
    with platform.registry.read() as session:
        version = find_version(session, reference)
        champion = aliases_of(session, version.model_name).get(GATED)
        incumbent = None
        if champion is not None and champion != version.number:
            incumbent = numbers_of(find_version(session, f"{version.model_name}:{champion}").measured)
        teacher = next((row for row in lineage_of(session, version) if row.relation == "teacher"), None)
        taught = numbers_of(find_version(session, teacher.value).measured) if teacher is not None else None
    folder = platform.artifacts.get(version.artifact)
    manifest = open_bundle(folder)
    candidate = Candidate(
        name=version.model_name,
        version=version.number,
        metrics=numbers_of(version.measured),
        size_bytes=served_size(folder),
        teacher_size_bytes=teacher_size(platform, teacher),
        primary_metric=primary_metric(manifest.task),
        calibrated_labels=tuple(label.name for label in manifest.task.labels if label.kind == "binary"),
        incumbent=incumbent,
        teacher=taught,
        undefined=version.undefined,
        baselines=version.baselines,
    )
    return Judgement(version, ask_gates(platform, candidate, manifest.gates), champion)


def promote(platform: Platform, reference: str, alias: str, reason: str, dry_run: bool = False) -> dict[str, Any]:
    """Point an alias at a version; `champion` only through every gate. Raise GateError with the gates that failed.

    Whoever moves the champion meanwhile makes the judgement void: it is made again, beside the new champion.
    """
    for _ in range(_ATTEMPTS - 1):
        try:
            return _promote(platform, reference, alias, reason, dry_run)
        except AliasMovedError:
            continue
    return _promote(platform, reference, alias, reason, dry_run)


def _promote(platform: Platform, reference: str, alias: str, reason: str, dry_run: bool) -> dict[str, Any]:
    gates: dict[str, GateResult] = {}
    expected: int | Literal["any"] | None = "any"
    if alias == GATED:
        version, gates, expected = judge(platform, reference)
    else:
        version = _find(platform, reference)
    failed = [f"{gate}: {result.reason}" for gate, result in gates.items() if not result.passed]
    if failed:
        _refuse(platform, version, alias, failed, dry_run)
    before = None
    if not dry_run:
        before = _point(platform, version, alias, reason, expected)
        platform.plugins.tell("after_promotion", name=version.model_name, version=version.number, alias=alias)
    return {
        "version": f"{version.model_name}:{version.number}",
        "alias": alias,
        "before": before,
        "gates": {gate: result.reason for gate, result in gates.items()},
        "dry_run": dry_run,
    }


def _refuse(platform: Platform, version: VersionRow, alias: str, failed: list[str], dry_run: bool) -> NoReturn:
    subject = f"{version.model_name}@{alias}"
    if not dry_run:
        with platform.registry.transaction() as session:
            platform.registry.audit(session, "alias.refused", subject, number=version.number, failed=failed)
    raise GateError(f"{version.model_name}:{version.number}", failed)


def _point(
    platform: Platform, version: VersionRow, alias: str, reason: str, expected: int | Literal["any"] | None
) -> int | None:
    with platform.registry.transaction() as session:
        _need_artifact(platform, version)
        return set_alias(platform.registry, session, version, alias, reason=reason, expected=expected)


def _need_artifact(platform: Platform, version: VersionRow) -> None:
    if not platform.artifacts.has(version.artifact):
        raise RegistryError(
            f"{version.model_name}:{version.number} cannot be promoted: its artifact {version.artifact[:12]} is missing."
        )


def rollback(platform: Platform, name: str) -> tuple[int, int]:
    """Swap champion and previous. Raise RegistryError if the artifact of the previous one is missing."""
    with platform.registry.transaction() as session:
        find_version(session, f"{name}@champion")
        if "previous" in aliases_of(session, name):
            _need_artifact(platform, find_version(session, f"{name}@previous"))
        new, old = roll_back(platform.registry, session, name)
    platform.plugins.tell("after_promotion", name=name, version=new, alias=GATED)
    return new, old


def verify_versions(platform: Platform, reference: str | None) -> list[dict[str, Any]]:
    """Check the artifacts of versions, byte by byte; one row per version with what is wrong, if anything."""
    with platform.registry.read() as session:
        versions = [find_version(session, reference)] if reference else list_versions(session)
    rows = []
    for version in versions:
        try:
            open_bundle(platform.artifacts.get(version.artifact))
            state = "ok"
        except RecstillError as error:
            state = str(error)
        rows.append({"version": f"{version.model_name}:{version.number}", "artifact": version.artifact[:12], "state": state})
    return rows


def describe(platform: Platform, task: Task) -> dict[str, Any]:
    """Return a task for people: labels, features, endpoint."""
    spec = task.spec
    return {
        "name": spec.name,
        "description": spec.description,
        "dataset": spec.dataset,
        "plugin": platform.catalog("tasks").owner(spec.name),
        "labels": ", ".join(f"{label.name} ({label.kind})" for label in spec.labels),
        "features": len(spec.features),
        "groups": ", ".join(spec.groups),
        "endpoint": spec.endpoint.path,
        "recipe": spec.default_recipe,
    }


def _find(platform: Platform, reference: str) -> VersionRow:
    with platform.registry.read() as session:
        return find_version(session, reference)
