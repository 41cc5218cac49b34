"""Health figures against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from recbole_reg4rec.tokenizer.health import (
    category_purity,
    explained_variance,
    health_report,
    mutual_information,
    perplexity,
    utilisation,
)

# Book 0 uses two words evenly, book 1 copies it, book 2 always says 3, book 3 is independent of book 0.
CODES = np.array([[0, 1, 3, 0], [0, 1, 3, 1], [2, 0, 3, 0], [2, 0, 3, 1]])


def test_utilisation_and_perplexity():
    np.testing.assert_allclose(utilisation(CODES, 4), [0.5, 0.5, 0.25, 0.5])
    np.testing.assert_allclose(perplexity(CODES, 4), [2, 2, 1, 2])
    uneven = np.array([[0], [0], [0], [1]])
    np.testing.assert_allclose(perplexity(uneven, 2), [4 / 3**0.75])


def test_mutual_information():
    found = mutual_information(CODES, 4)
    bit = np.log(2)
    expected = [[bit, bit, 0, 0], [bit, bit, 0, 0], [0, 0, 0, 0], [0, 0, 0, bit]]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_category_purity():
    # Token 0: categories 1, 1, 2; token 1: category 2 and one item without any.
    codes = np.array([[0], [0], [0], [1], [1]])
    np.testing.assert_allclose(category_purity(codes, np.array([[1], [1], [2], [2], [0]])), [3 / 4])
    # An item with two categories agrees with its token if either is the token's most common one.
    np.testing.assert_allclose(category_purity(codes[:3], np.array([[1, 2], [2, 0], [2, 3]])), [1])
    np.testing.assert_allclose(category_purity(codes, np.zeros((5, 1), dtype=int)), [0])


def test_explained_variance():
    rows = np.array([[0.0, 0], [2, 4]])
    assert explained_variance(rows, rows) == 1
    assert explained_variance(rows, np.tile(rows.mean(axis=0), (2, 1))) == 0
    assert explained_variance(rows, np.array([[0.0, 0], [2, 2]])) == pytest.approx(0.6)
    assert explained_variance(np.ones((3, 2)), np.ones((3, 2))) == 1


def test_report_is_plain_and_complete():
    rows = np.array([[0.0, 0], [2, 4], [0, 4], [2, 0]])
    report = health_report(CODES, 4, rows, rows, np.array([[1], [1], [2], [2]]))
    assert report == {
        "utilisation": [0.5, 0.5, 0.25, 0.5],
        "perplexity": [2.0, 2.0, 1.0, 2.0],
        "mutual_information": round(float(np.log(2)) / 6, 4),
        "entropy": round(float(np.log(2)) * 3 / 4, 4),
        "category_purity": [1.0, 1.0, 0.5, 0.5],
        "reconstruction_r2": 1.0,
    }
    single = health_report(CODES[:, :1], 4, rows, rows, np.array([[1], [1], [2], [2]]))
    assert single["mutual_information"] == 0.0
