"""Text to hashed ids and to numbers that say how well two texts match. Numpy only: the same code trains and serves."""

from __future__ import annotations

import itertools
import re
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from recstill.data.columns import Column, Values
from recstill.data.keys import to_keys

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


# Scripts without spaces between words are cut into single characters; elsewhere a word is a run of letters or a number.
_UNSPACED = "\u0e00-\u0e7f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_TOKEN = re.compile(rf"[{_UNSPACED}]|\d+(?:[.,/]\d+)*|[^\W\d_{_UNSPACED}]+")
MAX_CHARS = 2_000
_QUERY_WORDS, _TEXT_WORDS = 12, 32
_QUERY_GRAMS, _TEXT_GRAMS = 48, 128
_CROSSED_QUERY_WORDS = 8
_STEM = 4
_CHUNK = 2_048


def words_of(text: object) -> list[str]:
    """Return the words of a text in any script, compatibility forms and case folded. Reads the first 2,000 characters."""
    if text is None or text != text:
        return []
    folded = unicodedata.normalize("NFKC", str(text)[:MAX_CHARS]).casefold()
    return _TOKEN.findall(folded)


def grams_of(words: Sequence[str], kind: str) -> list[str]:
    """Return `word`, `word2` (neighbours), `stem` (beginnings of words), `number`, or `char3`, `char4` … (with the word's
    ends marked)."""
    if kind == "word":
        return list(words)
    if kind == "stem":
        return [word[:_STEM] for word in words]
    if kind == "number":
        return [word for word in words if word[0].isdigit()]
    if kind == "word2":
        return [f"{first} {second}" for first, second in itertools.pairwise(words)]
    size = int(kind.removeprefix("char"))
    marked = (f"<{word}>" for word in words)
    return [word[start : start + size] for word in marked for start in range(max(1, len(word) - size + 1))]


