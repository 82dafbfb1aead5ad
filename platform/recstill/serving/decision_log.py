"""The decision log: its format, writer, reader and verifier.

One worker at a time writes a *lane*: files `DAY-LANE-NUMBER.jsonl`, numbered on over midnight and restarts. A file begins with
a header that links to the file before it. Every line ends with an HMAC over itself and the line before, so that whoever lacks
the key can neither change, add, reorder nor take out one. Where a lane ends is kept in another folder (its *head*), and every
header says where the other lanes ended: a cut tail, an emptied or a deleted file shows there.

`left` counts the lines of the same request that follow. A request whose last line is missing was never answered, so a killed
worker leaves nothing that anybody believes.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import logging
import os
import re
import secrets
import threading
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import orjson

from recstill.api.errors import BundleError
from recstill.serving.decision_chain import (
    Head,
    Place,
    chain_key,
    heads_folder,
    last_digest,
    lines_after,
    older_decision,
    read_head,
    sign,
    sync_folder,
    unsign,
    write_whole,
)
from recstill.serving.masking import Hmac, key_id, known_keys, make_key, mask

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from recstill.data.columns import Values

FORMAT = 2
_NAME = re.compile(r"(\d{8})-(w\d+)-(\d{6})\.jsonl", re.ASCII)
_LOGGER = logging.getLogger(__name__)


class DecisionLog:
    """The writer of one worker. A decision is on the disk before the answer leaves, with all others of its request, or not at
    all. Ids are masked by a keyed hash, whose key lies beside the log (`mask.key`, readable by its owner only) or in
    RECSTILL_MASK_KEY; features are not logged."""

    def __init__(self, folder: Path) -> None:
        """Raise BundleError if the folders cannot be written, or the key of what is logged there is gone."""
        self.folder, self.heads = folder, heads_folder(folder)
        self._alone = threading.Lock()
        self._file: int | None = None
        self._end: Place | None = None
        self._number = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.heads.mkdir(parents=True, exist_ok=True, mode=0o700)
            key = make_key(folder)
            self._mask_key, self._key, self._key_id = Hmac(key), chain_key(key), key_id(key)
            self._take_lane()
        except OSError as error:
            raise BundleError(f"Decisions cannot be logged in {folder}: {error}. See RECSTILL_DECISIONS.") from error

    def write(self, task: str, version: str, items: Values, answers: list[dict[str, Any]]) -> str:
        """Log the decisions of a request and return its id. Raise OSError, with nothing logged, if there is no space."""
        request, moment = secrets.token_hex(8), datetime.now(UTC)
        with self._alone:
            if os.getpid() != self._pid:  # a fork must not go on in the lane of its parent
                self._take_lane()
            self._make_ready(moment)
            data, last = self._lines(moment.isoformat(), request, task, version, items.tolist(), answers)
            self._append(data, len(answers), last)
        return request

    def _lines(
        self, time: str, request: str, task: str, version: str, items: list[Any], answers: list[dict[str, Any]]
    ) -> tuple[bytes, str]:
        """Return the lines of a request, and the HMAC of the last."""
        assert self._end is not None
        lines, last, left = [], self._end.last, len(answers)
        for item, answer in zip(items, answers, strict=True):
            left -= 1
            content = {
                "time": time, "request": request, "left": left, "task": task, "model_version": version,
                "subject": mask(item, self._mask_key), "score": answer["score"], "band": answer["band"],
                "decision": answer["decision"], "reasons": [reason["feature"] for reason in answer.get("reasons", [])],
            }  # fmt: skip
            line, last = sign(content, last, self._key)
            lines.append(line)
        return b"".join(lines), last

    def close(self) -> None:
        """Let another worker go on in this lane."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
        self._head.close()

    def _append(self, data: bytes, num_lines: int, mac: str) -> None:
        assert self._file is not None
        assert self._end is not None
        try:
            write_whole(self._file, data)
        except OSError:
            try:
                os.ftruncate(self._file, self._end.size)
            except OSError:  # the next request begins a new file, whose header names the torn end of this one
                os.close(self._file)
                self._file = None
            raise
        end = self._end
        self._end = Place(end.file, end.lines + num_lines, end.size + len(data), mac)
        self._head.write(self._end)

    def _make_ready(self, moment: datetime) -> None:
        """Open a file if there is none, the day ended, or the open one is not what was written any more."""
        if self._file is not None and f"{moment:%Y%m%d}" == self._day:
            if self._is_untouched():
                return
            _LOGGER.error("%s was deleted, replaced or changed under the server; going on in a new file.", self._path)
        self._begin_file(moment)

    def _is_untouched(self) -> bool:
        assert self._end is not None
        try:
            found = os.stat(self._path)  # noqa: PTH116  half the time of Path.stat, once per request
        except FileNotFoundError:
            return False
        return found.st_ino == self._inode and found.st_size == self._end.size

    def _begin_file(self, moment: datetime) -> None:
        name = f"{moment:%Y%m%d}-{self._lane}-{self._number + 1:06d}.jsonl"
        path, temporary = self.folder / name, self.folder / f".{name}.new"
        if path.exists():
            raise FileExistsError(errno.EEXIST, "another host writes this lane", str(path))
        line, mac = sign(self._header(name, moment), self._end.last if self._end else "", self._key)
        file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_DSYNC, 0o600)
        try:
            write_whole(file, line)
            temporary.rename(path)
            sync_folder(self.folder)
        except OSError:
            os.close(file)
            temporary.unlink(missing_ok=True)
            raise
        if self._file is not None:
            os.close(self._file)
        self._file, self._path, self._inode = file, path, os.fstat(file).st_ino
        self._day, self._number = f"{moment:%Y%m%d}", self._number + 1
        self._end = Place(name, 1, len(line), mac)
        self._head.write(self._end, sync=True)

    def _header(self, name: str, moment: datetime) -> dict[str, Any]:
        others = {}
        for path in sorted(self.heads.glob("w*.head")):
            place, _, _ = read_head(path, [self._key])
            if place is not None and path.stem != self._lane:
                others[path.stem] = place.to_json()
        header = {"format": FORMAT, "file": name, "time": moment.isoformat(), "key": self._key_id, "lanes": others}
        if self._end is None:
            older = [path for path in sorted(self.folder.glob("*.jsonl")) if not _NAME.fullmatch(path.name)]
            return {**header, "older": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in older}}
        return {**header, "before": {**self._end.to_json(), "torn": _torn(self.folder / self._end.file, self._end, self._key)}}

    def _take_lane(self) -> None:
        """Go on in the first lane that nobody writes, at its end. A lane of another key, or without its head, is left."""
        self._pid, self._file = os.getpid(), None
        for number in itertools.count():
            self._lane = f"w{number}"
            path = self.heads / f"{self._lane}.head"
            has_files = any(self.folder.glob(f"*-{self._lane}-*.jsonl"))
            if has_files and not path.is_file():
                continue
            try:
                self._head = Head(path, self._key)
            except (BlockingIOError, FileExistsError):  # held, or made by another worker this very moment
                continue
            place, self._head.turn, _ = read_head(path, [self._key])
            if place is None and (has_files or path.read_bytes().strip(b"\0")):
                self._head.close()
                continue
            self._number, self._end = _catch_up(self.folder, self._lane, place, self._key)
            return


