"""The one pattern of names."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recstill.api.names import is_name


@pytest.mark.parametrize("name", ["ads", "ads-teacher", "2nd.try_3", "a" * 100])
def test_names(name: str) -> None:
    assert is_name(name)


@pytest.mark.parametrize(
    "text", ["", "Ads", "ads\n", "\nads", "ads teacher", "-ads", ".ads", "..", "a/b", "a:1", "a@b", "ä", "١", "a" * 101, "a\0"]
)
def test_what_is_no_name(text: str) -> None:
    assert not is_name(text)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.text(max_size=20))
def test_a_name_is_ascii_lower_case_and_one_part_of_a_path(text: str) -> None:
    if is_name(text):
        assert text.isascii()
        assert text == text.lower()
        assert not set(text) & set("/\\:@ \n\t\0?#%")
        assert not text.startswith((".", "-"))
