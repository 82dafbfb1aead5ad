"""The quantise stage: a student trains on with its weights rounded to eight bits, and keeps them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from recstill.embeddings.rounding import keep_rounded, round_linears
from recstill.embeddings.tables import TrainingTables, load_portable_state, portable_state
from recstill.recipes.training import build_model, keep, load_trained, make_objective, run_fit, training_rows

if TYPE_CHECKING:
    from recstill.distillation.signals import SignalSource
    from recstill.recipes.run import Run


def quantise(run: Run, seed: int, source: SignalSource) -> dict[str, Any]:
    """Train the student of a seed on, with the same strategies, seeing its own rounding; store int8 tables.

    Dense weights lie on the eight-bit grid too, but are stored as float32: they are a small part of the bytes. The same
    rounding without training is judged beside it (`rounded_only`), so the report can say what the stage brought.
    """
    config = run.recipe.quantise
    assert config is not None
    name, before = f"quantised-{seed}", run.names_of(seed)[-2]
    options = run.options_of(before, "student")
    plain = load_trained(run, before, "student")
    keep_rounded(round_linears(plain))
    rounded_only = keep(run, name, "student", plain, int8=True)["metrics"]
    model = build_model(run, "student", seed, config.recovery, options)
    load_portable_state(model, portable_state(load_trained(run, before, "student")))
    layers = round_linears(model)
    tables = [module for module in model.modules() if isinstance(module, TrainingTables)]
    for module in tables:
        module.rounds = True
    rows = training_rows(run, "student", source)
    history = run_fit(run, name, "student", model, rows, config.recovery, seed, make_objective(run, model, rows, source))
    keep_rounded(layers)
    for module in tables:
        module.rounds = False
    found = {"history": history, **keep(run, name, "student", model, int8=True)}
    return {**found, "options": dict(options), "rounded_only": rounded_only}
