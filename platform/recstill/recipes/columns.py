"""Teachers of raw columns in a run: fitted, stored as plain files, asked for their answers."""

from __future__ import annotations

import hashlib
import importlib.metadata
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import load_file, save_file

from recstill.api.columns import ColumnInputs
from recstill.api.errors import BundleError, ConfigError, IntegrityError
from recstill.data.bundle import CARD, MANIFEST, write_manifest
from recstill.data.files import new_folder, sha256_of
from recstill.evaluation.metrics import Floats, predictions_of
from recstill.recipes.checking import option_problems
from recstill.recipes.judging import row_metrics

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Mapping, Sequence

    from recstill.api.columns import ColumnPredictor, ColumnTeacher
    from recstill.api.measured import Measured
    from recstill.data.columns import Values
    from recstill.recipes.run import Run

CHUNK = 4_096
_ANSWERS = "answers.safetensors"


def reads_columns(factory: Any) -> bool:
    """Say whether a class of the catalog is a teacher of raw columns."""
    return getattr(factory, "reads", "") == "columns"


def build_columns(run: Run, role: str) -> ColumnTeacher:
    """Return a fresh teacher of the recipe's options. Raise ConfigError if it refuses them."""
    part = run.recipe.part(role)
    try:
        built: ColumnTeacher = run.factory(role)(ColumnInputs(run.rows.features(role), run.task.spec.labels), **part.options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"Recipe {run.name!r}", [f"{role}.options: {error}"]) from error
    return built


def planned_columns(run: Run, role: str) -> Mapping[str, int]:
    """Return the hidden vectors that a teacher will give, by width. Raise ConfigError for what its options name and cannot be.

    A teacher from the registry is opened: the files that it was made of need not be here any more.
    """
    teacher = build_columns(run, role)
    if run.recipe.all_teachers[role].version:
        from recstill.recipes.registered import fetch_teacher

        if not folder_of(run, role).is_dir():
            fetch_teacher(run, role)
        return open_columns(run, role).hidden
    try:
        getattr(teacher, "check", lambda: None)()
    except ValueError as error:
        raise ConfigError(f"Recipe {run.name!r}", [f"{role}.options: {error}"]) from error
    widths: Mapping[str, int] = getattr(teacher, "hidden", {})
    return widths


def folder_of(run: Run, name: str) -> Path:
    """Where the files of a fitted teacher lie."""
    return run.weights(name).with_suffix("")


def train_columns(run: Run, role: str, seed: int) -> dict[str, Any]:
    """Fit a teacher of raw columns, store its files, and return its test metrics."""
    teacher, work = build_columns(run, role), run.checkpoints / f"{role}-columns"
    work.mkdir(parents=True, exist_ok=True)
    train, valid = run.rows.column_rows(role, "train"), run.rows.column_rows(role, "valid")
    share = run.recipe.part(role).label_share
    if share < 1:  # the same rows as those whose labels a student of this share sees
        labelled = np.random.default_rng(0).random(len(train)) < share
        train = replace(train, labels={n: np.where(labelled, v, np.float32(np.nan)) for n, v in train.labels.items()})
    try:
        teacher.fit(train, valid, work, seed, lambda text: run.progress.say(f"{role}: {text}"))
    except ValueError as error:
        raise ConfigError(f"Teacher {run.recipe.part(role).name!r}", [str(error)]) from error
    target = folder_of(run, role)
    shutil.rmtree(target, ignore_errors=True)
    with new_folder(target) as folder:
        for path in sorted(work.iterdir()):
            if path.is_file() and not path.name.startswith("."):
                shutil.copyfile(path, folder / path.name)
    predictor = open_columns(run, role)
    return {"history": [], "metrics": test_columns(run, role, predictor), "num_parameters": predictor.num_parameters}


def open_columns(run: Run, role: str) -> ColumnPredictor:
    """Return the predictor of a fitted teacher. Raise BundleError if its files are not what it says."""
    try:
        return build_columns(run, role).open(folder_of(run, role))
    except (OSError, ValueError) as error:
        raise BundleError(f"The {role} in {folder_of(run, role)} cannot be opened: {error}") from error


def answers(
    run: Run, role: str, predictor: ColumnPredictor, rows: Values, hidden: Sequence[str] = (), done: Container[int] = ()
) -> Iterator[tuple[int, Values, dict[str, Floats]]]:
    """Ask a teacher about rows of the snapshot, chunk by chunk: (number, rows, answers) of each that is not done.

    Raise ConfigError for an answer of the wrong shape or with NaN in it.
    """
    columns = run.rows.raw(role, rows)  # once: a snapshot is read whole, whichever rows are wanted
    for number, start in enumerate(range(0, len(rows), CHUNK)):
        if number not in done:
            some = slice(start, start + CHUNK)
            try:
                said = predictor({name: values[some] for name, values in columns.items()}, hidden)
            except ValueError as error:
                raise ConfigError(f"Teacher {run.recipe.part(role).name!r}", [str(error)]) from error
            yield number, rows[some], _checked(run, role, rows[some], said)