def _catch_up(folder: Path, lane: str, place: Place | None, key: Hmac) -> tuple[int, Place | None]:
    """Return the number of a lane's last file, and its end: a killed worker may have written a request, or begun a file, that
    its head does not know yet."""
    number = int(place.file.split("-")[2][:6]) if place else 0
    while True:
        if place is not None:
            place = _walk_on(folder / place.file, place, key)
        after = next(folder.glob(f"*-{lane}-{number + 1:06d}.jsonl"), None)
        if after is None:
            return number, place
        number += 1
        with after.open("rb") as file:
            line = file.readline()
        header = unsign(line, place.last if place else "", key)
        if header is not None:  # else the file was changed: what follows links to the end that is known
            place = Place(after.name, 1, len(line), header["mac"])


def _walk_on(path: Path, place: Place, key: Hmac) -> Place:
    """Return the end of the last whole request after a place."""
    mac, lines, size = place.last, place.lines, place.size
    for line in lines_after(path, place.size):
        content = unsign(line, mac, key)
        if content is None:
            break
        mac, lines, size = content["mac"], lines + 1, size + len(line)
        if content["left"] == 0:
            place = Place(place.file, lines, size, mac)
    return place


def _torn(path: Path, end: Place, key: Hmac) -> str:
    """Return the digest of what an unfinished write left after the end of a file; empty if it is no such thing."""
    tail = list(lines_after(path, end.size))
    mac = end.last
    for line in [line for line in tail if line.endswith(b"\n")]:
        content = unsign(line, mac, key)
        if content is None:
            return ""
        mac = content["mac"]
    return hashlib.sha256(b"".join(tail)).hexdigest() if tail else ""


