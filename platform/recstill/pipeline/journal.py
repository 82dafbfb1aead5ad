"""The journal: results, each stored under the key of everything that decided it.

A folder per kind of result and key holds the files, and `record.json`: the parts of the key, the result, the files' digests.
Resume and reuse ask the same question: is there a result of these inputs?
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recstill.api.errors import IntegrityError
from recstill.data.files import check_sha256, new_folder, read_json, sha256_of, write_json
from recstill.pipeline.inputs import Inputs, canonical

RECORD = "record.json"
# Looking further back would read many files to say what changed, and the newest results are the ones that people remember.
_MOST_COMPARED = 50


@dataclass(frozen=True)
class Record:
    """A stored result: the run that made it, what decided it, what was found."""

    folder: Path
    run: str
    inputs: Inputs
    result: Mapping[str, Any]
    files: Mapping[str, str]

    def restore(self, products: Mapping[str, Path]) -> None:
        """Lay the files out where a run expects them: {name: path}, a product of several files as a folder."""
        for name, target in products.items():
            stored = self.folder / name
            if stored.is_dir():
                shutil.rmtree(target, ignore_errors=True)
                with new_folder(target) as folder:
                    for path in sorted(stored.iterdir()):
                        link(path, folder / path.name)
            elif stored.is_file():
                link(stored, target)


class Journal:
    """The results of one home. Entries are never changed; a damaged one is thrown away, since it can be made again."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def find(self, kind: str, inputs: Inputs) -> Record | None:
        """Return the result of these inputs, after checking its bytes. Raise IntegrityError for a damaged one."""
        folder = self.root / kind / inputs.key
        if not (folder / RECORD).is_file():
            return None
        record = _open(folder)
        if record.inputs.key != inputs.key:
            raise IntegrityError(f"{folder / RECORD} holds a result of other inputs.")
        for name, digest in record.files.items():
            check_sha256(folder / name, digest, "It can be made again.")
        return record

    def keep(self, kind: str, inputs: Inputs, run: str, result: Mapping[str, Any], products: Mapping[str, Path]) -> None:
        """Store a result with its files; a result of these inputs that is there already stays."""
        with new_folder(self.root / kind / inputs.key) as folder:
            for name, path in products.items():
                _take_in(path, folder / name)
            names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
            content = {
                "run": run,
                "inputs": inputs.to_json(),
                "result": dict(result),
                "files": {name: sha256_of(folder / name) for name in names},
            }
            write_json(folder / RECORD, {**content, "sha256": _digest(content)})

    def forget(self, kind: str, inputs: Inputs) -> None:
        """Throw a result away."""
        shutil.rmtree(self.root / kind / inputs.key, ignore_errors=True)

    def nearest(self, kind: str, inputs: Inputs) -> tuple[str, list[str]] | None:
        """Return (run, what changed since) of the earlier result of this kind that differs least; None if there is none."""
        paths = sorted((self.root / kind).glob(f"*/{RECORD}"), key=lambda path: -path.stat().st_mtime_ns)
        best: tuple[str, list[str]] | None = None
        for path in paths[:_MOST_COMPARED]:
            try:
                record = _open(path.parent)
            except IntegrityError:
                continue  # it says nothing that could be believed
            words = inputs.changes_since(record.inputs)
            if words and (best is None or len(words) < len(best[1])):
                best = record.run, words
        return best


def link(source: Path, target: Path) -> None:
    """Give a file that nobody changes in place a second name, or copy it where the file system has no links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)  # never write into what a killed process may have linked
    try:
        os.link(source, temporary)
    except OSError:
        shutil.copyfile(source, temporary)
    temporary.replace(target)


def _take_in(path: Path, target: Path) -> None:
    if path.is_dir():
        for inner in sorted(path.iterdir()):
            link(inner, target / inner.name)
    elif path.is_file():
        link(path, target)


def _open(folder: Path) -> Record:
    try:
        content = dict(read_json(folder / RECORD))
        digest = content.pop("sha256")
        if digest != _digest(content):
            raise IntegrityError(f"{folder / RECORD} was changed.")
        inputs = Inputs.from_json(content["inputs"])
        return Record(folder, content["run"], inputs, content["result"], content["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"{folder / RECORD} cannot be read: {error}.") from error


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical(content).encode()).hexdigest()
