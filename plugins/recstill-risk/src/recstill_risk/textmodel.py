"""What a LightGBM text file says of itself: LightGBM ends the whole process on some files, so they are looked at first."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_PER_SPLIT = ("split_feature", "threshold", "left_child", "right_child", "decision_type")


def check_text_model(text: str, name: str, features: Sequence[str]) -> None:
    """Raise ValueError unless the file is whole, its trees have the shapes they claim and finite values, and it reads these
    features in this order."""
    head, *trees = _blocks(text)
    if not text.startswith("tree\n") or "feature_names" not in head or "end of trees" not in text:
        raise ValueError(f"{name} is no LightGBM text model, or not all of one")
    found = head["feature_names"].split()
    if found != list(features):
        strange = sorted(set(found) ^ set(features))
        raise ValueError(f"{name} reads other features than the task gives, or in another order: {', '.join(strange[:5])}")
    if len(trees) != len(head.get("tree_sizes", "").split()) or not trees:
        raise ValueError(f"{name} claims {len(head.get('tree_sizes', '').split())} trees and has {len(trees)}")
    for number, tree in enumerate(trees):
        _check_tree(tree, f"{name}, tree {number}", len(features))


def _check_tree(tree: Mapping[str, str], name: str, num_features: int) -> None:
    try:
        leaves = int(tree["num_leaves"])
        values = [float(value) for value in tree["leaf_value"].split()]
        used = [int(value) for value in tree.get("split_feature", "").split()]
    except (KeyError, ValueError) as error:
        raise ValueError(f"{name}: {error}") from error
    if len(values) != leaves:
        raise ValueError(f"{name} claims {leaves} leaves and has {len(values)}")
    if not all(map(math.isfinite, values)):
        raise ValueError(f"{name} has a leaf that is no finite number")
    for key in _PER_SPLIT if leaves > 1 else ():
        if len(tree.get(key, "").split()) != leaves - 1:
            raise ValueError(f"{name}: {key} has not one value for each of its {leaves - 1} splits")
    if any(not 0 <= feature < num_features for feature in used):
        raise ValueError(f"{name} splits on a feature that there is not")


def _blocks(text: str) -> Iterator[dict[str, str]]:
    """Yield the header and then every tree as {key: value}."""
    body = text.split("end of trees")[0]
    for block in body.split("\nTree="):
        pairs = (line.split("=", 1) for line in block.splitlines() if "=" in line)
        yield dict(pairs)
