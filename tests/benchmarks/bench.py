"""`make bench`: what must be fast, as ratios against a stated baseline of the same run. Prints one table."""

from __future__ import annotations

import os

os.environ["OMP_WAIT_POLICY"] = "passive"

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from cases import cases

from recstill.api import LabelSpec, Slot
from recstill.cli.output import show
from recstill.data.transform import Encoded
from recstill.embeddings.batches import TensorRows
from recstill.embeddings.tables import TableOptimizer, training_inputs
from recstill.training.config import TrainingConfig
from recstill.training.loop import fit
from recstill.training.losses import supervised_loss
from recstill.training.parameters import make_optimizer
from recstill_rankers.dcn import DCNv2

torch.set_num_threads(1)
LABELS = (LabelSpec(name="click", primary=True),)
NUM_FEATURES, NUM_DENSE, BATCH = 26, 13, 4096
Row = dict[str, str]


def synthetic_rows(num_rows: int, table_rows: int) -> TensorRows:
    random = np.random.default_rng(0)
    slots = tuple(Slot(f"f{place}", f"f{place}", table_rows // NUM_FEATURES) for place in range(NUM_FEATURES))
    ids = random.integers(0, table_rows // NUM_FEATURES, (num_rows, NUM_FEATURES))
    dense = random.normal(size=(num_rows, NUM_DENSE)).astype(np.float32)
    labels = {"click": (random.random(num_rows) < 0.2).astype(np.float32)}
    return TensorRows.build(Encoded(dense, ids), slots, labels, np.arange(num_rows))


def model_for(rows: TensorRows) -> DCNv2:
    torch.manual_seed(0)
    return DCNv2(training_inputs(NUM_DENSE, rows.slots, LABELS, TableOptimizer()), dim=16, hidden=(256, 128), dropout=0.0)


def cpu_seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def our_loop(rows: TensorRows, bf16: bool) -> float:
    """CPU-seconds of one epoch of the platform's loop."""
    model = model_for(rows)
    config = TrainingConfig(epochs=1, batch_size=BATCH, bf16=bf16)
    return cpu_seconds(
        lambda: fit(model, rows, lambda o, b: supervised_loss(LABELS, o, b), config, seed=0, evaluate=lambda _: {"score": 0.0})
    )


def bare_loop(rows: TensorRows, bf16: bool) -> float:
    """The same module, tensors, loss and optimizer in the shortest loop there is: batches are made beforehand."""
    model = model_for(rows).train()
    optimizer = make_optimizer(model, TrainingConfig())
    batches = list(rows.batches(BATCH))

    def epoch() -> None:
        for batch in batches:
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                logits = model(batch).logits["click"]
            torch.nn.functional.binary_cross_entropy_with_logits(logits.float(), batch.labels["click"]).backward()
            optimizer.step()

    return cpu_seconds(epoch)


def training() -> Iterator[Row]:
    rows = synthetic_rows(25 * BATCH, 1_000_000)
    for bf16 in (False, True):
        ours, bare = [], []
        for _ in range(3):
            ours.append(our_loop(rows, bf16))
            bare.append(bare_loop(rows, bf16))
        share = min(bare) / min(ours)
        speed = len(rows) / min(ours)
        yield row(f"training loop, {'bf16' if bf16 else 'float32'}", f"{speed:,.0f} examples per CPU-second",
                  f"{share:.0%} of a bare loop", ">= 90 %", share >= 0.9)  # fmt: skip


def table_size() -> Iterator[Row]:
    seconds = {}
    for table_rows in (1_000_000, 10_000_000):
        rows = synthetic_rows(12 * BATCH, table_rows)
        seconds[table_rows] = min(our_loop(rows, True) for _ in range(3))
    ratio = seconds[10_000_000] / seconds[1_000_000]
    yield row(
        "cost per step, 10 M over 1 M table rows",
        f"{seconds[10_000_000] / 12 * 1000:.0f} ms",
        f"{ratio:.2f} x",
        "< 1.15 x",
        ratio < 1.15,
    )


def help_time() -> Iterator[Row]:
    command = [str(Path(sys.executable).parent / "recstill"), "--help"]
    ours = statistics.median(wall(lambda: subprocess.run(command, stdout=subprocess.DEVNULL, check=True)) for _ in range(9))
    bare = [sys.executable, "-c", "import click"]
    click = statistics.median(wall(lambda: subprocess.run(bare, check=True)) for _ in range(9))
    yield row("recstill --help", f"{ours * 1000:.0f} ms", f"{ours / click:.1f} x `import click`", "< 300 ms", ours < 0.3)


def wall(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def real_data() -> Iterator[Row]:
    """The join of a million rows, and teacher beside student, on complete-journey."""
    import pyarrow as pa

    from recstill.data.fetch import fetch
    from recstill.features.history import join_features
    from recstill.features.repo import feature_set
    from recstill.recipes.features import apply_features, open_store
    from recstill.recipes.platform import Platform

    platform = Platform.open()
    task = platform.task("ads")
    dataset = platform.dataset_of(task)
    raw = fetch(dataset, platform.settings.cache)
    apply_features(platform, lambda _: None)
    rows: pa.Table = task.rows(raw, task.options())
    task.write_training_sources(raw, rows, platform.settings.folder("sources", dataset.name))
    rows = rows.slice(0, 1_000_000)
    store = open_store(platform)
    features = feature_set(store, "ads_teacher_v1")
    seconds = wall(lambda: join_features(store, rows, features, task.spec.derived_keys))
    yield row(
        "point-in-time join, 1 M rows, 47 features, 7 views",
        f"{seconds:.1f} s",
        f"{1e6 / seconds:,.0f} rows/s",
        "< 60 s",
        seconds < 60,
    )
    yield from teacher_and_student(platform)
    yield from served(platform)
    for what, measured, against in cases(platform):
        yield row(what, measured, against, "", None)


def teacher_and_student(platform: object) -> Iterator[Row]:
    from recstill.recipes.platform import Platform
    from recstill.registry.versions import find_version, lineage_of, list_versions
    from recstill.serving.scorer import Graph

    assert isinstance(platform, Platform)
    with platform.registry.transaction() as session:
        versions = [v for v in list_versions(session) if v.model_name == "ads"]
        if not versions:
            yield row("student beside teacher", "no model is registered: `make demo` first", "", "", None)
            return
        student = versions[-1]
        name = next(entry.value for entry in lineage_of(session, student) if entry.relation == "teacher")
        teacher = find_version(session, name)
    graphs = {v.model_name: Graph(platform.artifacts.get(v.artifact)) for v in (student, teacher)}
    feeds = {name: _feed(graph) for name, graph in graphs.items()}
    times: dict[str, list[float]] = {name: [] for name in graphs}
    for _ in range(200):
        for name, graph in graphs.items():
            times[name].append(wall(lambda graph=graph, name=name: graph.run(*feeds[name])))  # type: ignore[misc]
    fast, slow = (statistics.median(times[v.model_name]) for v in (student, teacher))
    yield row(
        "student graph, 200 candidates",
        f"{fast * 1000:.3f} ms",
        f"{slow / fast:.1f} x faster than the teacher",
        ">= 5 x",
        slow / fast >= 5,
    )
    ratio = teacher.size_bytes / student.size_bytes
    yield row(
        "student bundle",
        f"{student.size_bytes / 1e6:.2f} MB",
        f"{ratio:.1f} x smaller than the teacher",
        ">= 10 x",
        ratio >= 10,
    )


def _feed(graph: object) -> tuple[Encoded, Encoded]:
    from recstill.serving.scorer import Graph

    assert isinstance(graph, Graph)
    (qd, di), (qs, si) = graph.manifest.sides.dense_places(graph.transform), graph.manifest.sides.slot_places(graph.transform)
    random, slots = np.random.default_rng(0), graph.transform.slots
    ids = np.stack([random.integers(0, slot.num_rows, 200) for slot in slots], 1)
    dense = random.normal(size=(200, graph.transform.num_dense)).astype(np.float32)
    return Encoded(dense[:1, qd], ids[:1, qs]), Encoded(dense[:, di], ids[:, si])


def served(platform: object) -> Iterator[Row]:
    import httpx

    from recstill.recipes.demo import free_port
    from recstill.recipes.packaging import package
    from recstill.recipes.platform import Platform
    from recstill.recipes.serving import running_server
    from recstill.registry.versions import list_versions

    assert isinstance(platform, Platform)
    with platform.registry.transaction() as session:
        names = [f"{v.model_name}:{v.number}" for v in list_versions(session) if v.model_name == "ads"]
    if not names or not (platform.settings.home / "online" / "current.json").is_file():
        return
    bento = package(platform, names[-1:])
    log = platform.settings.folder("logs") / "bench-server.log"
    with running_server(platform, bento, free_port(), log) as address, httpx.Client(base_url=address) as client:
        body = {"household_id": 1, "product_ids": list(range(1_000_000, 1_000_200))}
        empty, scored = [], []
        for _ in range(400):
            empty.append(wall(lambda: client.get("/v1/models")))
            scored.append(wall(lambda: client.post("/v1/ads/score", json=body)))
    p50, p99 = np.percentile(np.array(scored[50:]) * 1000, [50, 99])
    base = np.median(np.array(empty[50:]) * 1000)
    yield row(
        "HTTP, 200 candidates, 1 connection",
        f"p50 {p50:.2f} ms, p99 {p99:.2f} ms",
        f"p50 {p50 / base:.1f} x an empty request ({base:.2f} ms)",
        "",
        None,
    )


def row(what: str, measured: str, against: str, target: str, met: bool | None) -> Row:
    return {
        "what": what,
        "measured": measured,
        "against": against,
        "target": target,
        "met": "" if met is None else "yes" if met else "NO",
    }


if __name__ == "__main__":
    found: list[Row] = []
    for part in (help_time, training, table_size, real_data):
        print(f"{part.__name__} …", file=sys.stderr, flush=True)
        found += list(part())
    show(found, "table")
