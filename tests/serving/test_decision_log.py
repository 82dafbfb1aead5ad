"""The decision log: days, workers, restarts, kills and full disks; any change of it is found and named."""

from __future__ import annotations

import errno
import hashlib
import os
import resource
import shutil
import subprocess
import sys
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import recstill.serving.decision_log as module
from recstill.api.errors import BundleError
from recstill.serving.decision_chain import sign
from recstill.serving.decision_log import DecisionLog, LogReader, heads_folder

ONE = {"score": 0.5, "band": "middle", "decision": "review"}


class Clock(datetime):
    """A clock that a test moves; the log asks nothing else of it."""

    moment = datetime(2026, 11, 25, 23, 59, tzinfo=UTC)

    @classmethod
    def now(cls, tz: object = None) -> datetime:
        return cls.moment


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "datetime", Clock)
    monkeypatch.setattr(Clock, "moment", Clock.moment)


@contextmanager
def room_for(num_bytes: int):
    """Let no file grow beyond so many bytes: the kernel then writes what fits, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def write(log: DecisionLog, count: int, first: int = 0) -> str:
    return log.write("credit", "credit:1", np.arange(first, first + count), [ONE] * count)


def read(folder: Path) -> tuple[list[str], list[str]]:
    reader = LogReader(folder)
    return [one["request"] for one in reader.decisions()], reader.problems


def act(folder: Path, logs: list[DecisionLog | None], step: tuple[str, int, int]) -> list[str]:
    """Do one thing to one of the workers; return the requests that were answered."""
    what, place, count = step
    if what == "day":
        Clock.moment += timedelta(hours=7)
        return []
    if logs[place] is None:
        logs[place] = DecisionLog(folder)
    log = logs[place]
    assert log is not None
    if what == "restart":
        log.close()
        logs[place] = None
        return []
    if what == "full":
        write(log, 1)  # so that the worker has a file of today
        before = log._path.stat().st_size
        with room_for(before + 40 * count), pytest.raises(OSError, match="too large|space"):
            write(log, 12)
        assert log._path.stat().st_size == before
        return ["?"]
    if what == "kill":
        write(log, 1)
        kill_while_writing(log, count)
        logs[place] = None
        return ["?"]
    return [write(log, count)] * count


def kill_while_writing(log: DecisionLog, share: int) -> None:
    """Leave what a worker leaves that is killed in the middle of a write: the first bytes of a request of three lines."""
    lines, mac = [], log._end.last
    for left in (2, 1, 0):
        line, mac = sign({"request": "never answered", "left": left}, mac, log._key)
        lines.append(line)
    data = b"".join(lines)
    with log._path.open("ab") as file:
        file.write(data[: max(1, len(data) * share // 10 - 1)])
    log.close()


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["write", "write", "write", "day", "restart", "full", "kill"]), st.integers(0, 2), st.integers(1, 9)
    ),
    min_size=1,
    max_size=12,
)


def history(folder: Path, steps: list[tuple[str, int, int]]) -> tuple[list[str], int]:
    """Live through the steps with three workers; return the answered requests and how many decisions were written beside."""
    Clock.moment = datetime(2026, 11, 25, 20, 0, tzinfo=UTC)
    logs: list[DecisionLog | None] = [None, None, None]
    answered = [request for step in steps for request in act(folder, logs, step)]
    for log in logs:
        if log is not None:
            log.close()
    return [request for request in answered if request != "?"], answered.count("?")


@given(steps=STEPS)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_whatever_happens_every_answered_decision_is_read_back(steps, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("home") / "decisions"
    answered, others = history(folder, steps)
    found, problems = read(folder)
    assert problems == []
    assert len(found) == len(answered) + others
    assert sorted(answered) == sorted(request for request in found if request in set(answered))
    assert "never answered" not in found


def edits(path: Path, draw) -> bytes | None:
    """Return other content for a file, or None to delete it."""
    content = path.read_bytes()
    lines = content.splitlines(keepends=True)
    kind = draw(st.sampled_from(["flip", "cut", "cut lines", "drop a line", "swap", "twice", "empty", "delete", "add"]))
    if kind == "flip":
        place = draw(st.integers(0, len(content) - 1))
        return content[:place] + bytes([content[place] ^ (1 << draw(st.integers(0, 7)))]) + content[place + 1 :]
    if kind == "cut":
        return content[: draw(st.integers(0, len(content) - 1))]
    line = draw(st.integers(0, len(lines) - 1))
    changed = {
        "cut lines": lines[:line],
        "drop a line": lines[:line] + lines[line + 1 :],
        "swap": [*lines[: max(line - 1, 0)], *lines[max(line - 1, 0) : line + 1][::-1], *lines[line + 1 :]],
        "twice": [*lines[: line + 1], *lines[line:]],
        "empty": [],
        "add": [*lines, lines[-1]],
    }
    return None if kind == "delete" else b"".join(changed[kind])


@given(data=st.data(), steps=STEPS)
@settings(max_examples=120, deadline=None, derandomize=True)
def test_any_change_of_any_file_is_found_named_and_keeps_no_other_from_being_read(
    data, steps, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("home") / "decisions"
    history(folder, [("write", 0, 2), *steps, ("restart", 0, 1), ("write", 0, 3), ("restart", 1, 1), ("write", 1, 1)])
    before, problems = read(folder)
    assert problems == []
    path = data.draw(st.sampled_from(sorted([*folder.glob("*.jsonl"), *heads_folder(folder).glob("*.head")])))
    content = path.read_bytes()
    changed = edits(path, data.draw)
    whole = sum(len(line) for line in content.splitlines(keepends=True) if line.endswith(b"\n"))
    untouched = changed is not None and changed[:whole] == content[:whole]
    if changed == content or (untouched and b"never answered" in content) or not content.strip(b"\0"):
        return  # the same, or only what a killed worker left and nobody ever believed, or the head of a lane without a file
    if changed is None:
        path.unlink()
    else:
        path.write_bytes(changed)
    found, problems = read(folder)
    assert any(path.name.removesuffix(".head") in problem for problem in problems), (changed, problems)
    assert set(found) <= set(before)
    if path.suffix == ".head":
        assert found == before
    else:
        own = {orjson.loads(line).get("request") for line in content.splitlines() if line.endswith(b"}")}
        assert [one for one in before if one not in own] == [one for one in found if one not in own]


KILLED = """
import sys, numpy as np
from pathlib import Path
from recstill.serving.decision_log import DecisionLog
log = DecisionLog(Path(sys.argv[1]))
one = {"score": 0.5, "band": "middle", "decision": "review"}
while True:
    print(log.write("credit", "credit:1", np.arange(30), [one] * 30), flush=True)