def _checked(run: Run, role: str, rows: Values, said: Mapping[str, Floats]) -> dict[str, Floats]:
    found = {name: np.asarray(values) for name, values in said.items()}
    name = run.recipe.part(role).name
    for label in run.task.spec.labels:
        shape = (len(rows), label.num_classes) if label.kind == "multiclass" else (len(rows),)
        answer = found.get(f"logit_{label.name}")
        if answer is None or answer.shape != shape:
            got = "none" if answer is None else f"shape {answer.shape}"
            raise ConfigError(f"Teacher {name!r}", [f"must answer logit_{label.name} of shape {shape}, got {got}"])
        if not np.isfinite(answer).all():
            wrong = int(rows[np.flatnonzero(~np.isfinite(answer.reshape(len(rows), -1)).all(1))[0]])
            raise ConfigError(f"Teacher {name!r}", [f"logit_{label.name} is not a number for row {wrong}"])
    return found


def test_columns(run: Run, role: str, predictor: ColumnPredictor) -> dict[str, Measured]:
    """Judge a teacher on the test split."""
    return row_metrics(run.rows, test_predictions(run, role, predictor))


def test_predictions(run: Run, role: str, predictor: ColumnPredictor) -> dict[str, Floats]:
    """Return what a teacher says of the test rows, on the labels' own scale.

    It is asked once by all runs that share its files and the rows, since a transformer is slow.
    """
    from recstill.recipes.stage_inputs import answers_inputs

    files = {path.name: sha256_of(path) for path in sorted(folder_of(run, role).iterdir())}
    inputs, kind = answers_inputs(run, role, files), f"{run.task.spec.name}/{_ANSWERS}"
    try:
        record = run.journal.find(kind, inputs)
    except IntegrityError as error:
        run.progress.say(f"{role}: its stored answers were damaged and are asked for again: {error}")
        run.journal.forget(kind, inputs)
        record = None
    if record is not None:
        return dict(load_file(record.folder / _ANSWERS))
    found = _asked(run, role, predictor)
    with tempfile.TemporaryDirectory(dir=run.folder, prefix=".answers.") as temporary:
        path = Path(temporary) / _ANSWERS
        save_file({name: np.ascontiguousarray(values) for name, values in found.items()}, path)
        run.journal.keep(kind, inputs, run.id, {}, {_ANSWERS: path})
    return found


def _asked(run: Run, role: str, predictor: ColumnPredictor) -> dict[str, Floats]:
    parts = [said for _, _, said in answers(run, role, predictor, run.snapshot.rows_of("test"))]
    return {
        label.name: predictions_of(label, np.concatenate([part[f"logit_{label.name}"] for part in parts]))
        for label in run.task.spec.labels
    }


def latency_of(run: Run, role: str, num_rows: int = 200) -> float:
    """Return the milliseconds that a teacher takes for so many test rows, as they lie in the snapshot: the median of five."""
    predictor, rows = open_columns(run, role), run.snapshot.rows_of("test")[:num_rows]
    columns, seconds = run.rows.raw(role, rows), []
    for _ in range(5):
        started = time.perf_counter()
        predictor(columns)
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds) * 1000 * num_rows / len(rows))


def bundle_columns(run: Run, role: str, num_parameters: int, card: str) -> Path:
    """Write the bundle of a fitted teacher: its own files under a manifest. It can teach, and is not served."""
    source, part, features = folder_of(run, role), run.recipe.part(role), run.features[role]
    digests = "".join(sha256_of(path) for path in sorted(source.iterdir()))
    distribution, version, _ = run.platform.plugin_of("teachers", part.name)
    target = run.folder / "bundles" / f"{role}-{hashlib.sha256(digests.encode()).hexdigest()[:12]}"
    with new_folder(target) as folder:
        for path in source.iterdir():
            shutil.copyfile(path, folder / path.name)
        (folder / CARD).write_text(card)
        write_manifest(folder, {
            "task": run.task.spec, "role": role, "model": part.name, "plugin": f"{distribution}=={version}",
            "options": part.options, "run": run.id, "seed": run.recipe.seeds[0], "snapshot": run.snapshot.id,
            "feature_service": features.service, "fingerprint": features.fingerprint, "features": features.to_json(),
            "sides": run.rows.sides(role), "key_types": run.rows.key_types(role), "num_parameters": num_parameters,
            "packages": {"recstill": importlib.metadata.version("recstill")},
        })  # fmt: skip
    return target


def unpack_columns(run: Run, role: str, bundle: Path) -> None:
    """Lay the files of a registered teacher out where `open_columns` looks."""
    target = folder_of(run, role)
    shutil.rmtree(target, ignore_errors=True)
    with new_folder(target) as folder:
        for path in bundle.iterdir():
            if path.name not in (MANIFEST, CARD):
                shutil.copyfile(path, folder / path.name)


def check_column_options(factory: Any, options: object, place: str, features: Any, labels: Any) -> list[str]:
    """Build the teacher once: what its constructor refuses is a mistake of the recipe."""
    if (problems := option_problems(factory, options, place, skip=1)) or not isinstance(options, dict):
        return problems
    try:
        factory(ColumnInputs(tuple(features), tuple(labels)), **options)
    except (TypeError, ValueError) as error:
        return [f"{place}: {error}"]
    return []
