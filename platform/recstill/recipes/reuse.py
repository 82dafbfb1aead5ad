"""Students trained once: runs that share rows, student, budget, code and what teaches share the result too."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import recstill
from recstill.data.files import check_sha256, new_folder, read_json, sha256_of, write_json
from recstill.plugins.manager import digest_of
from recstill.recipes.training import train

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from recstill.distillation.signals import SignalSource
    from recstill.recipes.run import Run

# What decides how a student is trained. The other keys of a recipe may differ between runs that share it.
_DISTIL_KEYS = {"min_coverage", "max_age_days", "fine_tune"}


def train_once(
    run: Run, name: str, seed: int, teachers: Sequence[str] = (), source: Callable[[], SignalSource] | None = None
) -> dict[str, Any]:
    """Train a student, or take what an earlier run found under the same conditions.

    teachers: the versions whose signals `source` gives; none for the student alone. `reused_from` names the run that
    trained it; `cpu_seconds` are those that it took.
    """
    folder = run.platform.settings.folder("cache", "students") / _key(run, seed, teachers)
    if (folder / "found.json").is_file():
        found = dict(read_json(folder / "found.json"))
        check_sha256(folder / "weights.safetensors", found.pop("sha256"), f"Delete {folder} and run again.")
        shutil.copyfile(folder / "weights.safetensors", run.weights(name))
        run.progress.say(f"{name} as in run {found['reused_from']}: the same rows, student, budget, code and teacher")
        return found
    started = time.process_time()
    found = train(run, name, "student", seed, source() if source is not None else None)
    found["cpu_seconds"] = time.process_time() - started
    with new_folder(folder) as temporary:
        shutil.copyfile(run.weights(name), temporary / "weights.safetensors")
        digest = sha256_of(temporary / "weights.safetensors")
        write_json(temporary / "found.json", {**found, "reused_from": run.id, "sha256": digest})
    return found


def _key(run: Run, seed: int, teachers: Sequence[str]) -> str:
    recipe, platform = run.recipe, run.platform
    fine_tune = recipe.distil.fine_tune
    facts: dict[str, Any] = {
        "snapshot": run.snapshot.meta["sha256"],
        "student": recipe.student.model_dump(mode="json", exclude={"register_as"}),
        "features": {role: features.fingerprint for role, features in run.features.items()},  # the transform is fitted on all
        "fine_tune": fine_tune.model_dump(mode="json") if fine_tune else None,
        "rules": recipe.model_dump(mode="json")["rules"],
        "seed": seed,
        "core": digest_of(Path(recstill.__file__).parent),
        "threads": recipe.threads,
        "plugins": [platform.plugin_of("students", recipe.student.name)],
    }
    if teachers:
        facts["teachers"] = list(teachers)
        facts["distil"] = recipe.distil.model_dump(mode="json", exclude=_DISTIL_KEYS)
        facts["plugins"] += [platform.plugin_of("strategies", part.name) for part in recipe.distil.strategies]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:20]
