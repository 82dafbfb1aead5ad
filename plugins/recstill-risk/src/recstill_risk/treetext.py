"""One tree of a LightGBM text file: read with every check that its own reader leaves out, and written again."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

_MOST_LEAVES = 131_072
_LARGEST = 1e30  # of a leaf: a million of them still sum to a finite float32
_INTEGERS = re.compile(r"-?\d{1,10}(?: -?\d{1,10})*")
_FLOATS = re.compile(r"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?(?: -?\d+(?:\.\d+)?(?:e[-+]?\d+)?)*")
_ENDLESS = "threshold"  # a split of what is there from what is missing is one at infinity
# How many values a line has: of each split, of each leaf, or as others say. The plain lines change no answer and are left out.
_PER_SPLIT = {"split_feature": int, "threshold": float, "decision_type": int, "left_child": int, "right_child": int}
_PLAIN = {"split_gain", "leaf_weight", "leaf_count", "internal_value", "internal_weight", "internal_count", "shrinkage"}
_KNOWN = {
    *_PER_SPLIT, *_PLAIN, "num_leaves", "num_cat", "leaf_value", "cat_boundaries", "cat_threshold", "is_linear", "leaf_const",
    "num_features", "leaf_features", "leaf_coeff",
}  # fmt: skip
_CATEGORICAL, _MISSING, _BITS = 1, 2, 15


@dataclass(frozen=True)
class Tree:
    """Checked lines by key, as arrays; of a line that does not apply to this tree there is none."""

    lines: Mapping[str, NDArray[np.int64] | NDArray[np.float64]]
    num_leaves: int
    num_cat: int

    @property
    def leaf_values(self) -> NDArray[np.float64]:
        return self.lines["leaf_value"].astype(np.float64)

    @property
    def categorical(self) -> set[int]:
        """The places of the features that it splits by category."""
        by_category = self.lines["decision_type"] & _CATEGORICAL == _CATEGORICAL  # type: ignore[operator]
        return set(self.lines["split_feature"][by_category].tolist())


def tree_text(tree: Tree) -> str:
    """Return the lines that LightGBM reads."""
    counts = {"num_leaves": tree.num_leaves, "num_cat": tree.num_cat}
    said = [f"{key}={value}" for key, value in counts.items()]
    said += [f"{key}={' '.join(map(repr, values.tolist()))}" for key, values in tree.lines.items()]
    return "\n".join([*said, f"is_linear={int('leaf_const' in tree.lines)}", "shrinkage=1", ""])


def read_tree(block: str, name: str, num_features: int) -> Tree:
    """Read the lines of one tree. Raise ValueError unless they are a whole tree over these features, of finite numbers."""
    lines = _lines(block, name)
    num_leaves = _count(lines, "num_leaves", name, 1, _MOST_LEAVES)
    num_cat = _count(lines, "num_cat", name, 0, num_leaves - 1)
    found = {key: _numbers(lines, key, name, kind, num_leaves - 1) for key, kind in _PER_SPLIT.items()}
    found["leaf_value"] = _numbers(lines, "leaf_value", name, float, num_leaves)
    _check_splits(found, name, num_features, num_cat)
    _check_shape(found["left_child"], found["right_child"], name)
    if num_cat:
        found |= _category_sets(lines, name, num_cat)
    if lines.get("is_linear", "0") != "0":
        found |= _linear(lines, name, num_leaves, num_features)
    return Tree(found, num_leaves, num_cat)


def _lines(block: str, name: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in filter(None, block.split("\n")):
        key, mark, value = line.partition("=")
        if not mark or key not in _KNOWN:
            raise ValueError(f"{name} has a line {key[:40]!r} that is not known here")
        if key in found:
            raise ValueError(f"{name} has {key} twice")
        found[key] = value.strip(" ")
    return found


def _count(lines: Mapping[str, str], key: str, name: str, least: int, most: int) -> int:
    text = lines.get(key, "")
    if not re.fullmatch(r"\d{1,7}", text) or not least <= int(text) <= most:
        raise ValueError(f"{name}: {key} is {text[:20]!r}, no whole number from {least} to {most:,}")
    return int(text)


def _numbers(
    lines: Mapping[str, str], key: str, name: str, kind: type[int] | type[float], count: int
) -> NDArray[np.int64] | NDArray[np.float64]:
    """Return a line's values. Raise ValueError unless there are `count` of them, whole or finite as they should be."""
    text = re.sub(" +", " ", lines.get(key, ""))
    pattern = _INTEGERS if kind is int else _FLOATS
    finite = re.sub(r"\binf\b", "1", text) if key == _ENDLESS else text
    if text and not pattern.fullmatch(finite):
        raise ValueError(f"{name}: {key} has something that is no {'whole' if kind is int else 'finite'} number")
    values = np.array(text.split(), np.int64 if kind is int else np.float64)
    if len(values) != count:
        raise ValueError(f"{name}: {key} has {len(values)} values and should have {count}")
    largest = 2**31 if kind is int else _LARGEST
    if key != _ENDLESS and np.any(np.abs(values) >= largest):
        raise ValueError(f"{name}: {key} has a value beyond {largest:g}")
    return values


