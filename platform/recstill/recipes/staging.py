"""One stage of a run: its result is in the run's folder, or in the journal, or is made now."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from recstill.api.errors import IntegrityError, RegistryError
from recstill.data.files import check_sha256, read_json, sha256_of, write_json
from recstill.pipeline.inputs import Inputs, in_short

if TYPE_CHECKING:
    from pathlib import Path

    from recstill.recipes.run import Run


def _always(_result: Mapping[str, Any]) -> bool:
    return True


@dataclass(frozen=True)
class Stage:
    """A stage as the runner sees it.

    products: the files that the work leaves, {name in the journal: path in the run}. is_shared: other runs may take the result;
    is_there: whether what a result of the journal speaks about still exists.
    """

    name: str
    inputs: Inputs
    work: Callable[[], dict[str, Any]]
    products: Mapping[str, Path] = field(default_factory=dict)
    is_shared: bool = True
    is_there: Callable[[Mapping[str, Any]], bool] = _always


def do_stage(run: Run, stage: Stage) -> dict[str, Any]:
    """Return the stage's result. Raise RegistryError if an earlier attempt finished it with other inputs."""
    run.keys[stage.name] = stage.inputs.key
    if run.is_done(stage.name):
        _check_same(run, stage)
        if _is_whole(run, stage):
            return run.result(stage.name)
    run.platform.plugins.tell("before_stage", run_id=run.id, stage=stage.name)
    started = time.monotonic()
    with run.progress.stage(stage.name):
        if not _take(run, stage):
            _make(run, stage)
    run.platform.plugins.tell("after_stage", run_id=run.id, stage=stage.name, seconds=time.monotonic() - started)
    return run.result(stage.name)


def _is_whole(run: Run, stage: Stage) -> bool:
    """Say whether the files that a finished stage left are as it left them; forget the stage otherwise."""
    try:
        left = run.result(stage.name).get("files", {})
        for name, digest in left.items():
            product, _, inner = name.partition("/")
            check_sha256(stage.products[product] / inner, digest, "")
    except (IntegrityError, KeyError) as error:
        run.progress.say(f"{stage.name}: what it left in this run was damaged and is made again: {error}")
        run.state(stage.name).unlink(missing_ok=True)
        return False
    return True


def _digests(products: Mapping[str, Path]) -> dict[str, str]:
    """Return {product, or product/file: sha256} of the files that are there."""
    found = {}
    for name, path in products.items():
        for inner in sorted(path.iterdir()) if path.is_dir() else [path]:
            if inner.is_file():
                found[name if inner == path else f"{name}/{inner.name}"] = sha256_of(inner)
    return found


def reasons_of(folder: Path) -> dict[str, str]:
    """Return {stage: why its result was reused or made} of a run's folder, in the order in which they were done."""
    paths = sorted((folder / "inputs").glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
    return {path.stem: str(read_json(path)["reason"]) for path in paths}


def _take(run: Run, stage: Stage) -> bool:
    """Take the result from the journal; say whether it was there."""
    if not stage.is_shared:
        return False
    kind = _kind(run, stage)
    try:
        record = run.journal.find(kind, stage.inputs)
    except IntegrityError as error:
        run.progress.say(f"{stage.name}: the stored result was damaged and is made again: {error}")
        run.journal.forget(kind, stage.inputs)
        return False
    if record is None:
        return False
    if not stage.is_there(record.result):
        run.journal.forget(kind, stage.inputs)
        return False
    record.restore(stage.products)
    reason = f"as in run {record.run}"
    _write_inputs(run, stage, reason)
    write_json(run.state(stage.name), {**record.result, "reused_from": record.run, "files": dict(record.files)})
    run.progress.say(f"{stage.name} {reason}")
    return True


def _make(run: Run, stage: Stage) -> None:
    _write_inputs(run, stage, _why(run, stage))
    run.working_on, run.earlier_cpu_seconds = stage.inputs.key, 0.0
    started, cpu = time.monotonic(), time.process_time()
    try:
        found = stage.work()
    finally:
        run.working_on = ""
    cpu_seconds = time.process_time() - cpu + run.earlier_cpu_seconds
    facts = {"seconds": time.monotonic() - started, "cpu_seconds": cpu_seconds, **found}
    write_json(run.state(stage.name), {**facts, "files": _digests(stage.products)})
    if stage.is_shared:
        run.journal.keep(_kind(run, stage), stage.inputs, run.id, run.result(stage.name), stage.products)


def _why(run: Run, stage: Stage) -> str:
    near = run.journal.nearest(_kind(run, stage), stage.inputs) if stage.is_shared else None
    if near is None:
        return "made"
    reason = f"made anew, {in_short(near[1])} since run {near[0]}"
    run.progress.say(f"{stage.name}: {reason}")
    return reason


def _check_same(run: Run, stage: Stage) -> None:
    path = run.folder / "inputs" / f"{stage.name}.json"
    way_out = f"Start it again: `recstill run {run.name}`; what nothing of this decided is taken from earlier runs."
    if not path.is_file():
        raise RegistryError(
            f"Run {run.id} was begun by an earlier version of recstill, which did not keep what decided its results. {way_out}"
        )
    words = stage.inputs.changes_since(Inputs.from_json(read_json(path)))
    if words:
        raise RegistryError(f"Run {run.id} cannot go on: since it did {stage.name}, {in_short(words)}. {way_out}")


def _write_inputs(run: Run, stage: Stage, reason: str) -> None:
    write_json(run.folder / "inputs" / f"{stage.name}.json", {**stage.inputs.to_json(), "reason": reason})


def _kind(run: Run, stage: Stage) -> str:
    return f"{run.task.spec.name}/{stage.name}"
