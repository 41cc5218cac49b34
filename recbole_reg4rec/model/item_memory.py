"""The item memory alone as a recommender; no training (docs/method.md, 5)."""

from __future__ import annotations

from typing import Any

import torch
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import Tensor

from recbole_reg4rec.data.sequences import training_sequences
from recbole_reg4rec.model.memory import build_memory

# Popularity orders the items that no item of the history points to, and stays below the weakest pointer.
_POPULARITY_SHARE = 1e-6


class ItemMemory(SequentialRecommender):
    """Scores items by the weights that the items of the history give them, the newest item the most."""

    input_type = InputType.POINTWISE
    whole_sequence = True

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.memory = build_memory(config, dataset)
        seen = torch.from_numpy(training_sequences(dataset).items)
        count = torch.bincount(seen, minlength=self.n_items).float()
        self.register_buffer("popularity", _POPULARITY_SHARE * count / count.max().clamp(min=1.0), persistent=False)
        # RecBole's optimiser wants a parameter.
        self.placeholder = torch.nn.Parameter(torch.zeros(1))

    popularity: Tensor

    def full_sort_predict(self, interaction: Interaction) -> Tensor:
        """A finite score for every item, float32 ``[B, items + 1]``."""
        return self.memory(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]) + self.popularity

    def predict(self, interaction: Interaction) -> Tensor:
        """The same scores for one item a row, float32 ``[B]``."""
        return self.full_sort_predict(interaction).gather(1, interaction[self.ITEM_ID].unsqueeze(1)).squeeze(1)
