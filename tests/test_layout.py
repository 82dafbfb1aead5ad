"""The guards of the layout and of start-up cost."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HEAVY = {
    "torch",
    "torchrec",
    "feast",
    "bentoml",
    "sqlmodel",
    "sqlalchemy",
    "pandas",
    "pyarrow",
    "duckdb",
    "matplotlib",
    "onnx",
    "numpy",
}


@pytest.mark.parametrize("folder", ["platform", "plugins"])
def test_source_roots_are_not_packages(folder: str) -> None:
    assert not (ROOT / folder / "__init__.py").exists()


def test_the_stdlib_platform_module_is_the_stdlibs() -> None:
    import platform

    assert "recstill" not in str(platform.__file__)
    assert platform.system()


@pytest.mark.parametrize(
    "args", [["--help"], ["--version"], ["models", "--help"], ["run", "--help"], ["plugins", "new", "--help"]]
)
def test_help_imports_nothing_heavy(args: list[str]) -> None:
    code = (
        f"import sys; sys.argv = ['recstill', *{args!r}]\nfrom recstill.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print('MODULES', *sorted({m.split('.')[0] for m in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.rsplit("MODULES", 1)[1].split())
    assert "click" in loaded
    assert HEAVY.isdisjoint(loaded)


def test_loading_plugins_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom recstill.plugins import load_plugins\nassert len(load_plugins().loaded) >= 4\n"
        "print(*sorted({m.split('.')[0] for m in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert HEAVY.isdisjoint(done.stdout.split())


def test_the_serving_package_loads_without_torch_feast_and_plugins() -> None:
    code = "import sys\nimport recstill.serving.app\nprint(*sorted({m.split('.')[0] for m in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"torch", "feast", "sqlmodel", "pyarrow", "pandas"}.isdisjoint(done.stdout.split())


def test_files_stay_small_and_hold_no_leftovers() -> None:
    for path in [*ROOT.glob("platform/**/*.py"), *ROOT.glob("plugins/*/src/**/*.py"), *ROOT.glob("deploy/**/*.py")]:
        text = path.read_text()
        assert len(text.splitlines()) < 400, path
        assert path.name != "utils.py"
        for word in ("TODO", "FIXME", "pickle.load", "torch.load("):
            assert word not in text, (path, word)


@pytest.mark.parametrize(("version", "words"), [("3.10.1", "Python 3.11 or newer is needed")])
def test_setup_says_what_is_wrong_in_one_line(version: str, words: str, tmp_path: Path) -> None:
    code = (
        "import sys, runpy\n"
        f"sys.version_info, sys.version = tuple(map(int, '{version}'.split('.'))), '{version}'\n"
        f"runpy.run_path({str(ROOT / 'deploy/setup/install.py')!r}, run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "RECSTILL_VENV": str(tmp_path / "v")},
        check=False,
    )
    assert done.returncode == 1
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_setup_without_a_network_says_so_in_one_line(tmp_path: Path) -> None:
    nowhere = {
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
        "PIP_RETRIES": "0",
        "PIP_TIMEOUT": "2",
        "PIP_CONFIG_FILE": os.devnull,
    }
    environment = {
        **os.environ,
        **nowhere,
        "RECSTILL_VENV": str(tmp_path / "venv"),
        "PIP_NO_CACHE_DIR": "1",
        "PIP_FIND_LINKS": "",
    }
    done = subprocess.run(
        [sys.executable, str(ROOT / "deploy/setup/install.py")], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 1
    assert "The package index cannot be reached" in done.stderr
