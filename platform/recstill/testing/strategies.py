"""What a distillation strategy must hold."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from recstill.api.batch import Batch, Output, Signals
from recstill.api.strategy import StrategyContext
from recstill.distillation.objective import StudentRunner
from recstill.embeddings.tables import TableOptimizer, training_inputs
from recstill.testing.results import Check, check
from recstill.testing.samples import LABELS, NUM_DENSE, SLOTS, sample_batch, sample_rows, sample_signals

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_WIDTH, _HEADS, _FIELDS, _ROWS, _TEACHERS = 8, 2, 6, 64, 3
_CALIBRATIONS = ("safe", "as-teacher", "unsafe")
_REDUCTIONS = ("rows", "lists", "pairs")
_SIGNALS = ("logits", "hidden", "attention", "lists", "committee", "attributes")
_DECLARED = ("signals", "reduction", "calibration", "reference", "fixed_point")
_DRAWS = 48


class _Student(nn.Module):
    """The model that augmenting strategies run again: linear in dense features and in the vectors of all slots."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = training_inputs(NUM_DENSE, SLOTS, LABELS, TableOptimizer(kind="adam")).tables(4)
        self.dense = nn.Linear(NUM_DENSE, 6)

    def forward(self, batch: Batch) -> Output:
        answers = self.dense(batch.dense) + self.tables(batch.sparse).sum((1, 2)).unsqueeze(1)
        return Output({"click": answers[:, 0], "grade": answers[:, 1:5], "amount": answers[:, 5]})


