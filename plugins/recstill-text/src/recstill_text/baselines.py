"""What search did before it learned: BM25 and TF-IDF over titles."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from recstill_text.running import as_texts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from recstill.api import BaselineData, LabelSpec

_K1, _B = 1.2, 0.75


def tfidf_baseline(
    train: BaselineData,
    valid: BaselineData,
    test: BaselineData,
    labels: tuple[LabelSpec, ...],
    seed: int,
    progress: Callable[[str], None],
) -> Mapping[str, NDArray[np.float32]]:
    """Cosine of the TF-IDF vectors of words and pairs of words, fitted on the training titles."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True).fit(_titles(train))
    query, title = (vectorizer.transform(texts) for texts in (as_texts(test.features["query"]), _titles(test)))
    score = np.asarray(query.multiply(title).sum(1)).ravel()
    return _as_grades(score, labels)


def bm25_baseline(
    train: BaselineData,
    valid: BaselineData,
    test: BaselineData,
    labels: tuple[LabelSpec, ...],
    seed: int,
    progress: Callable[[str], None],
) -> Mapping[str, NDArray[np.float32]]:
    """BM25 with k1 = 1.2 and b = 0.75 (Robertson & Zaragoza, 2009); rarity and mean length from the training titles."""
    from sklearn.feature_extraction.text import CountVectorizer

    vectorizer = CountVectorizer()
    known = vectorizer.fit_transform(_titles(train))
    rarity = np.log1p((known.shape[0] - (known > 0).sum(0).A1 + 0.5) / ((known > 0).sum(0).A1 + 0.5))
    average = known.sum() / known.shape[0]
    query, title = (vectorizer.transform(texts) for texts in (as_texts(test.features["query"]), _titles(test)))
    lengths = title.sum(1).A1
    weighed = title.tocsr().astype(np.float64)
    norm = np.repeat(_K1 * (1 - _B + _B * lengths / average), np.diff(weighed.indptr))
    weighed.data = rarity[weighed.indices] * weighed.data * (_K1 + 1) / (weighed.data + norm)
    score = np.asarray((query > 0).multiply(weighed).sum(1)).ravel()
    return _as_grades(score, labels)


def _titles(data: BaselineData) -> list[str]:
    return as_texts(data.features["title"])


def _as_grades(score: NDArray[np.floating], labels: tuple[LabelSpec, ...]) -> dict[str, NDArray[np.float32]]:
    """Scores have no scale of their own: they are brought between 0 and 1, which changes no ranking."""
    scaled = (score / max(float(score.max(initial=0.0)), 1e-9)).astype(np.float32)
    return {label.name: scaled for label in labels if label.kind in ("binary", "regression")}
