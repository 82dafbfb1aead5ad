"""YAML says what it says in YAML 1.2, or is refused with its line."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recstill.api import ConfigError
from recstill.recipes.strict_yaml import load, not_finite, read_yaml

WORDS = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\u2028\u2029\x85\ufeff\ufffe\uffff"), max_size=12
)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**62), 2**62), st.floats(allow_nan=False, allow_infinity=False), WORDS
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=4), max_leaves=12
)
MANY = ["a: &a [x]", *(f"{n}: &{n} [{', '.join([f'*{p}'] * 9)}]" for p, n in zip("abcdef", "bcdefg", strict=True))]


def refused(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(text, "x")
    return "\n".join(caught.value.problems)


def same(first: Any, second: Any) -> bool:
    """Equal, a whole float in exponent form as its integer."""
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list):
        return len(first) == len(second) and all(map(same, first, second))
    is_number = isinstance(first, float) and isinstance(second, (int, float)) and not isinstance(second, bool)
    return first == second and (type(first) is type(second) or is_number)


@given(VALUES)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_json_is_read_as_json(value: Any) -> None:
    assert same(value, load(json.dumps(value), "x"))
    assert same(value, load(json.dumps(value, ensure_ascii=False), "x"))


@given(st.floats(allow_nan=False, allow_infinity=False), st.sampled_from([".1e", ".17e", ".0e", ".3f", ".17g"]))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_every_way_to_write_a_number_is_a_number(value: float, form: str) -> None:
    text = format(value, form)
    if abs(float(text)) != math.inf:
        read = load(f"a: {text}", "x")["a"]
        assert isinstance(read, (int, float))
        assert read == float(text)


@given(st.dictionaries(WORDS.filter(bool), st.integers(0, 9), min_size=1, max_size=5), st.data())
@settings(max_examples=50, deadline=None, derandomize=True)
def test_a_key_that_comes_twice_is_refused_with_its_line(mapping: dict[str, int], data: st.DataObject) -> None:
    lines = [f"{json.dumps(key)}: {value}" for key, value in mapping.items()]
    again = data.draw(st.sampled_from(sorted(mapping)))
    assert f"line {len(lines) + 1}: the key {again!r} comes twice" in refused("\n".join([*lines, f"{json.dumps(again)}: 1"]))


@pytest.mark.parametrize(("text", "value"), [
    ("1e-3", 0.001), ("1e4", 10_000), ("-1E+2", -100), ("4.0", 4.0), (".5", 0.5), ("0o17", 15), ("0x1F", 31), ("+12", 12),
    ("no", "no"), ("on", "on"), ("yes", "yes"), ("1:30", "1:30"), ("4_096", "4_096"), ("2024-01-01", "2024-01-01"),
    ("true", True), ("False", False), ("~", None), ("", None), ("'010'", "010"), ("1.2.3", "1.2.3"), ("0b1", "0b1"),
])  # fmt: skip
def test_plain_words_are_what_the_core_schema_says(text: str, value: object) -> None:
    read = load(text, "x")
    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize(("text", "words"), [
    ("a:\n- 010", "line 2: 010: a number with leading zeros; write 10"),
    ("a: {b: 1, b: 2}", "line 1: the key 'b' comes twice"),
    ("- x: 1\n  y: {z: 1}\n  x: 2", "line 3: the key 'x' comes twice"),
    ("1: 2", "a key must be a text, not '1'"),
    ("? [a]\n: b", "a key must be a text, not a list"),
    ("a: &a [*a]", "an anchor that holds itself"),
    ("[" * 5000, "nested too deeply"),
    ("\t- a", "line 1, column 1"),
    ("!!python/object:os.system x", "unknown tag"),
    ("!!timestamp 2024-01-01", "unknown tag"),
    ("a: 1e999", "a number too large"),
    ("a\x00", "not YAML"),
    ("--- a\n--- b", "another document"),
    ("[0", "not YAML: line 1"),
    ("\n".join(MANY), "more than 100,000 values"),
    ('"\\ud800"', "half of a character"),
])  # fmt: skip
def test_what_is_refused_names_its_place(text: str, words: str) -> None:
    assert words in refused(text)


@pytest.mark.parametrize(
    "value", ["!!bool maybe", "!!null 1", "!!int x", "!!float x", "!!str [1]", "!!map [1]", "!!seq {b: 1}"]
)
def test_a_tag_that_the_value_does_not_fit_is_refused(value: str) -> None:
    assert "line 1: the value is no" in refused(f"a: {value}")


def test_a_mapping_that_merges_another_can_be_merged_itself() -> None:
    text = "base: &base {x: 1}\nouter: {inner: &mid {<<: *base, x: 2}}\nlast: {<<: *mid, y: 3}"
    assert load(text, "x") == {"base": {"x": 1}, "outer": {"inner": {"x": 2}}, "last": {"x": 2, "y": 3}}
    assert "comes twice" in refused("base: &base {x: 1}\nlast: {<<: *base, y: 1, y: 2}")


def test_a_number_too_small_to_be_told_from_zero_is_refused() -> None:
    assert "would be 0" in refused("a: 1e-400")
    assert load("a: [0e5, 0.0, 5e-324]", "x") == {"a": [0, 0.0, 5e-324]}


def test_an_anchor_is_two_things_in_two_places() -> None:
    read = load("a: &x {b: 1}\nc: {<<: *x, d: 2}\ne: *x", "x")
    read["a"]["b"] = 9
    assert read == {"a": {"b": 9}, "c": {"b": 1, "d": 2}, "e": {"b": 1}}


def test_files_are_utf_8_or_refused_by_line(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes("a: 1\nb: für".encode("latin-1"))
    with pytest.raises(ConfigError, match="line 2: byte 0xfc is no UTF-8"):
        read_yaml(path, "Recipe")
    path.write_bytes("\ufeffa: ü\r\nb: 2\r\n".encode())
    assert read_yaml(path, "Recipe") == {"a": "ü", "b": 2}
    with pytest.raises(ConfigError, match="cannot be read"):
        read_yaml(tmp_path, "Recipe")


def test_numbers_that_are_none_are_found_at_any_depth() -> None:
    assert list(not_finite(load("{a: [1, .nan], b: {c: -.inf, d: '.nan'}}", "x"))) == ["a.1", "b.c"]
