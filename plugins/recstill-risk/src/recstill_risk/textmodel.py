"""LightGBM's text format, read wholly before LightGBM sees any of it: the library ends the process on many a broken file.

What is read here is written anew for it (`raw_text`), so that it never parses a byte that was not looked at.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from recstill_risk.treetext import Tree, read_tree, tree_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_VERSIONS = ("v2", "v3", "v4")
_HEADER = {
    "tree", "version", "num_class", "num_tree_per_iteration", "label_index", "max_feature_idx", "objective", "average_output",
    "feature_names", "monotone_constraints", "feature_infos", "tree_sizes",
}  # fmt: skip
_NEEDED = ("version", "num_class", "max_feature_idx", "feature_names", "feature_infos", "tree_sizes")
_END = b"end of trees"
_CATEGORIES = "pandas_categorical:"
_MOST = 1_000_000
_INFO = re.compile(r"none|\[[^\[\]]+:[^\[\]]+\]|-?\d{1,10}(:-?\d{1,10})*")


@dataclass(frozen=True)
class TextModel:
    """What a file says. features: their names, in the order of the columns that it reads. infos: by feature `none`, the range
    of a number, or the codes of a category. objective: its words, empty for a custom one. per_round: trees in a round, one for
    each class. categories: of each pandas column of type category, in the columns' order, the values by code."""

    features: tuple[str, ...]
    infos: tuple[str, ...]
    objective: tuple[str, ...]
    average: bool
    num_class: int
    per_round: int
    trees: tuple[Tree, ...]
    categories: tuple[tuple[Any, ...], ...]

    @property
    def rounds(self) -> int:
        return len(self.trees) // self.per_round

    @property
    def categorical(self) -> set[int]:
        """The places of the features that it reads as categories."""
        said = {place for place, info in enumerate(self.infos) if info != "none" and not info.startswith("[")}
        return said.union(*(tree.categorical for tree in self.trees))


def load_text_model(path: Path) -> TextModel:
    """Read a file. Raise ValueError, with what is wrong, for one that is not there, not readable, or not whole."""
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise ValueError(f"{path} is not there") from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    return read_text_model(content, str(path))


def read_text_model(content: bytes, name: str) -> TextModel:
    """Read a file's bytes. Raise ValueError, with the place, for anything that LightGBM would not have written."""
    head, blocks, tail = _parts(content, name)
    header = _header(head, name)
    num_class = _whole(header, "num_class", name)
    per_round = _whole(header, "num_tree_per_iteration", name) if "num_tree_per_iteration" in header else num_class
    features = tuple(header["feature_names"].split(" "))
    infos = tuple(header["feature_infos"].split(" "))
    _check_features(features, infos, header, name)
    if len(blocks) % per_round:
        raise ValueError(f"{name} has {len(blocks)} trees, which are no whole number of rounds of {per_round}")
    trees = tuple(read_tree(block, f"{name}, tree {number}", len(features)) for number, block in enumerate(blocks))
    objective = tuple(header.get("objective", "").split())
    categories = _categories(tail, name)
    return TextModel(features, infos, objective, "average_output" in header, num_class, per_round, trees, categories)


def raw_text(model: TextModel) -> str:
    """Return the trees as a file of raw scores: no objective, no average, features f0, f1 …"""
    blocks = [f"Tree={number}\n{tree_text(tree)}\n\n" for number, tree in enumerate(model.trees)]
    count = len(model.features)
    names = " ".join(f"f{place}" for place in range(count))
    sizes = " ".join(str(len(block)) for block in blocks)
    head = {
        "version": "v4", "num_class": model.per_round, "num_tree_per_iteration": model.per_round, "label_index": 0,
        "max_feature_idx": count - 1, "feature_names": names, "feature_infos": " ".join(["none"] * count), "tree_sizes": sizes,
    }  # fmt: skip
    lines = "".join(f"{key}={value}\n" for key, value in head.items())
    return f"tree\n{lines}\n{''.join(blocks)}end of trees\n\npandas_categorical:null\n"


