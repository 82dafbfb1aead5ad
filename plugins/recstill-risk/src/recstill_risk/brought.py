"""LightGBM files that the user has already: which feature each column is, which value each code."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recstill_risk.matrix import Codes, OwnCodes
from recstill_risk.textmodel import load_text_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from recstill.api import FeatureSpec
    from recstill_risk.textmodel import TextModel

_AS_IS = "values"


def read_brought(path: str) -> TextModel:
    """Read a file, once for as long as it stays as it is. Raise ValueError for one that is not there or not whole."""
    try:
        found = Path(path).stat()
    except OSError as error:
        raise ValueError(f"{path} is not there, or cannot be read: {error.strerror}") from error
    return _read(path, found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=8)
def _read(path: str, _size: int, _changed: int) -> TextModel:
    return load_text_model(Path(path))


def match_features(model: TextModel, given: Sequence[FeatureSpec], name: str) -> tuple[FeatureSpec, ...]:
    """Return the task's features in the order of the file's. Raise ValueError for names that the task does not give.

    LightGBM writes a space in a name as an underscore.
    """
    known = {feature.name: feature for feature in given}
    written: dict[str, list[FeatureSpec]] = {}
    for feature in given:
        written.setdefault(re.sub(r"\s", "_", feature.name), []).append(feature)
    found, lacking = [], []
    for column in model.features:
        fits = [known[column]] if column in known else written.get(column, [])
        if len(fits) > 1:
            raise ValueError(f"{name}: {column!r} may be {' or '.join(repr(f.name) for f in fits)}; rename one of them")
        found += fits
        lacking += [] if fits else [column]
    if lacking:
        hint = ""
        if all(re.fullmatch(r"Column_\d+", column) for column in lacking):
            hint = "; it was trained without names: name its columns in the line `feature_names`, or train with feature_name"
        raise ValueError(f"{name} reads {_some(lacking)}, and the task gives {_some(known)}{hint}")
    return tuple(found)


def codes_of(
    model: TextModel, features: Sequence[FeatureSpec], said: Mapping[str, Any], name: str
) -> dict[str, Codes | OwnCodes]:
    """Return the codes of each feature that the file reads as a category: as `said` by the user, or as pandas had them.

    features: in the file's order. Raise ValueError where it is not certain which value a code stands for.
    """
    names = [feature.name for feature in features]
    codes = {feature: _said(feature, values) for feature, values in said.items() if feature in names}
    open_places = [place for place in sorted(model.categorical) if names[place] not in codes]
    if model.categories:
        places = _pandas_places(model, features, set(codes), open_places, name)
        for place, values in zip(places, model.categories, strict=True):
            _check_range(model.infos[place], len(values), names[place], name)
            codes[names[place]] = Codes(tuple(values), typed=True)
    if lacking := [names[place] for place in open_places if names[place] not in codes]:
        raise ValueError(
            f"{name} reads {_some(lacking)} as a category by code and does not say what the codes stand for "
            f"(no pandas_categorical): train it from a pandas frame with dtype category, or write the values in the order of "
            f"their codes, `codes: {{{lacking[0]}: [value of code 0, …]}}`, or `{{{lacking[0]}: {_AS_IS}}}` if values are codes"
        )
    return codes


def check_values(
    codes: Mapping[str, Codes | OwnCodes], columns: Mapping[str, NDArray[np.generic]], name: str, say: Callable[[str], None]
) -> None:
    """Say which values of the training rows the file does not know. Raise ValueError for a feature of which it knows none."""
    for feature, coded in codes.items():
        distinct = list(dict.fromkeys(value for value in columns[feature].tolist() if value is not None and value == value))
        strange = [value for value, code in zip(distinct, coded.places(distinct), strict=True) if np.isnan(code)]
        if distinct and len(strange) == len(distinct):
            known = _some(map(repr, coded.values)) if isinstance(coded, Codes) else "whole numbers from 0"
            raise ValueError(
                f"{name}: none of the values of {feature!r} is one that it was trained on: the rows have "
                f"{_some(map(repr, distinct))}, the file has {known}"
            )
        if strange:
            say(f"{name}: {len(strange)} of {len(distinct)} values of {feature!r} are unknown to it and count as missing")


def _said(feature: str, values: Any) -> Codes | OwnCodes:
    if values == _AS_IS:
        return OwnCodes()
    if not isinstance(values, (list, tuple)) or len(set(map(repr, values))) != len(values):
        raise ValueError(f"codes: {feature!r}: write a list of distinct values in the order of their codes, or `{_AS_IS}`")
    return Codes(tuple(values), typed=True)


def _pandas_places(model: TextModel, features: Sequence[FeatureSpec], said: set[str], coded: list[int], name: str) -> list[int]:
    """Return which columns the lists of pandas_categorical are of: it has one for each column of dtype category, in order, and
    does not name them."""
    by_task = [place for place, feature in enumerate(features) if feature.kind == "categorical" and feature.name not in said]
    count = len(model.categories)
    if len(by_task) == count and set(coded) <= set(by_task):
        return by_task
    if len(coded) == count and len(by_task) != count:
        return coded
    raise ValueError(
        f"{name} has {count} lists in pandas_categorical, reads {_some(features[place].name for place in coded)} by code, and "
        f"the task calls {_some(features[place].name for place in by_task)} categorical: which list is whose cannot be told. "
        "Declare exactly the columns of dtype category as categorical"
    )


def _check_range(info: str, count: int, feature: str, name: str) -> None:
    """Codes that training saw must be among the categories."""
    if info == "none":
        return
    found = [float(number) for number in re.findall(r"-?[\d.]+(?:e[-+]?\d+)?", info)]
    if min(found) < -1 or max(found) > count - 1:
        raise ValueError(f"{name}: {feature!r} was trained on codes up to {max(found):g}, and has {count} categories")


def _some(names: Iterable[Any]) -> str:
    found = [str(one) for one in names]
    return ", ".join(found[:6]) + (f" and {len(found) - 6} more" if len(found) > 6 else "") if found else "none"