@dataclass(frozen=True)
class _Claim:
    """What a head or another file says of a file: that it had this line. torn: from the file after it, what follows its end."""

    lines: int
    mac: str
    said_by: str
    torn: str | None = None


@dataclass
class LogReader:
    """Reads and verifies every log of a folder. What is wrong with one does not keep the others from being read.

    problems: what was changed, cut, lost or cannot be verified, a sentence each that names the file. remarks: what is as it
    should be after a worker was stopped. files: how many decisions of each were verified.
    """

    folder: Path
    problems: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    files: dict[str, int] = field(default_factory=dict)

    def decisions(self) -> Iterator[dict[str, Any]]:
        """Yield what is verified, lane by lane; `problems` is complete at the end."""
        self._keys = {name: chain_key(key) for name, key in known_keys(self.folder).items()}
        self._claims: dict[str, list[_Claim]] = defaultdict(list)
        lanes = self._read_heads()  # before the files are listed: a worker that writes now is then ahead of its head
        paths = sorted(self.folder.glob("*.jsonl"))
        headers = {path.name: self._header(path) for path in paths if _NAME.fullmatch(path.name)}
        known = {name: header for name, header in headers.items() if header is not None}
        for name, header in known.items():
            self._note(name, header)
        self._name_missing(set(headers), lanes)
        for name, header in known.items():
            yield from self._read(self.folder / name, header)
        yield from self._read_older([path for path in paths if path.name not in headers], known)

    def _read_heads(self) -> set[str]:
        found = set()
        for path in sorted(heads_folder(self.folder).glob("w*.head")):
            place, _, is_whole = read_head(path, list(self._keys.values()))
            if not is_whole:
                self.problems.append(f"{path} was changed, cut or written with a key that is not here.")
            if place is not None:
                found.add(path.stem)
                self._claims[place.file].append(_Claim(place.lines, place.last, path.name))
        return found

    def _header(self, path: Path) -> dict[str, Any] | None:
        with path.open("rb") as file:
            line = file.readline()
        try:
            raw = orjson.loads(line)
            key, before = raw["key"], raw.get("before") or {"last": ""}
            mac = str(before["last"])
        except (ValueError, TypeError, KeyError, AttributeError):
            self.problems.append(f"{path}, line 1: is no header of a decision log: it was changed or emptied.")
            return None
        if key not in self._keys:
            self.problems.append(f"{path} was written with key {key!r}, which is not here: put it beside the log as NAME.key.")
            return None
        header = unsign(line, mac, self._keys[key])
        if header is None or header["file"] != path.name:
            self.problems.append(f"{path}, line 1: the header was changed, or the file had another name.")
            return None
        return header

    def _note(self, name: str, header: dict[str, Any]) -> None:
        for other in header["lanes"].values():
            self._claims[other["file"]].append(_Claim(other["lines"], other["last"], name))
        if before := header.get("before"):
            self._claims[before["file"]].append(_Claim(before["lines"], before["last"], name, before["torn"]))

    def _name_missing(self, names: set[str], lanes: set[str]) -> None:
        for name in sorted(set(self._claims) - names):
            claim = max(self._claims[name], key=lambda claim: claim.lines)
            self.problems.append(f"{self.folder / name} is missing: it had {claim.lines} lines or more, says {claim.said_by}.")
        for lane in sorted({name.split("-")[1] for name in names} - lanes):
            self.problems.append(
                f"{heads_folder(self.folder) / lane}.head is missing: whether the end of that lane was cut off cannot be told."
            )

    def _read(self, path: Path, header: dict[str, Any]) -> Iterator[dict[str, Any]]:
        key, mac, number = self._keys[header["key"]], header["mac"], 1
        ends, waiting, tail = {1: mac}, [], []
        self.files[path.name] = 0
        for line in itertools.islice(lines_after(path, 0), 1, None):
            tail.append(line)
            if not line.endswith(b"\n"):
                break
            content = unsign(line, mac, key)
            if content is None:
                self.problems.append(
                    f"{path}, line {number + 1}, does not follow the line before it: the log was changed. "
                    "What comes after it in this file is not believed."
                )
                return
            mac, number = content["mac"], number + 1
            waiting.append(content)
            if content["left"] == 0:
                self.files[path.name] += len(waiting)
                yield from waiting
                ends[number], waiting, tail = mac, [], []
        self._compare(path, ends, hashlib.sha256(b"".join(tail)).hexdigest() if tail else "")

    def _compare(self, path: Path, ends: dict[int, str], tail: str) -> None:
        """Compare where requests ended in a file, and what lies after the last, with what is known of it elsewhere."""
        claims = self._claims[path.name]
        unmet = [claim for claim in claims if ends.get(claim.lines) != claim.mac]
        torn = next((claim.torn for claim in claims if claim.torn is not None), None)
        if unmet:
            claim = max(unmet, key=lambda claim: claim.lines)
            self.problems.append(
                f"{path} ends after line {max(ends)}; it had {claim.lines} or more, says {claim.said_by}: "
                "its end was cut off or changed."
            )
        elif torn is not None and torn != tail:
            self.problems.append(f"{path}: what follows line {max(ends)} was changed.")
        elif tail:
            self.remarks.append(f"{path} ends in a request that its worker could not finish; it was never answered.")

    def _read_older(self, paths: list[Path], headers: dict[str, dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Read logs of format 1: a chain without a key, which says nothing of its end."""
        began = [header["older"] for header in headers.values() if "older" in header]
        known = {name: digest for older in began for name, digest in older.items()}
        ends = {last_digest(path) for path in paths}
        for path in paths:
            if began and known.get(path.name) != hashlib.sha256(path.read_bytes()).hexdigest():
                self.problems.append(
                    f"{path} has format 1, which needs no key, and was written or changed after format {FORMAT} began here: "
                    "it is not believed. Package the versions again that an older recstill serves."
                )
                continue
            self.files[path.name] = 0
            self.remarks.append(f"{path} has format 1: changes of its last line, or a cut end, cannot be told.")
            yield from self._read_chain(path, ends)

    def _read_chain(self, path: Path, ends: set[str]) -> Iterator[dict[str, Any]]:
        before = ""
        for number, line in enumerate(lines_after(path, 0), 1):
            if not line.endswith(b"\n"):
                self.remarks.append(f"{path} ends in a line that its worker could not finish.")
                return
            content = older_decision(line)
            # A server that ran over midnight went on with the digest of the day before.
            if content is None or (content["before"] != before and not (number == 1 and content["before"] in ends)):
                self.problems.append(f"{path}, line {number}, does not follow the line before it: the log was changed.")
                return
            before = hashlib.sha256(line[:-1]).hexdigest()
            self.files[path.name] += 1
            yield content
        if not before:
            self.problems.append(f"{path} is empty.")
