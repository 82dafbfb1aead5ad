"""Rules of the trade as a column of the rows: what strategies may read and no model sees."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recstill.api.errors import ConfigError
from recstill.recipes.config import RuleConfig
from recstill.recipes.mistakes import validated
from recstill.recipes.strict_yaml import read_yaml

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from recstill.data.snapshot import Snapshot

RULE = "rule"


def read_rules(rules: tuple[RuleConfig, ...] | str) -> tuple[RuleConfig, ...]:
    """Return the rules of a recipe, from its file where it names one. Raise ConfigError if that cannot be read."""
    if not isinstance(rules, str):
        return rules
    subject = f"Rules {rules}"
    found, problems = validated(tuple[RuleConfig, ...], read_yaml(Path(rules), subject))
    if found is None:
        raise ConfigError(subject, problems)
    return found


def rule_scores(rules: tuple[RuleConfig, ...], snapshot: Snapshot) -> NDArray[np.float32]:
    """Return the sum of the scores of the rules that hold, for each row of a snapshot.

    Raise ConfigError with every condition that is no SQL expression over the snapshot's columns. Conditions see the rows and
    nothing else: no file, no network.
    """
    import duckdb

    connection = duckdb.connect()
    connection.register("rows", snapshot.table())
    connection.execute("set enable_external_access = false")
    total: NDArray[Any] = np.zeros(snapshot.meta["num_rows"], np.float32)
    problems = []
    for place, rule in enumerate(rules):
        try:
            # The line break keeps a comment at the end of a condition from taking the bracket with it.
            holds = duckdb.SQLExpression(f"({rule.when}\n)").cast("boolean").alias("holds")
            found = connection.sql("from rows").select(holds).fetchnumpy()["holds"]
        except duckdb.Error as error:
            problems.append(f"rules.{place}.when: {rule.when!r}: {str(error).splitlines()[0]}")
            continue
        if len(found) != len(total):
            problems.append(f"rules.{place}.when: {rule.when!r} gives {len(found):,} answers for {len(total):,} rows")
            continue
        total += np.float32(rule.score) * np.ma.filled(found, False).astype(np.float32)
    if problems:
        raise ConfigError("Rules", problems)
    return total.astype(np.float32)
