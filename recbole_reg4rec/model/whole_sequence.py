"""What recommenders trained on whole sequences share: one row a user, every position a target."""

from __future__ import annotations

import torch
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import Tensor


class WholeSequenceRecommender(SequentialRecommender):
    """A causal recommender whose scores of all items are the one way to ask it."""

    # The training loader gives whole sequences (`data.sequences`), not RecBole's prefixes.
    whole_sequence = True
    input_type = InputType.POINTWISE

    def full_sort_predict(self, interaction: Interaction) -> Tensor:
        """A finite score for every item, float32 ``[B, items + 1]``; the padding item is last."""
        raise NotImplementedError

    def predict(self, interaction: Interaction) -> Tensor:
        """The same scores for one item a row, float32 ``[B]``."""
        scores = self.full_sort_predict(interaction)
        return scores.gather(1, interaction[self.ITEM_ID].unsqueeze(1)).squeeze(1)


def last_states(states: Tensor, lengths: Tensor) -> Tensor:
    """The state behind the last item: ``[B, T, d]`` and int64 ``[B]`` in ``[1, T]`` to ``[B, 1, d]``."""
    last = (lengths - 1).view(-1, 1, 1).expand(-1, 1, states.shape[-1])
    return states.gather(1, last)


def padding_last(scores: Tensor) -> Tensor:
    """Puts the padding item, column 0 of ``[B, items + 1]``, below all others."""
    return torch.cat([scores[:, 1:].amin(1, keepdim=True) - 1.0, scores[:, 1:]], dim=1)
