"""Loading plugins: the broken ones are reported, the rest keep working."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import Distribution, EntryPoint
from pathlib import Path

import pytest

from recstill.api import PluginError, UnknownNameError
from recstill.plugins import Catalog, load_plugins
from recstill.plugins.manager import digest_of


class FakeDistribution(Distribution):
    """A distribution by name only."""

    def __init__(self, name: str) -> None:
        self._name = name

    @property
    def name(self) -> str:
        return self._name

    @property
    def version(self) -> str:
        return "1.0"

    def read_text(self, filename: str) -> str | None:
        return None

    def locate_file(self, path: object) -> Path:
        return Path(str(path))


def installed(name: str, source: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[EntryPoint, Distribution]:
    module = f"plug_{name.replace('-', '_').replace('.', '_')}"
    (tmp_path / f"{module}.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop(module, None)
    return EntryPoint(name, module, "recstill"), FakeDistribution(name)


GOOD = "from recstill.api import hookimpl\n@hookimpl\ndef register_gates():\n    return {'open': lambda candidate: None}\n"


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("raise RuntimeError('no licence')", "RuntimeError: no licence"),
        ("import a_library_that_is_not_there", "ModuleNotFoundError"),
        (
            "from recstill.api import hookimpl\n@hookimpl\ndef register_studnets(): return {}",
            "did you mean 'register_students'?",
        ),
        (
            "from recstill.api import hookimpl\n@hookimpl\ndef after_epoch(run_id, epoch=0): pass",
            "gives argument 'epoch' a default",
        ),
        ("from recstill.api import hookimpl\n@hookimpl\ndef after_epoch(run): pass", "has no argument 'run'"),
        ("def register_students(): return {}", "no function marked @hookimpl"),
        ("import sys; sys.exit('licence expired')", "it called sys.exit('licence expired')"),
        ("import pluggy\n@pluggy.HookimplMarker('recstill')(wrapper=True)\ndef register_gates(): yield", "is a wrapper"),
        ("from recstill.api import hookimpl\n@hookimpl\nasync def register_gates(): return {}", "is async"),
        ("from recstill.api import hookimpl\n@hookimpl\ndef register_gates(): yield {}", "is a generator"),
    ],
)
def test_a_broken_plugin_is_reported_by_name_and_the_rest_work(
    source: str, problem: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = [installed("good", GOOD, monkeypatch, tmp_path), installed("bad-one", source, monkeypatch, tmp_path)]
    plugins = load_plugins(found=found)
    assert [plugin.name for plugin in plugins.loaded] == ["good"]
    assert "open" in plugins.catalog("gates")
    [broken] = plugins.broken
    assert broken.name == "bad-one"
    assert problem in broken.problems[0]


def test_a_name_that_two_plugins_offer_belongs_to_neither_and_the_rest_work(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other = GOOD.replace("{'open': lambda candidate: None}", "{'open': None, 'shut': lambda candidate: None}")
    found = [installed("one", GOOD, monkeypatch, tmp_path), installed("two", other, monkeypatch, tmp_path)]
    gates = load_plugins(found=found).catalog("gates")
    assert list(gates) == ["shut"]
    assert gates.owner("shut") == "two"
    with pytest.raises(PluginError) as caught:
        gates["open"]
    for name in ("one", "two"):
        assert f"'{name}'" in str(caught.value)
        assert f"`recstill plugins disable {name}`" in str(caught.value)


STRANGE_NAMES = ["", " ", "a b", "a\nb", "\x1b[31mred", "../up", "Große", "\ud800"]
LAZY = (
    "import sys; from collections import UserDict; "
    "return type('M', (UserDict,), {{'__iter__': lambda self: {names}, '__getitem__': lambda self, name: {value}}})()"
)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("raise KeyError('x')", "KeyError: 'x'"),
        ("import sys; sys.exit('licence expired')", "it called sys.exit('licence expired')"),
        ("return None", "it returned NoneType, not a mapping of names"),
        ("return {1: None}", "1 is no name"),
        *[(f"return {{{name!r}: None}}", f"{name!a} is no name") for name in STRANGE_NAMES],
        ("raise type('E', (Exception,), {'__str__': lambda self: 1 / 0})()", "E, whose text raises ZeroDivisionError"),
        (LAZY.format(names="1 / 0", value="None"), "ZeroDivisionError"),
        (LAZY.format(names="iter(['a'])", value="sys.exit(3)"), "it called sys.exit(3)"),
    ],
)
def test_a_hook_that_fails_leaves_out_its_plugin_and_is_named(
    body: str, words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = f"from recstill.api import hookimpl\n@hookimpl\ndef register_gates():\n    {body}"
    found = [installed("sour", source, monkeypatch, tmp_path), installed("good", GOOD, monkeypatch, tmp_path)]
    plugins = load_plugins(found=found)
    assert list(plugins.catalog("gates")) == ["open"]
    assert [(plugin.name, words in plugin.problems[0]) for plugin in plugins.broken] == [("sour", True)]
    assert "recstill plugins disable sour" in caplog.text
    with pytest.raises(UnknownNameError, match="Plugin 'sour' is broken"):
        plugins.catalog("gates")["closed"]


def test_a_listener_that_fails_is_named_and_the_others_hear(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mark = "from recstill.api import hookimpl\n@hookimpl\n"
    bad = f"{mark}def after_epoch(run_id): raise SystemExit(3)"
    good = f"heard = []\n{mark}def after_epoch(epoch): heard.append(epoch)"
    plugins = load_plugins(
        found=[installed("deaf", bad, monkeypatch, tmp_path), installed("keen", good, monkeypatch, tmp_path)]
    )
    plugins.tell("after_epoch", run_id="r", stage="s", epoch=4, metrics={})
    assert sys.modules["plug_keen"].heard == [4]
    assert "Plugin 'deaf' failed in after_epoch: it called sys.exit(3)" in caplog.text


def test_what_a_plugin_prints_goes_to_the_log_and_never_to_stdout(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    source = "print('welcome')\n" + GOOD.replace("return", "print('offered'); return")
    plugins = load_plugins(found=[installed("loud", source, monkeypatch, tmp_path)])
    assert "open" in plugins.catalog("gates")
    assert capsys.readouterr().out == ""
    assert "plugin loud printed in its import: welcome" in caplog.text
    assert "offered" in caplog.text


def test_what_a_plugin_changes_for_all_is_undone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    source = (
        "import io, logging, os, sys\nos.chdir('/')\nlogging.disable()\nprint('bye')\nsys.stdout.close()\n"
        "sys.stdout, sys.stderr = io.StringIO(), None\n"
    )
    before = Path.cwd(), sys.stdout, sys.stderr
    plugins = load_plugins(found=[installed("grabby", source + GOOD, monkeypatch, tmp_path)])
    assert list(plugins.catalog("gates")) == ["open"]
    assert (Path.cwd(), sys.stdout, sys.stderr) == before
    print("data")
    assert capsys.readouterr().out == "data\n"
    assert "plugin grabby printed in its import: bye" in caplog.text


def test_a_plugin_in_place_of_its_module_is_recognised_by_its_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = (
        "import sys\nfrom recstill.api import hookimpl\nclass Plugin:\n    @hookimpl\n"
        "    def register_gates(self): return {'open': None}\nsys.modules[__name__] = Plugin()\n"
    )
    found = [installed("lazy", source, monkeypatch, tmp_path)]
    first, again = (load_plugins(found=found).get("lazy").digest for _ in range(2))
    assert first == again == digest_of(tmp_path / "plug_lazy.py")


def test_features_that_are_no_list_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = "from recstill.api import hookimpl\n@hookimpl\ndef register_feature_definitions(): return 5"
    plugins = load_plugins(found=[installed("odd", source, monkeypatch, tmp_path)])
    with pytest.raises(PluginError, match="'odd' failed in register_feature_definitions: TypeError"):
        plugins.feature_definitions()


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "is installed in part"),
        ({"METADATA": b"Metadata-Version: 2.1\nName: half\n"}, "is installed in part"),
        ({"entry_points.txt": b"[recstill]\nh\xff = half_module\n"}, ""),
    ],
)
def test_an_installation_that_broke_off_leaves_the_others_working(
    files: dict[str, bytes], words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    info = tmp_path / "half-1.0.dist-info"
    info.mkdir()
    for name, content in ({"entry_points.txt": b"[recstill]\nhalf = half_module\n"} | files).items():
        (info / name).write_bytes(content)
    (tmp_path / "half_module.py").write_text(GOOD)
    monkeypatch.syspath_prepend(str(tmp_path))
    plugins = load_plugins()
    assert "recstill-gates" in [plugin.name for plugin in plugins.loaded]
    assert [words in plugin.problems[0] for plugin in plugins.broken] == ([True] if words else [])


def test_an_object_whose_properties_raise_is_never_asked_for_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = (
        "from unittest.mock import call\nfrom recstill.api import hookimpl\n"
        "class Plugin:\n    recorded = call\n    @property\n    def client(self): raise SystemExit('no credentials')\n"
        "    @hookimpl\n    def register_gates(self): return {'open': None}\n"
        "    @staticmethod\n    @hookimpl\n    def register_baselines(): return {'mean': None}\nplugin = Plugin()\n"
    )
    entry, distribution = installed("proud", source, monkeypatch, tmp_path)
    plugins = load_plugins(found=[(EntryPoint("proud", f"{entry.value}:plugin", "recstill"), distribution)])
    assert not plugins.broken
    assert [list(plugins.catalog(kind)) for kind in ("gates", "baselines")] == [["open"], ["mean"]]


def test_names_are_compared_as_package_indexes_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plugins = load_plugins(only={"my_plugin"}, found=[installed("My.Plugin", GOOD, monkeypatch, tmp_path)])
    assert plugins.get("MY-plugin").name == "my-plugin"


def test_a_class_instead_of_an_instance_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    entry, distribution = installed("classy", "class Plugin: pass", monkeypatch, tmp_path)
    plugins = load_plugins(found=[(EntryPoint("classy", f"{entry.value}:Plugin", "recstill"), distribution)])
    assert "names the class 'Plugin'" in plugins.broken[0].problems[0]


def test_listeners_get_the_arguments_they_ask_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = (
        "from recstill.api import hookimpl\nheard = []\n"
        "@hookimpl\ndef after_promotion(name, version): heard.append((name, version))\n"
    )
    plugins = load_plugins(found=[installed("listener", source, monkeypatch, tmp_path)])
    plugins.tell("after_promotion", name="ads", version=3, alias="champion")
    assert sys.modules["plug_listener"].heard == [("ads", 3)]


def test_a_misspelt_name_is_answered_with_the_close_one() -> None:
    catalog: Catalog[int] = Catalog("student")
    catalog.add("small-mlp", 1, "recstill-rankers")
    with pytest.raises(UnknownNameError, match="Unknown student 'smal-mlp'. Did you mean 'small-mlp'?"):
        catalog["smal-mlp"]


def test_every_bundled_plugin_loads_and_passes_the_kit() -> None:
    from recstill.recipes.plugins import check_plugin

    plugins = load_plugins()
    assert not plugins.broken
    checks = [check for name in ("recstill-rankers", "recstill-strategies") for check in check_plugin(name)]
    assert len(checks) >= 40
    assert [check for check in checks if not check.passed] == []


@pytest.mark.parametrize("kind", ["student", "teacher", "strategy"])
def test_a_new_plugin_passes_its_own_test(kind: str, tmp_path: Path) -> None:
    from recstill.recipes.scaffold import write_plugin

    folder = write_plugin("tiny-thing", kind, tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder)],
        cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(folder / "src")},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout


def test_a_new_plugin_never_overwrites(tmp_path: Path) -> None:
    from recstill.recipes.scaffold import write_plugin

    write_plugin("tiny-thing", "student", tmp_path)
    with pytest.raises(PluginError, match="exists already"):
        write_plugin("tiny-thing", "student", tmp_path)
    with pytest.raises(PluginError, match="cannot name a plugin"):
        write_plugin("Bad Name", "student", tmp_path)
