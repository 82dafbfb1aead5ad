"""The prune stage: a distilled student loses units and trains on with its teacher to recover."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from recstill.embeddings.tables import load_portable_state, portable_state
from recstill.recipes.training import build_model, keep, load_trained, make_objective, run_fit, training_rows

if TYPE_CHECKING:
    from recstill.distillation.signals import SignalSource
    from recstill.recipes.run import Run


def prune(run: Run, seed: int, source: SignalSource) -> dict[str, Any]:
    """Prune the distilled student of a seed and let it recover; `options` build the narrower model.

    The weights right after the cut are judged too (`before_recovery`), so the report can say what recovery brought.
    """
    config = run.recipe.prune
    assert config is not None
    name = f"pruned-{seed}"
    cut: Any = load_trained(run, f"distilled-{seed}", "student")
    options = {**run.recipe.student.options, **cut.prune(config.share)}
    model = build_model(run, "student", seed, config.recovery, options)
    load_portable_state(model, portable_state(cut))
    before = keep(run, name, "student", model)["metrics"]
    rows = training_rows(run, "student", source)
    objective = make_objective(run, model, rows, source)
    history = run_fit(run, name, "student", model, rows, config.recovery, seed, objective)
    return {"history": history, **keep(run, name, "student", model), "options": options, "before_recovery": before}
