"""Put the tables of evidence/*.json between their markers in README.md; the last step of `make evidence`."""

from __future__ import annotations

import json
import re
from pathlib import Path

from recstill.recipes.sweep import load_experiment, table_of

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    readme = ROOT / "README.md"
    text = readme.read_text()
    for path in sorted((ROOT / "evidence").glob("*.json")):
        result = json.loads(path.read_text())
        experiment = load_experiment(ROOT / "tests" / "evidence" / path.name.replace(".json", ".yaml"))
        block = markdown(table_of(result, experiment.order)) + claims(result["claims"])
        marks = f"<!-- evidence {result['name']} -->", "<!-- end -->"
        pattern = re.escape(marks[0]) + r".*?" + re.escape(marks[1])
        text = re.sub(pattern, lambda _, block=block, marks=marks: f"{marks[0]}\n{block}{marks[1]}", text, flags=re.DOTALL)
    readme.write_text(text)


def markdown(rows: list[dict[str, str]]) -> str:
    """Return rows as a Markdown table."""
    names = list(rows[0])
    lines = ["| " + " | ".join(name.replace("what", " ") for name in names) + " |", "|---" * len(names) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row[name] for name in names) + " |" for row in rows)]) + "\n"


def claims(found: list[dict[str, object]]) -> str:
    """Return each claim as a line."""
    lines = [f"- {c['text']}: {c['measured']} (target {c['target']}: {'met' if c['met'] else '**not met**'})" for c in found]
    return "\n" + "\n".join(lines) + "\n" if lines else ""


if __name__ == "__main__":
    main()
