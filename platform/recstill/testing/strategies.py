"""What a distillation strategy must hold."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from recstill.api.batch import Batch, Output, Signals
from recstill.api.strategy import StrategyContext
from recstill.testing.results import Check, check
from recstill.testing.samples import LABELS, sample_batch, sample_signals

if TYPE_CHECKING:
    from collections.abc import Mapping

_WIDTH = 8
_CALIBRATIONS = ("safe", "as-teacher", "unsafe")


def check_strategy(factory: Any, *, name: str = "", **options: Any) -> list[Check]:
    """Check a strategy class: declarations, a scalar mean loss, gradients on the student and never on the teacher, masks,
    extreme logits, and the fixed point "a student equal to its teacher feels no pull" where it declares one."""
    subject = name or f"strategy {factory.__name__}"
    declared = check(subject, "declares signals, calibration, reference, fixed_point", lambda: _declared(factory))
    if not declared.passed:
        return [declared]

    def attach() -> Any:
        torch.manual_seed(0)
        return factory(**options).attach(StrategyContext(LABELS, {"backbone": _WIDTH}, {"backbone": _WIDTH}))

    rules: dict[str, Any] = {
        "gives a finite scalar": lambda: _scalar(attach()),
        "gradients reach the student and never the teacher": lambda: _gradients(attach()),
        "is a mean over rows": lambda: _is_mean(attach()),
        "masked rows contribute nothing": lambda: _masked(attach()),
        "same input, same loss": lambda: _deterministic(attach),
        "finite on logits of 1e4, in float32 and bfloat16": lambda: _extreme(attach()),
    }
    if factory.fixed_point:
        rules["a student equal to its teacher feels no pull"] = lambda: _fixed_point(attach())
    if factory.calibration == "safe":
        rules["never touches the served logits"] = lambda: _safe(attach())
    return [declared, *(check(subject, rule, work) for rule, work in rules.items())]


def _declared(factory: Any) -> str | None:
    missing = [n for n in ("signals", "calibration", "reference", "fixed_point") if not hasattr(factory, n)]
    if missing:
        return f"lacks {', '.join(missing)}"
    if factory.calibration not in _CALIBRATIONS:
        return f"calibration {factory.calibration!r} is none of {_CALIBRATIONS}"
    return None if factory.signals else "signals is empty: a strategy learns from something"


def _student(batch: Batch, scale: float = 1.0, dtype: torch.dtype = torch.float32) -> Output:
    signals = sample_signals(len(batch.dense), seed=2)
    logits = {n: (v * scale).to(dtype).requires_grad_() for n, v in signals.logits.items()}
    hidden = torch.randn(len(batch.dense), _WIDTH, generator=torch.Generator().manual_seed(3))
    return Output(logits, {"backbone": hidden.to(dtype).requires_grad_()})


def _teacher(num_rows: int) -> Signals:
    signals = sample_signals(num_rows)
    hidden = torch.randn(num_rows, _WIDTH, generator=torch.Generator().manual_seed(4))
    return replace(signals, hidden={"backbone": hidden})


def _scalar(loss: Any) -> str | None:
    batch = sample_batch()
    value = loss(_student(batch), _teacher(64), batch)
    return None if value.shape == () and torch.isfinite(value) else f"got {value}"


def _gradients(loss: Any) -> str | None:
    batch, student, teacher = sample_batch(), _student(sample_batch()), _teacher(64)
    watched = {n: v.clone().requires_grad_() for n, v in teacher.logits.items()}
    hidden = {n: v.clone().requires_grad_() for n, v in teacher.hidden.items()}
    loss(student, Signals(watched, teacher.mask, hidden), batch).backward()
    leaked = [n for n, v in {**watched, **hidden}.items() if v.grad is not None and v.grad.any()]
    if leaked:
        return f"the teacher's {leaked} received a gradient"
    reached = [v for v in _leaves(student) if v.grad is not None and v.grad.any()]
    return None if reached else "no gradient reaches the student"


def _is_mean(loss: Any) -> str | None:
    batch, student, teacher = sample_batch(), _student(sample_batch()), _teacher(64)
    once = loss(student, teacher, batch)
    twice = loss(_doubled(student), Signals(_twice(teacher.logits), teacher.mask.repeat(2), _twice(teacher.hidden)), batch)
    return None if torch.allclose(once, twice, rtol=1e-4) else f"the same rows twice give {twice:.6f}, once {once:.6f}"


def _masked(loss: Any) -> str | None:
    batch, student, teacher = sample_batch(), _student(sample_batch()), _teacher(64)
    wrong = {n: torch.where(_like(teacher.mask, v) > 0, v, torch.full_like(v, 50.0)) for n, v in teacher.logits.items()}
    first, second = loss(student, teacher, batch), loss(student, replace(teacher, logits=wrong), batch)
    if not torch.equal(first, second):
        return f"changing masked teacher rows moved the loss from {first:.6f} to {second:.6f}"
    none = loss(student, replace(teacher, mask=torch.zeros(64)), batch)
    return None if none == 0 else f"with every row masked the loss is {none}"


def _deterministic(attach: Any) -> str | None:
    batch = sample_batch()
    first, second = (attach()(_student(batch), _teacher(64), batch) for _ in range(2))
    return None if torch.equal(first, second) else f"{first} and {second}"


def _extreme(loss: Any) -> str | None:
    batch, teacher = sample_batch(), _teacher(64)
    for dtype in (torch.float32, torch.bfloat16):
        for sign in (1e4, -1e4):
            student = _student(batch, sign, dtype)
            value = loss(student, replace(teacher, logits={n: v * -sign for n, v in teacher.logits.items()}), batch)
            value.backward()
            gradients = [v.grad for v in _leaves(student) if v.grad is not None]
            if not torch.isfinite(value) or not all(torch.isfinite(g).all() for g in gradients):
                return f"{dtype}, logits of {sign:.0e}: loss {value}"
    return None


def _fixed_point(loss: Any) -> str | None:
    batch, teacher = sample_batch(), _teacher(64)
    student = Output(
        {n: v.clone().requires_grad_() for n, v in teacher.logits.items()},
        {n: v.clone().requires_grad_() for n, v in teacher.hidden.items()},
    )
    loss(student, teacher, batch).backward()
    pull = max((float(v.grad.abs().max()) for v in _leaves(student) if v.grad is not None), default=0.0)
    return None if pull < 1e-5 else f"the largest gradient is {pull:.1e}"


def _safe(loss: Any) -> str | None:
    batch, student = sample_batch(), _student(sample_batch())
    loss(student, _teacher(64), batch).backward()
    touched = [n for n, v in student.logits.items() if v.grad is not None and v.grad.any()]
    if isinstance(loss, nn.Module) and not any(p.grad is not None and p.grad.any() for p in loss.parameters()):
        return "its own head receives no gradient"
    return f"the served logits of {touched} receive a gradient" if touched else None


def _leaves(student: Output) -> list[Tensor]:
    return [*student.logits.values(), *student.hidden.values()]


def _doubled(student: Output) -> Output:
    return Output(_twice(student.logits), _twice(student.hidden))


def _twice(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: torch.cat([value, value]) for name, value in tensors.items()}


def _like(mask: Tensor, value: Tensor) -> Tensor:
    return mask.view(-1, *[1] * (value.dim() - 1)).expand_as(value)