def _parts(content: bytes, name: str) -> tuple[str, list[str], str]:
    """Cut the file into its header, its trees and what follows them; the sizes in the header must be those of the trees."""
    if not content.startswith((b"tree\n", b"tree\r\n")):
        raise ValueError(f"{name} is no LightGBM text model: it does not begin with the line `tree`")
    if b"\r" in content:
        raise ValueError(f"{name} has line ends of Windows, which LightGBM's sizes do not count; convert it (dos2unix)")
    try:
        content.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is no text in UTF-8, at byte {error.start:,}") from error
    start, end = content.find(b"\nTree=") + 1, content.find(b"\n" + _END + b"\n") + 1
    if not start or end < start:
        raise ValueError(f"{name} has no trees, or is not all of a file: after the trees comes the line `{_END.decode()}`")
    head = content[:start].decode()
    return head, list(_blocks(content[start:end], head, name)), content[end:].decode()


def _blocks(body: bytes, head: str, name: str) -> Iterator[str]:
    claimed = re.findall(r"^tree_sizes=(.*)$", head, re.MULTILINE)
    if len(claimed) != 1 or not re.fullmatch(r"\d{1,12}( \d{1,12})*", claimed[0]):
        raise ValueError(f"{name} has not one line `tree_sizes` of whole numbers; load it in LightGBM and save it again")
    sizes, begins = [int(size) for size in claimed[0].split()], [found.start() for found in re.finditer(rb"^Tree=", body, re.M)]
    if len(sizes) != len(begins):
        raise ValueError(f"{name} claims {len(sizes)} trees and has {len(begins)}")
    for number, (size, begin, stop) in enumerate(zip(sizes, begins, [*begins[1:], len(body)], strict=True)):
        if stop - begin != size:
            raise ValueError(f"{name}, tree {number}: {stop - begin} bytes, not the {size} of tree_sizes: the file was changed")
        first, _, block = body[begin:stop].decode().partition("\n")
        if first != f"Tree={number}":
            raise ValueError(f"{name}: {first[:40]!r} where Tree={number} should be")
        yield block


def _header(head: str, name: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in filter(None, head.split("\n")):
        key, _, value = line.partition("=")
        if key in found:
            raise ValueError(f"{name} has {key!r} twice")
        if key not in _HEADER:
            raise ValueError(f"{name} has a line {key[:40]!r} that is not known here, so what it means cannot be obeyed")
        found[key] = value
    if lacking := [key for key in _NEEDED if key not in found]:
        raise ValueError(f"{name} has no {', '.join(lacking)}")
    if found["version"] not in _VERSIONS:
        raise ValueError(f"{name} is of version {found['version'][:20]!r}; known: {', '.join(_VERSIONS)}")
    return found


def _whole(header: dict[str, str], key: str, name: str, least: int = 1) -> int:
    if not re.fullmatch(r"\d{1,7}", header[key]) or not least <= int(header[key]) <= _MOST:
        raise ValueError(f"{name}: {key} is {header[key][:20]!r}, no whole number from {least} to {_MOST:,}")
    return int(header[key])


def _check_features(features: Sequence[str], infos: Sequence[str], header: dict[str, str], name: str) -> None:
    count = _whole(header, "max_feature_idx", name, 0) + 1
    if len(features) != count or len(infos) != count:
        raise ValueError(f"{name} claims {count} features, names {len(features)} and describes {len(infos)}")
    if repeated := sorted({feature for feature in features if features.count(feature) > 1 or not feature}):
        raise ValueError(f"{name} has features of no name, or of one name: {', '.join(repeated[:5])}")
    if wrong := [info for info in infos if not _INFO.fullmatch(info)]:
        raise ValueError(f"{name}: feature_infos has {wrong[0][:40]!r}, which is no range and no codes")


def _categories(tail: str, name: str) -> tuple[tuple[Any, ...], ...]:
    lines = [line for line in tail.split("\n") if line.startswith(_CATEGORIES)]
    if not lines:
        return ()
    try:
        found = json.loads(lines[-1].removeprefix(_CATEGORIES)) or []
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name}: its pandas_categorical is no JSON") from error
    lists = found if isinstance(found, list) and len(lines) == 1 else [None]
    for values in lists:
        if not isinstance(values, list) or not all(_is_plain(value) for value in values):
            raise ValueError(f"{name}: its pandas_categorical is not one list of lists of texts and numbers")
        if len(set(map(_typed, values))) != len(values):
            raise ValueError(f"{name}: its pandas_categorical has a value twice")
    return tuple(map(tuple, lists))


def _is_plain(value: Any) -> bool:
    return isinstance(value, (str, int)) or (isinstance(value, float) and math.isfinite(value))


def _typed(value: Any) -> tuple[bool, Any]:
    return isinstance(value, bool), value