"""


def test_a_worker_killed_at_any_moment_loses_nothing_it_answered(tmp_path: Path) -> None:
    folder, answered = tmp_path / "decisions", []
    for _ in range(4):
        workers = [subprocess.Popen([sys.executable, "-c", KILLED, str(folder)], stdout=subprocess.PIPE) for _ in range(2)]
        for worker in workers:
            assert worker.stdout is not None
            answered += [worker.stdout.readline().decode().strip() for _ in range(20)]
            worker.kill()
            answered += [line.decode().strip() for line in worker.stdout if line.endswith(b"\n")]
            worker.wait()
    found, problems = read(folder)
    assert problems == []
    assert set(answered) <= set(found)
    assert len(found) == 30 * len(set(found))
    assert len(list(heads_folder(folder).glob("*.head"))) == 2  # those that came later went on in the lanes of the killed


def test_a_log_deleted_under_the_server_is_noticed_and_a_new_one_begun(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "decisions"
    log = DecisionLog(folder)
    write(log, 1)
    log._path.unlink()
    request = write(log, 2)
    assert "20261125-w0-000001.jsonl was deleted" in caplog.text
    found, problems = read(folder)
    assert found == [request] * 2
    assert len(problems) == 1
    assert "20261125-w0-000001.jsonl is missing: it had 2 lines" in problems[0]


def test_a_whole_lane_with_its_head_is_missed_by_the_others(tmp_path: Path) -> None:
    folder = tmp_path / "decisions"
    first, second = DecisionLog(folder), DecisionLog(folder)
    write(first, 1)
    write(second, 1)
    second.close()
    for path in [*folder.glob("*-w0-*"), heads_folder(folder) / "w0.head"]:
        path.unlink()
    assert any("20261125-w0-000001.jsonl is missing" in problem for problem in read(folder)[1])


def test_a_forked_worker_takes_a_lane_of_its_own(tmp_path: Path) -> None:
    folder = tmp_path / "decisions"
    log = DecisionLog(folder)
    write(log, 1)
    child = os.fork()
    if child == 0:
        write(log, 1)
        os._exit(0)
    os.waitpid(child, 0)
    write(log, 1)
    found, problems = read(folder)
    assert problems == []
    assert len(found) == 3


def test_a_lost_key_is_refused_and_a_changed_one_keeps_both_logs_readable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "decisions"
    log = DecisionLog(folder)
    write(log, 1)
    log.close()
    (folder / "mask.key").rename(folder / "2026.key")
    with pytest.raises(BundleError, match=r"mask\.key is gone"):
        DecisionLog(folder)
    monkeypatch.setenv("RECSTILL_MASK_KEY", "of another place")
    write(DecisionLog(folder), 1)
    found, problems = read(folder)
    assert problems == []
    assert len(found) == 2
    (folder / "2026.key").unlink()
    assert any("was written with key" in problem for problem in read(folder)[1])


def older_log(path: Path, count: int, before: str = "") -> str:
    """Write a log of format 1, as recstill did; return the digest of its last line."""
    path.parent.mkdir(exist_ok=True)
    with path.open("ab") as file:
        for number in range(count):
            content = {
                "time": "2026-11-20T10:00:00+00:00", "request": f"{path.stem}-{number}", "task": "credit", "subject": "s",
                "model_version": "credit:1", "reasons": [], "before": before, **ONE,
            }  # fmt: skip
            line = orjson.dumps(content, option=orjson.OPT_SORT_KEYS)
            before = hashlib.sha256(line).hexdigest()
            file.write(line + b"\n")
    return before


def test_logs_of_format_1_are_read_by_their_own_rules_but_none_is_believed_that_came_later(tmp_path: Path) -> None:
    folder = tmp_path / "decisions"
    last = older_log(folder / "20261120-7-abc123.jsonl", 3)
    older_log(folder / "20261121-7-abc124.jsonl", 2, last)  # ran over midnight
    (folder / "mask.key").write_text("key")
    write(DecisionLog(folder), 1)
    found, problems = read(folder)
    assert problems == []
    assert len(found) == 6
    older_log(folder / "20261122-9-abcdef.jsonl", 1)
    found, problems = read(folder)
    assert len(found) == 6
    assert len(problems) == 1
    assert "20261122-9-abcdef.jsonl has format 1" in problems[0]
    shutil.rmtree(heads_folder(folder))
    (folder / "20261125-w0-000001.jsonl").unlink()
    path = folder / "20261120-7-abc123.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"score":0.5', b'"score":0.6', 1))
    assert any("abc123.jsonl, line 2" in problem for problem in read(folder)[1])


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BundleError, match=r"Decisions cannot be logged in .*file"):
        DecisionLog(tmp_path / "file")


def test_a_full_disk_before_the_first_line_leaves_no_file(tmp_path: Path) -> None:
    folder = tmp_path / "decisions"
    log = DecisionLog(folder)
    with room_for(40), pytest.raises(OSError, match="too large|space") as failure:
        write(log, 1)
    assert failure.value.errno in (errno.EFBIG, errno.ENOSPC)
    assert sorted(path.name for path in folder.iterdir()) == ["mask.key"]
    write(log, 1)
    assert read(folder)[1] == []