def _check_splits(found: Mapping[str, NDArray], name: str, num_features: int, num_cat: int) -> None:  # type: ignore[type-arg]
    features, kinds, thresholds = found["split_feature"], found["decision_type"], found["threshold"]
    if np.any((features < 0) | (features >= num_features)):
        raise ValueError(f"{name} splits on a feature that there is not")
    if np.any((kinds < 0) | (kinds > _BITS) | (kinds >> _MISSING == 3)):
        raise ValueError(f"{name}: decision_type has a value that means nothing")
    places = thresholds[kinds & _CATEGORICAL == _CATEGORICAL]
    if len(places) != num_cat or np.any(np.sort(places) != np.arange(num_cat)):
        raise ValueError(f"{name} has {len(places)} splits by category, which are not its {num_cat} sets of categories")


def _check_shape(left: NDArray, right: NDArray, name: str) -> None:  # type: ignore[type-arg]
    """Every split but the first and every leaf hangs below one split, which came before it: a tree, without a cycle."""
    children, parents = np.concatenate([left, right]), np.tile(np.arange(len(left)), 2)
    splits, leaves = children >= 0, children < 0
    whole = np.array_equal(np.sort(children[splits]), np.arange(1, len(left)))
    whole = whole and np.array_equal(np.sort(~children[leaves]), np.arange(len(left) + 1) if len(left) else [])
    if not whole or np.any(children[splits] <= parents[splits]):
        raise ValueError(f"{name}: left_child and right_child are no tree")


def _category_sets(lines: Mapping[str, str], name: str, num_cat: int) -> dict[str, NDArray[np.int64] | NDArray[np.float64]]:
    """Read the sets of categories, each some words of 32 bits."""
    bounds = _numbers(lines, "cat_boundaries", name, int, num_cat + 1)
    if bounds[0] != 0 or np.any(np.diff(bounds) < 1):
        raise ValueError(f"{name}: cat_boundaries do not rise from 0")
    words = re.sub(" +", " ", lines.get("cat_threshold", ""))
    values = np.array(words.split() if _INTEGERS.fullmatch(words) else [], np.int64)
    if len(values) != bounds[-1] or np.any((values < 0) | (values >= 2**32)):
        raise ValueError(f"{name}: cat_threshold has not {bounds[-1]} words of 32 bits, as cat_boundaries says")
    return {"cat_boundaries": bounds, "cat_threshold": values}


def _linear(
    lines: Mapping[str, str], name: str, num_leaves: int, num_features: int
) -> dict[str, NDArray[np.int64] | NDArray[np.float64]]:
    """Read the linear functions of the leaves."""
    _count(lines, "is_linear", name, 1, 1)
    counts = _numbers(lines, "num_features", name, int, num_leaves)
    if np.any((counts < 0) | (counts > num_features)):
        raise ValueError(f"{name}: num_features has a value that cannot be")
    features = _numbers(lines, "leaf_features", name, int, int(counts.sum()))
    if np.any((features < 0) | (features >= num_features)):
        raise ValueError(f"{name} has a linear leaf of a feature that there is not")
    return {
        "leaf_const": _numbers(lines, "leaf_const", name, float, num_leaves), "num_features": counts,
        "leaf_features": features, "leaf_coeff": _numbers(lines, "leaf_coeff", name, float, int(counts.sum())),
    }  # fmt: skip
