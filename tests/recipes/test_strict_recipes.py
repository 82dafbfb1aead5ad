"""Recipes, `--set`, rules and sweeps: every wrong word is named with its place, before any work."""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recstill.api import ConfigError, Schedule
from recstill.plugins.manager import load_plugins
from recstill.recipes.checking import option_problems
from recstill.recipes.config import Recipe
from recstill.recipes.loading import parse_setting
from recstill.recipes.mistakes import validated
from recstill.recipes.rules import read_rules
from recstill.recipes.sweep import load_experiment

TRAINING = {"epochs": 1, "learning_rate": 0.001, "bf16": False}
RECIPE: dict[str, Any] = {
    "task": "clicks", "seeds": [0, 1],
    "teacher": {"name": "dlrm", "features": "none", "register_as": "t", "training": TRAINING},
    "student": {"name": "small-mlp", "features": "none", "register_as": "s", "training": TRAINING, "keep_negatives": 0.5},
    "distil": {"strategies": [{"name": "soft-target", "weight": 1.0}], "label_weight": 1.0, "live": False},
}  # fmt: skip
NUMBERS = (
    "teacher.training.learning_rate", "student.training.table_l2", "student.keep_negatives", "distil.label_weight",
    "distil.strategies.0.weight", "distil.min_coverage",
)  # fmt: skip
WHOLE = ("teacher.training.epochs", "student.training.batch_size", "seeds.0", "threads", "distil.lists.top")
NAN, INF = float("nan"), float("inf")
FLAGS = ("teacher.training.bf16", "distil.live", "distil.unlabelled")


def changed(place: str, value: object) -> dict[str, Any]:
    """The recipe with another value at a place."""
    recipe = json.loads(json.dumps(RECIPE))
    part, (*parents, last) = recipe, place.split(".")
    for key in parents:
        part = part[int(key)] if isinstance(part, list) else part.setdefault(key, {})
    part[int(last) if isinstance(part, list) else last] = value
    return recipe


def mistakes(place: str, value: object) -> list[str]:
    return validated(Recipe, changed(place, value))[1]


def test_the_recipe_itself_has_no_mistake() -> None:
    recipe, problems = validated(Recipe, RECIPE)
    assert problems == []
    assert recipe is not None
    assert recipe.seeds == (0, 1)


@given(
    st.sampled_from((*NUMBERS, *WHOLE, *FLAGS)), st.sampled_from(["1", "1e1", [], {}, None, float("nan"), float("inf"), "no"])
)
@settings(max_examples=120, deadline=None, derandomize=True)
def test_a_value_of_another_type_is_named_with_its_place(place: str, value: object) -> None:
    found = mistakes(place, value)
    assert found
    assert all(text.startswith(place) for text in found)


@given(st.sampled_from(NUMBERS), st.floats(max_value=-1e-9, allow_nan=False))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_negative_numbers_are_refused(place: str, value: float) -> None:
    assert [text.split(":")[0] for text in mistakes(place, value)] == [place]


@pytest.mark.parametrize(("place", "value", "words"), [
    ("seeds", [3, 3], "seeds: 3 comes more than once"),
    ("seeds", [2**31], "seeds.0: it should be less than or equal to 2147483647"),
    ("seeds", [1.0], "seeds.0: it should be a valid integer, not 1.0: write 1"),
    ("seeds", [True], "seeds.0: it should be a valid integer"),
    ("distil.live", 0, "distil.live: it should be a valid boolean"),
    ("distil.strategies.0.weight", True, "distil.strategies.0.weight: it should be a valid number"),
    ("distil.strategies.0.weight", {"start": 1, "stop": 0, "shape": "exponential"}, "weight: an exponential schedule needs"),
    ("distil.strategies.0.weight", {"start": 1, "stop": 0, "end": 0}, "distil.strategies.0.weight.end: unknown key"),
    ("distil.strategies.0.weight", {"start": -1, "stop": 0}, "distil.strategies.0.weight.start: it should be greater"),
    ("distil.strategies", ["soft-target"], "distil.strategies.0: it should be a mapping, not 'soft-target'"),
    ("student.traning", {}, "student.traning: unknown key; did you mean 'training'?"),
    ("student.register_as", "a/b:1@x", "cannot be a name: lower-case"),
    ("student.register_as", "ads\n", "cannot be a name"),
    ("student.register_as", "ads١", "cannot be a name"),
    ("student.register_as", "t", "register_as: t names more than one model"),
    ("rules", [{"when": "x", "score": "1"}], "rules.0.score: it should be a valid number"),
    ("rules", 3, "rules: it should be a list"),
])  # fmt: skip
def test_one_mistake_is_one_line(place: str, value: object, words: str) -> None:
    found = mistakes(place, value)
    assert len(found) == 1, found
    assert words in found[0]