class _Case:
    """One strategy with fresh parts: the same seed for all that it draws."""

    def __init__(self, factory: Any, options: Mapping[str, Any], seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.student = _Student()
        hidden, attention = {"backbone": _WIDTH}, {"fields": (_HEADS, _FIELDS)}
        runner = StudentRunner(self.student, [self.student.tables], SLOTS)
        context = StrategyContext(
            LABELS, hidden, hidden, attention, attention, num_rows=_ROWS, num_teachers=_TEACHERS, student=runner
        )
        self.loss = factory(**options).attach(context)

    def __call__(self, student: Output, teacher: Signals, batch: Batch) -> Tensor:
        value: Tensor = self.loss(student, teacher, batch)
        return value


def check_strategy(factory: Any, *, name: str = "", **options: Any) -> list[Check]:
    """Check a strategy class: declarations, a scalar mean loss, gradients on the student and never on the teacher, masks,
    extreme logits, and the fixed point "a student equal to its teacher feels no pull" where it declares one."""
    subject = name or f"strategy {factory.__name__}"
    declared = check(subject, f"declares {', '.join(_DECLARED)}", lambda: _declared(factory))
    if not declared.passed:
        return [declared]

    def case(seed: int = 0) -> _Case:
        return _Case(factory, options, seed)

    rules: dict[str, Any] = {
        "gives a finite scalar": lambda: _scalar(case()),
        "gradients reach the student and never the teacher": lambda: _gradients(case()),
        f"is a mean over {factory.reduction}": lambda: _is_mean(case, factory.reduction),
        "masked rows contribute nothing": lambda: _masked(case),
        "same seed, same loss": lambda: _deterministic(case),
        "finite on logits of 1e4, in float32 and bfloat16": lambda: _extreme(case),
    }
    if factory.fixed_point:
        rules["a student equal to its teacher feels no pull"] = lambda: _fixed_point(case())
    if factory.calibration == "safe":
        rules["never touches the served logits"] = lambda: _safe(case())
    return [declared, *(check(subject, rule, work) for rule, work in rules.items())]


def _declared(factory: Any) -> str | None:
    if missing := [n for n in _DECLARED if not hasattr(factory, n)]:
        return f"lacks {', '.join(missing)}"
    if factory.calibration not in _CALIBRATIONS:
        return f"calibration {factory.calibration!r} is none of {_CALIBRATIONS}"
    if factory.reduction not in _REDUCTIONS:
        return f"reduction {factory.reduction!r} is none of {_REDUCTIONS}"
    unknown = [signal for signal in factory.signals if signal.split(":")[0] not in _SIGNALS]
    return f"signals {unknown} are none of {_SIGNALS}" if unknown else None


def _student(batch: Batch, scale: float = 1.0, dtype: torch.dtype = torch.float32) -> Output:
    signals, random = sample_signals(len(batch.dense), seed=2), torch.Generator().manual_seed(3)
    logits = {n: (v * scale).to(dtype).requires_grad_() for n, v in signals.logits.items()}
    hidden = torch.randn(len(batch.dense), _WIDTH, generator=random)
    looks = torch.randn(len(batch.dense), _HEADS, _FIELDS, generator=random).softmax(2)
    return Output(logits, {"backbone": hidden.to(dtype).requires_grad_()}, {"fields": looks.to(dtype).requires_grad_()})


def _teacher(num_rows: int = _ROWS) -> Signals:
    def one(seed: int) -> Signals:
        random = torch.Generator().manual_seed(seed + 100)
        hidden = torch.randn(num_rows, _WIDTH, generator=random)
        looks = torch.randn(num_rows, _HEADS, _FIELDS, generator=random)
        looks[:, :, -1] = -torch.inf  # the last position is padding
        return replace(sample_signals(num_rows, seed), hidden={"backbone": hidden}, attention={"fields": looks.softmax(2)})

    return replace(one(1), others=tuple(one(seed) for seed in range(11, 10 + _TEACHERS)))


def _scalar(case: _Case) -> str | None:
    batch = sample_batch()
    value = case(_student(batch), _teacher(), batch)
    return None if value.shape == () and torch.isfinite(value) else f"got {value}"


def _gradients(case: _Case) -> str | None:
    batch, student = sample_batch(), _student(sample_batch())
    teacher = _each(_teacher(), lambda value: value.clone().requires_grad_())
    case(student, teacher, batch).backward()
    watched = [v for t in (teacher, *teacher.others) for kind in (t.logits, t.hidden, t.attention) for v in kind.values()]
    if any(v.grad is not None and v.grad.any() for v in watched):
        return "the teacher received a gradient"
    reached = [v for v in [*_leaves(student), *case.student.parameters()] if v.grad is not None and v.grad.any()]
    return None if reached else "no gradient reaches the student"


def _is_mean(case: Callable[..., _Case], reduction: str) -> str | None:
    batch, student, teacher = sample_batch(), _student(sample_batch()), _teacher()
    twice = torch.arange(_ROWS).repeat(2)
    assert batch.groups is not None
    assert batch.row_ids is not None
    double = sample_batch().to("cpu")
    shifted = torch.where(batch.groups >= 0, batch.groups + 1000, -1)
    double = replace(
        double,
        dense=batch.dense[twice],
        sparse=sample_rows().batch(twice).sparse,
        labels={n: v[twice] for n, v in batch.labels.items()},
        row_ids=batch.row_ids[twice],
        groups=torch.cat([batch.groups, shifted]),
        attributes={n: v[twice] for n, v in batch.attributes.items()},
    )
    doubled = Output(*({n: v[twice] for n, v in kind.items()} for kind in (student.logits, student.hidden, student.attention)))
    drawn = not torch.equal(case(0)(student, teacher, batch), _reseeded(case(0), 1, student, teacher, batch))
    seeds = range(_DRAWS if drawn else 1)
    more = _each(teacher, lambda value: value[twice], mask=lambda value: value[twice])
    once = torch.stack([_reseeded(case(0), seed, student, teacher, batch).detach() for seed in seeds]).mean()
    both = torch.stack([_reseeded(case(0), seed, doubled, more, double).detach() for seed in seeds]).mean()
    # Distances to oneself are no pairs, and what draws at random agrees on average: both need room.
    tolerance = 0.1 if drawn else 0.05 if reduction == "pairs" else 1e-4
    return (
        None
        if torch.allclose(once, both, rtol=tolerance, atol=1e-6)
        else f"the same rows twice give {both:.6f}, once {once:.6f}"
    )


def _reseeded(case: _Case, seed: int, student: Output, teacher: Signals, batch: Batch) -> Tensor:
    torch.manual_seed(seed)
    return case(student, teacher, batch)


def _masked(case: Callable[..., _Case]) -> str | None:
    batch, student, teacher = sample_batch(), _student(sample_batch()), _teacher()

    def wrong(values: Tensor) -> Tensor:
        mask = teacher.mask.view(-1, *[1] * (values.dim() - 1)).expand_as(values)
        return torch.where(mask > 0, values, torch.full_like(values, 50.0))

    first, second = case()(student, teacher, batch), case()(student, _each(teacher, wrong), batch)
    if not torch.equal(first, second):
        return f"changing masked teacher rows moved the loss from {first:.6f} to {second:.6f}"
    none = case()(student, _each(teacher, lambda value: value, mask=torch.zeros_like), batch)
    return None if none == 0 else f"with every row masked the loss is {none}"


def _deterministic(case: Callable[..., _Case]) -> str | None:
    batch = sample_batch()
    first, second = (case()(_student(batch), _teacher(), batch) for _ in range(2))
    return None if torch.equal(first, second) else f"{first} and {second}"


def _extreme(case: Callable[..., _Case]) -> str | None:
    batch, teacher = sample_batch(), _teacher()
    for dtype in (torch.float32, torch.bfloat16):
        for sign in (1e4, -1e4):
            student = _student(batch, sign, dtype)
            huge = replace(teacher, logits={n: v * 1e4 for n, v in teacher.logits.items()})
            value = case()(student, huge, batch)
            value.backward()
            gradients = [v.grad for v in _leaves(student) if v.grad is not None]
            if not torch.isfinite(value) or not all(torch.isfinite(g).all() for g in gradients):
                return f"{dtype}, logits of {sign:.0e}: loss {value}"
    return None


def _fixed_point(case: _Case) -> str | None:
    batch, teacher = sample_batch(), _teacher()
    student = Output(*(
        {n: v.clone().requires_grad_() for n, v in kind.items()} for kind in (teacher.logits, teacher.hidden, teacher.attention)
    ))  # fmt: skip
    case(student, teacher, batch).backward()
    pull = max((float(v.grad.abs().max()) for v in _leaves(student) if v.grad is not None), default=0.0)
    return None if pull < 1e-5 else f"the largest gradient is {pull:.1e}"


def _safe(case: _Case) -> str | None:
    batch, student = sample_batch(), _student(sample_batch())
    case(student, _teacher(), batch).backward()
    touched = [n for n, v in student.logits.items() if v.grad is not None and v.grad.any()]
    own = list(case.loss.parameters()) if isinstance(case.loss, nn.Module) else []
    if own and not any(p.grad is not None and p.grad.any() for p in own):
        return "its own parts receive no gradient"
    return f"the served logits of {touched} receive a gradient" if touched else None


def _leaves(student: Output) -> list[Tensor]:
    return [*student.logits.values(), *student.hidden.values(), *student.attention.values()]


def _each(
    teacher: Signals, change: Callable[[Tensor], Tensor], mask: Callable[[Tensor], Tensor] = lambda value: value
) -> Signals:
    """Change every tensor of a teacher and of those beside it."""
    kinds = ({n: change(v) for n, v in kind.items()} for kind in (teacher.logits, teacher.hidden, teacher.attention))
    others = tuple(_each(other, change, mask) for other in teacher.others)
    return Signals(*_ordered(kinds, mask(teacher.mask)), teacher.sampling_rate, others)


def _ordered(kinds: Any, mask: Tensor) -> tuple[Any, Tensor, Any, Any]:
    logits, hidden, attention = kinds
    return logits, mask, hidden, attention
