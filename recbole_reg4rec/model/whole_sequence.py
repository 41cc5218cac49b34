"""What recommenders trained on whole sequences share: one row a user, every position a target."""

from __future__ import annotations

import torch
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import Tensor

from recbole_reg4rec.data.sequences import TARGETS
from recbole_reg4rec.model.history import read_in_lots
from recbole_reg4rec.model.softmax import catalogue_cross_entropy

# Histories of about the same length that are read together in scoring.
READ_TOGETHER = 64


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


class EveryPosition(SequentialRecommender):
    """Trains a causal model of RecBole's on every position in one pass (our efficient training scheme).

    For models that look backwards only, compare with ``item_embedding``, and end ``forward(items, lengths)`` with
    `gather_indexes`, position by position from there on. Asked for all lengths at once, they then give all states.
    Goes before one of these among the bases.
    """

    whole_sequence = True

    def gather_indexes(self, output: Tensor, gather_index: Tensor) -> Tensor:
        """States at one position a row, int64 ``[B]``: ``[B, d]``, or at several, int64 ``[B, P]``: ``[B, P, d]``."""
        if gather_index.dim() == 1:
            return super().gather_indexes(output, gather_index)
        return output.gather(1, gather_index.unsqueeze(-1).expand(-1, -1, output.shape[-1]))

    def encode(self, items: Tensor) -> Tensor:
        """States behind every item: int64 ``[B, T]``, 0 pads on the right, to ``[B, T, d]``."""
        lengths = torch.arange(1, items.shape[1] + 1, device=items.device)
        return self(items, lengths.expand(len(items), -1))

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        """Mean cross-entropy a target, scalar, nats; for a batch of `data.sequences.WholeSequenceLoader`."""
        targets = interaction[TARGETS]
        trained = targets > 0
        states = self.encode(interaction[self.ITEM_SEQ])[trained]
        return catalogue_cross_entropy(states, self.item_embedding.weight, targets[trained], padding=True)

    def full_sort_predict(self, interaction: Interaction) -> Tensor:
        """Scores of all items, float32 ``[B, items + 1]``: RecBole's, short histories not padded to the longest."""
        items, lengths = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        states = read_in_lots(lengths, lambda rows, longest: self(items[rows, :longest], lengths[rows]), READ_TOGETHER)
        return states @ self.item_embedding.weight.T


def last_states(states: Tensor, lengths: Tensor) -> Tensor:
    """The state behind the last item: ``[B, T, d]`` and int64 ``[B]`` in ``[1, T]`` to ``[B, 1, d]``."""
    last = (lengths - 1).view(-1, 1, 1).expand(-1, 1, states.shape[-1])
    return states.gather(1, last)


def padding_last(scores: Tensor) -> Tensor:
    """Puts the padding item, column 0 of ``[B, items + 1]``, below all others."""
    return torch.cat([scores[:, 1:].amin(1, keepdim=True) - 1.0, scores[:, 1:]], dim=1)
