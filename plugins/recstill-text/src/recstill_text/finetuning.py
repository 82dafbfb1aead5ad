"""Fine-tuning a transformer on judged pairs, resumable."""

from __future__ import annotations

import json
import math
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from recstill.api import DivergedError
from recstill.training.loop import has_fast_bf16
from recstill.training.losses import label_loss
from recstill_text.running import all_threads, as_texts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from recstill.api import ColumnRows, LabelSpec

_CHECKPOINT_SECONDS = 120
_WARMUP_SHARE = 0.1
_MOST_CHECKED = 4_096


def finetune(
    teacher: Any, encoder: torch.nn.Module, tokens: Any, train: ColumnRows, valid: ColumnRows, folder: Path, seed: int,
    progress: Callable[[str], None],
) -> None:  # fmt: skip
    """Minimise the labels' loss with AdamW, a linear warm-up and decay; write `model.safetensors` of the best epoch.

    Raise DivergedError at the first step, or after the first epoch, whose loss is no finite number.
    """
    from safetensors.torch import load_file, save_file

    learn, check = _Pairs(teacher, train, teacher.limit, seed), _Pairs(teacher, valid, _MOST_CHECKED, seed)
    steps = -(-len(learn) // teacher.batch_size)
    total, best, step = steps * teacher.epochs, float("inf"), 0
    decayed = [p for p in encoder.parameters() if p.dim() > 1]
    plain = [p for p in encoder.parameters() if p.dim() <= 1]
    optimizer = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}])
    state, weights = folder / ".state.safetensors", folder / "model.safetensors"
    if state.is_file():
        step, best = _load(state, encoder, optimizer)
        progress(f"goes on at step {step:,} of {total:,}")
    saved, said = time.monotonic(), time.monotonic()
    with all_threads(teacher.threads):
        while step < total:
            epoch, place = divmod(step, steps)
            order = learn.order(np.random.default_rng(seed * 1_000 + epoch), teacher.batch_size)
            encoder.train()
            torch.manual_seed(seed * 1_000_003 + step)  # dropout goes on as if nothing had happened
            for group in optimizer.param_groups:
                warm = min(1.0, (step + 1) / max(1.0, _WARMUP_SHARE * total))
                group["lr"] = teacher.learning_rate * min(warm, (total - step) / total / (1 - _WARMUP_SHARE))
            queries, titles, targets = learn.take(order[place])
            with torch.autocast("cpu", torch.bfloat16, enabled=has_fast_bf16()):
                logits, _ = teacher.logits(encoder, tokens, queries, titles)
            terms = terms_of(teacher.labels, logits.float(), targets)
            loss = total_of(terms, logits.float())
            if not math.isfinite(loss.item()):
                raise _stopped(teacher, terms, f"step {step + 1} of {total}")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
            optimizer.step()
            step += 1
            if time.monotonic() - said > 30:
                said = time.monotonic()
                progress(f"step {step:,} of {total:,}, loss {loss.item():.4f}")
            if step % steps == 0:
                found = _judge(teacher, encoder, tokens, check)
                if not math.isfinite(found):
                    raise _stopped(teacher, {}, f"the validation after epoch {step // steps}")
                progress(f"epoch {step // steps} of {teacher.epochs}: validation loss {found:.4f}")
                if found < best:
                    best = found
                    save_file({name: value.contiguous() for name, value in encoder.state_dict().items()}, folder / ".new")
                    (folder / ".new").replace(weights)
            if time.monotonic() - saved > _CHECKPOINT_SECONDS or step % steps == 0:
                saved = time.monotonic()
                _save(state, encoder, optimizer, step, best)
    encoder.load_state_dict(load_file(weights))


