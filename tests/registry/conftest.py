"""Both servers that a registry may lie in."""

from __future__ import annotations

from pathlib import Path

import pytest
from registry_rows import settings_in

from recstill.settings import Settings


@pytest.fixture(params=["sqlite", "postgres"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """An installation in which nothing was done yet, with its registry in SQLite or in PostgreSQL."""
    url = request.getfixturevalue("postgres_url") if request.param == "postgres" else ""
    return settings_in(tmp_path, url)