@dataclass(frozen=True)
class Declared:
    """A strategy with an option of every kind."""

    ratio: float = 1.0
    count: int = 1
    names: str | tuple[str, ...] = ()
    heat: float | Schedule = 1.0
    sizes: tuple[int, ...] = ()
    limit: float | None = None
    on: bool = False
    maps: dict[str, float] | None = None


GOOD: dict[str, list[object]] = {
    "ratio": [1, 0.5], "count": [3], "names": ["a", ["a", "b"]], "heat": [2, {"start": 1, "stop": 2}], "sizes": [[], [3]],
    "limit": [None, 1.5], "on": [True], "maps": [None, {"a": 1}],
}  # fmt: skip
BAD: dict[str, list[object]] = {
    "ratio": ["1", [], None, True, float("nan")], "count": [1.5, "3", 3.0, True], "names": [3, [3], {}],
    "heat": ["4", {"start": 1}, {"start": 1, "stop": 2, "untl": 1}, {"start": 1, "stop": 0, "shape": "exponential"}],
    "sizes": ["8", ["8"], 8, [1.5]], "limit": ["x", float("inf")], "on": [0, "true", None], "maps": [{"a": "1"}, [1]],
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_options_are_held_against_the_types_that_their_class_declares(name: str) -> None:
    for value in GOOD[name]:
        assert option_problems(Declared, {name: value}, "options", 0) == []
    for value in BAD[name]:
        found = option_problems(Declared, {name: value}, "options", 0)
        assert found, value
        assert all(text.startswith(f"options.{name}") for text in found)


@pytest.mark.parametrize("kind", ["strategies", "students", "teachers"])
def test_every_bundled_class_refuses_an_option_of_another_type(kind: str) -> None:
    for name, factory in load_plugins().catalog(kind).items():
        skip = 0 if kind == "strategies" else 1
        for option in list(inspect.signature(factory).parameters)[skip:]:
            assert option_problems(factory, {option: {"no": [{"such": float("nan")}]}}, "o", skip), (name, option)


def test_settings_of_the_command_line_name_their_key() -> None:
    assert parse_setting("a.b=[1e-3, no]") == ("a.b", [0.001, "no"])
    for text, words in (("seeds=[0", "--set 'seeds=[0': not YAML"), ("seeds", "write key=value"), ("a..b=1", "write key=value"),
                        ("=1", "write key=value"), ("a={b: 1, b: 2}", "the key 'b' comes twice")):  # fmt: skip
        with pytest.raises(ConfigError) as caught:
            parse_setting(text)
        assert words in caught.value.problems[0]


def test_rules_and_experiments_are_read_as_strictly(tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    for text, words in (("- {when: a, score: 1, score: 2}", "line 1: the key 'score' comes twice"),
                        ("- {when: a, score: '1'}", "0.score"),
                        ("- {when: a, score: .nan}", "0.score: NaN"), ("a: 1", "it should be a list")):  # fmt: skip
        rules.write_text(text)
        with pytest.raises(ConfigError) as caught:
            read_rules(str(rules))
        assert words in "\n".join(caught.value.problems)
    good = "{name: e, title: t, recipe: r, variants: {a: []}, metrics: [m]"
    for text, words in ((good.replace("name: e", "name: ../e") + "}", "cannot be a name"),
                        (good + ", title: u}", "comes twice"),
                        (
                            good + ", claims: [{text: c, variant: b, metric: m, at_least: 0}]}",
                            "about variant 'b', which there is not",
                        ),
                        (good + ", set: [1]}", "set.0: it should be a valid string")):  # fmt: skip
        rules.write_text(text)
        with pytest.raises(ConfigError) as caught:
            load_experiment(rules)
        assert words in "\n".join(caught.value.problems)
    rules.write_text(good + "}")
    assert load_experiment(rules).variants == {"a": ()}