class _Pairs:
    """Rows with a known label, as texts and targets (N, labels)."""

    def __init__(self, teacher: Any, rows: ColumnRows, limit: int, seed: int) -> None:
        targets = np.stack([rows.labels[label.name] for label in teacher.labels], 1)
        known = np.flatnonzero(~np.isnan(targets).all(1))
        if not len(known):
            raise ValueError("no row has a label to learn from")
        if limit and len(known) > limit:
            known = np.sort(np.random.default_rng(seed).choice(known, limit, replace=False))
        self.queries = as_texts(rows.columns[teacher.query][known])
        self.titles = as_texts(rows.columns[teacher.title][known])
        self.targets = torch.from_numpy(targets[known])
        self.lengths = np.array([len(q) + len(t) for q, t in zip(self.queries, self.titles, strict=True)])

    def __len__(self) -> int:
        return len(self.queries)

    def order(self, random: np.random.Generator, batch_size: int) -> list[np.ndarray]:
        """Return the batches of an epoch: rows of like length together (padding is paid too), the batches in random order."""
        shuffled = random.permutation(len(self))
        span = batch_size * 64
        batches = []
        for start in range(0, len(self), span):
            some = shuffled[start : start + span]
            some = some[np.argsort(self.lengths[some], kind="stable")]
            batches += [some[at : at + batch_size] for at in range(0, len(some), batch_size)]
        return [batches[place] for place in random.permutation(len(batches))]

    def take(self, places: np.ndarray) -> tuple[list[str], list[str], Tensor]:
        return [self.queries[i] for i in places], [self.titles[i] for i in places], self.targets[torch.from_numpy(places)]


def terms_of(labels: Sequence[LabelSpec], logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Return the weighted loss of each label over the rows that know it, by its name: cross-entropy, or squared error."""
    terms = {}
    for place, label in enumerate(labels):
        known = ~torch.isnan(targets[:, place])
        if bool(known.any()):
            z, y = logits[known, place], targets[known, place]
            terms[label.name] = label.weight * label_loss(label, z, y)
    return terms


def total_of(terms: Mapping[str, Tensor], logits: Tensor) -> Tensor:
    """Return the sum of the labels' losses; zero where no row knows any."""
    return torch.stack(list(terms.values())).sum() if terms else logits.sum() * 0.0


def _stopped(teacher: Any, terms: Mapping[str, Tensor], place: str) -> DivergedError:
    wrong = [name for name, term in terms.items() if not bool(torch.isfinite(term))]
    what = f"the term {wrong[0]!r} of the loss" if wrong else "the loss"
    cause = f"learning_rate {teacher.learning_rate:g} is too high for this model, or the values of the label too large"
    return DivergedError(type(teacher).__name__, f"{what} is no finite number at {place}", cause)


@torch.no_grad()
def _judge(teacher: Any, encoder: torch.nn.Module, tokens: Any, rows: _Pairs) -> float:
    encoder.eval()
    total = 0.0
    for places in np.array_split(np.argsort(rows.lengths, kind="stable"), max(1, len(rows) // 256)):
        queries, titles, targets = rows.take(places)
        with torch.autocast("cpu", torch.bfloat16, enabled=has_fast_bf16()):
            logits, _ = teacher.logits(encoder, tokens, queries, titles)
        total += total_of(terms_of(teacher.labels, logits.float(), targets), logits.float()).item() * len(places)
    return total / len(rows)


def _save(path: Path, encoder: torch.nn.Module, optimizer: torch.optim.Optimizer, step: int, best: float) -> None:
    from safetensors.torch import save_file

    tensors = {f"model/{name}": value.contiguous() for name, value in encoder.state_dict().items()}
    for number, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{number}/{name}": torch.as_tensor(value) for name, value in moments.items()}
    save_file(tensors, path.with_suffix(".new"), {"card": json.dumps({"step": step, "best": best})})
    path.with_suffix(".new").replace(path)


def _load(path: Path, encoder: torch.nn.Module, optimizer: torch.optim.Optimizer) -> tuple[int, float]:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        card = json.loads(file.metadata()["card"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
    encoder.load_state_dict({n.removeprefix("model/"): v for n, v in tensors.items() if n.startswith("model/")})
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer/"):
            _, number, key = name.split("/")
            moments.setdefault(int(number), {})[key] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
    return card["step"], card["best"]
