"""What counts as the code of a plugin: whatever it imports, wherever that lies."""

from __future__ import annotations

from pathlib import Path

import pytest

from recstill.data.code import code_of, files_in

PLUGIN = """
import json
import numpy
from code_helper import LIMIT
def work():
    import code_late
    from code_space.inner import RATE
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package beside modules that it imports in four ways."""
    files = {
        "code_plugin/__init__.py": PLUGIN,
        "code_helper.py": "from code_deep import X\nLIMIT = 1\n",
        "code_deep.py": "X = 1\n",
        "code_late.py": "def f(): pass\n",
        "code_space/inner.py": "RATE = 0.5\n",
        "code_other.py": "nobody imports it\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path / "code_plugin"


@pytest.mark.parametrize("name", ["code_helper.py", "code_deep.py", "code_late.py", "code_space/inner.py"])
def test_an_edit_of_whatever_a_plugin_imports_is_an_edit_of_the_plugin(plugin: Path, name: str) -> None:
    before = code_of(plugin, "code-plugin")
    path = plugin.parent / name
    path.write_text(path.read_text() + "MORE = 2\n")
    after = code_of(plugin, "code-plugin")
    changed = [part for part in after if after[part] != before.get(part)]
    assert changed == [f"module {name.removesuffix('.py').replace('/', '.')}"]


def test_what_nobody_imports_and_what_versions_say_is_not_followed(plugin: Path) -> None:
    before = code_of(plugin, "code-plugin")
    (plugin.parent / "code_other.py").write_text("edited\n")
    assert code_of(plugin, "code-plugin") == before
    assert not [part for part in before if "numpy" in part or "json" in part or "recstill" in part]


def test_a_bundled_plugin_counts_what_it_takes_from_another() -> None:
    import recstill_text

    found = code_of(Path(recstill_text.__file__).parent, "recstill-text")
    assert "module recstill_rankers" in found  # its students have their heads
    assert found["transformers"]
    assert found["recstill-rankers"] != "not installed"


@pytest.mark.parametrize("text", ["//", "/", "..", "../", "/dev/null", "/home/none/of/ours", "a\nb/c", "/" * 900])
def test_an_option_that_happens_to_be_a_path_is_no_reason_to_read_a_disk(text: str) -> None:
    assert files_in({"separator": text}) == {}


def test_files_that_options_name_count_by_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").write_text("1")
    (tmp_path / "loop").mkdir()
    (tmp_path / "loop" / "self").symlink_to(tmp_path / "loop")
    (tmp_path / "loop" / "again").symlink_to(tmp_path / "loop")
    (tmp_path / "loop" / "gone").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop" / "real").write_text("2")
    before = files_in({"a": "weights", "b": ["./loop/"]})
    assert len(before) == 2
    (tmp_path / "weights").write_text("3")
    (tmp_path / "loop" / "real").write_text("4")
    after = files_in({"a": "weights", "b": ["./loop/"]})
    assert before.keys() == after.keys()
    assert all(before[name] != after[name] for name in before)