class _Grams(dict[tuple[str, tuple[str, ...]], "NDArray[np.uint64]"]):
    """Memo of the distinct grams of (text, kinds), in order, as keys; each kind hashes apart. Holds `limit` bytes at most."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit, self.bytes = limit, 0

    def __missing__(self, asked: tuple[str, tuple[str, ...]]) -> NDArray[np.uint64]:
        text, kinds = asked
        words = words_of(text)
        grams = dict.fromkeys(f"{kind}:{gram}" for kind in kinds for gram in grams_of(words, kind))
        listed = np.empty(len(grams), object)
        listed[:] = list(grams)
        keys = to_keys(Column("string", listed))
        cost = 400 + 4 * len(text) + keys.nbytes
        if self.bytes + cost > self.limit:
            self.clear()
            self.bytes = 0
        if cost <= self.limit:
            self.bytes += cost
            self[asked] = keys
        return keys


_grams = _Grams(512 * 2**20)


def padded(values: Values, kinds: tuple[str, ...], length: int) -> NDArray[np.uint64]:
    """Return (N, length) keys of the first grams of each text, 0 where there are fewer."""
    found = np.zeros((len(values), length), np.uint64)
    for place, value in enumerate(values.tolist()):
        keys = _grams["" if value is None or value != value else str(value)[:MAX_CHARS], kinds][:length]
        found[place, : len(keys)] = keys
    return found


def buckets_of(keys: NDArray[np.uint64], buckets: int) -> NDArray[np.int64]:
    """Return table rows 1..buckets, 0 for no key."""
    return np.where(keys == 0, 0, (keys % np.uint64(buckets)).astype(np.int64) + 1)


@dataclass(frozen=True)
class Matcher:
    """How well a long text answers a short one: shares, weighted by rarity, and hashed pairs of their words.

    keys, rarity: words of the training texts and ln(1 + N / n) of each; a word never seen is as rare as the rarest.
    """

    keys: NDArray[np.uint64]
    rarity: NDArray[np.float32]

    num_columns = 15

    @classmethod
    def fit(cls, texts: Values) -> Matcher:
        """Count the distinct texts that each word is in."""
        distinct = np.array(sorted({str(text) for text in texts.tolist() if text is not None}), dtype=object)
        words = [_grams[text[:MAX_CHARS], ("word",)] for text in distinct.tolist()]
        keys, counts = np.unique(np.concatenate([np.zeros(0, np.uint64), *words]), return_counts=True)
        return cls(keys, np.log1p(max(len(distinct), 1) / counts).astype(np.float32))

    def dense(self, queries: Values, texts: Values) -> NDArray[np.float32]:
        """Return (N, num_columns), each about between 0 and 1; zeros where the query or the text has no words."""
        parts = [
            self._dense(queries[start : start + _CHUNK], texts[start : start + _CHUNK])
            for start in range(0, len(queries), _CHUNK)
        ]
        return np.concatenate(parts) if parts else np.zeros((0, self.num_columns), np.float32)

    def _dense(self, queries: Values, texts: Values) -> NDArray[np.float32]:
        query, text = padded(queries, ("word",), _QUERY_WORDS), padded(texts, ("word",), _TEXT_WORDS)
        here, there = query != 0, text != 0
        same = (query[:, :, None] == text[:, None, :]) & here[:, :, None]
        found = same.any(2)
        num_query, num_text = here.sum(1), there.sum(1)
        weight = np.where(here, self._rarity(query), 0.0)
        most = max(float(self.rarity.max(initial=1.0)), 1.0)
        hits = (weight * found).sum(1)
        length = 0.25 + 0.75 * num_text / 12.0  # BM25's length term, about a common title
        last = np.maximum(num_query - 1, 0)
        first_hit = np.where(same.any(1), np.arange(text.shape[1])[None], text.shape[1]).min(1)
        columns = [
            found.sum(1) / np.maximum(num_query, 1),
            hits / np.maximum(weight.sum(1), 1e-9),
            (weight * found * 2.2).sum(1) / (1 + 1.2 * length) / (4 * most),
            found.sum(1) / np.maximum(num_query + num_text - found.sum(1), 1),
            np.take_along_axis(found, last[:, None], 1)[:, 0],
            np.take_along_axis(found, np.zeros_like(last)[:, None], 1)[:, 0],
            1 - first_hit / text.shape[1],
            _coverage(padded(queries, ("char3",), _QUERY_GRAMS), padded(texts, ("char3",), _TEXT_GRAMS)),
            _coverage(padded(queries, ("word2",), _QUERY_WORDS), padded(texts, ("word2",), _TEXT_WORDS)),
            *self._stems(queries, texts),
            _coverage(padded(queries, ("number",), _QUERY_WORDS), padded(texts, ("number",), _TEXT_WORDS)),
            np.log1p(num_query) / 3,
            np.log1p(num_text) / 4,
        ]
        return np.stack(columns, 1).astype(np.float32)

    def _stems(self, queries: Values, texts: Values) -> list[NDArray[np.float64]]:
        """Return how much of the query the text has when words count by their beginnings: all, the last word, the first."""
        query, text = padded(queries, ("stem",), _QUERY_WORDS), padded(texts, ("stem",), _TEXT_WORDS)
        found = (query[:, :, None] == text[:, None, :]).any(2) & (query != 0)
        number = (query != 0).sum(1)
        last = np.take_along_axis(found, np.maximum(number - 1, 0)[:, None], 1)[:, 0]
        return [found.sum(1) / np.maximum(number, 1), last.astype(np.float64), found[:, 0].astype(np.float64)]

    def _rarity(self, keys: NDArray[np.uint64]) -> NDArray[np.float32]:
        if not len(self.keys):
            return np.ones(keys.shape, np.float32)
        place = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[place] == keys, self.rarity[place], self.rarity.max())


def _coverage(query: NDArray[np.uint64], text: NDArray[np.uint64]) -> NDArray[np.float64]:
    here = query != 0
    found = ((query[:, :, None] == text[:, None, :]).any(2) & here).sum(1)
    return found / np.maximum(here.sum(1), 1)


def crossed(queries: Values, texts: Values, length: int) -> NDArray[np.uint64]:
    """Return (N, length) keys, one for each pair of a word of the query and a word of the text."""
    num_text = max(1, length // _CROSSED_QUERY_WORDS)
    query, text = padded(queries, ("word",), _CROSSED_QUERY_WORDS), padded(texts, ("word",), num_text)
    with np.errstate(over="ignore"):
        pairs = (query[:, :, None] * np.uint64(0x9E3779B97F4A7C15)) ^ text[:, None, :]
    pairs = np.where((query[:, :, None] != 0) & (text[:, None, :] != 0), pairs | np.uint64(1), np.uint64(0))
    return pairs.reshape(len(queries), -1)
