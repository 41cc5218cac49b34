"""What a token-based recommender is built from, beside its settings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ItemTokens:
    """``codes``: int64 ``[items + 1, M]``; ``codewords``: K; ``members``: int64 ``[items + 1, C]``, categories, 0 pads.

    ``categories``: number of categories; ``category_names``: their names, padding first; ``fingerprint``: of the codes.
    """

    codes: np.ndarray
    codewords: int
    members: np.ndarray
    categories: int
    category_names: tuple[str, ...]
    fingerprint: str
