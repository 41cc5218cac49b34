"""RecBole's own networks trained on whole sequences: the same models, their baselines in a fraction of the time."""

from __future__ import annotations

import torch
from recbole.data.interaction import Interaction
from recbole.model.sequential_recommender import FDSA, BERT4Rec, GRU4Rec, SASRec
from torch import Tensor

from recbole_reg4rec.data.sequences import TARGETS
from recbole_reg4rec.model.history import read_in_lots
from recbole_reg4rec.model.softmax import catalogue_cross_entropy
from recbole_reg4rec.model.whole_sequence import READ_TOGETHER, EveryPosition


class SASRecWhole(EveryPosition, SASRec):
    """RecBole's SASRec, every position's target in one pass."""


class GRU4RecWhole(EveryPosition, GRU4Rec):
    """RecBole's GRU4Rec, every position's target in one pass."""


class FDSAWhole(EveryPosition, FDSA):
    """RecBole's FDSA, every position's target in one pass; ``selected_features`` are columns of ``.item``."""


class BERT4RecWhole(BERT4Rec):
    """RecBole's BERT4Rec, masked anew in whole sequences instead of in every prefix (as its paper has it).

    Each sequence of an epoch is masked ``mask_copies`` times: in ``ft_ratio`` of the copies at the last item alone, as
    in evaluation, else at every item with the chance ``mask_ratio``.
    """

    whole_sequence = True

    def __init__(self, config, dataset) -> None:  # type: ignore[no-untyped-def]
        super().__init__(config, dataset)
        self.mask_copies = int(config["mask_copies"])
        self.last_share = float(config["ft_ratio"])

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        """Mean cross-entropy a masked item, scalar, nats; for a batch of `data.sequences.WholeSequenceLoader`."""
        items = self.sequences(interaction).repeat(self.mask_copies, 1)
        masked = self.draw_masks(items)
        states = self(items.masked_fill(masked, self.mask_token))[masked]
        # The bias is one more column of the items, beside a constant of the states.
        states = torch.cat([states, states.new_ones(len(states), 1)], dim=1)
        weights = torch.cat([self.item_embedding.weight[: self.n_items], self.output_bias.unsqueeze(1)], dim=1)
        return catalogue_cross_entropy(states, weights, items[masked], padding=True)

    def sequences(self, interaction: Interaction) -> Tensor:
        """Inputs and the last target behind them, the newest that the model reaches: int64 ``[B, T]``, 0 pads."""
        lengths = interaction[self.ITEM_SEQ_LEN]
        return self.followed(
            interaction[self.ITEM_SEQ], lengths, interaction[TARGETS].gather(1, lengths.view(-1, 1) - 1)
        )

    def followed(self, inputs: Tensor, lengths: Tensor, last: Tensor) -> Tensor:
        """Histories int64 ``[B, T]`` of ``lengths`` ``[B]`` and one more item ``[B, 1]``, the newest; 0 pads."""
        lengths = lengths.unsqueeze(1)
        items = torch.cat([inputs, torch.zeros_like(last)], dim=1).scatter(1, lengths, last)
        beyond = (lengths + 1 - self.max_seq_length).clamp(min=0)
        places = torch.arange(min(items.shape[1], self.max_seq_length), device=items.device) + beyond
        # A row that is not cut may end before the longest one does.
        inside = places < items.shape[1]
        return items.gather(1, places * inside) * inside

    def draw_masks(self, items: Tensor) -> Tensor:
        """What is to be guessed, at least one item a row: bool ``[B, T]``."""
        real = items > 0
        last = torch.arange(items.shape[1], device=items.device) == real.sum(1, keepdim=True) - 1
        masked = real & (torch.rand(items.shape, device=items.device) < self.mask_ratio)
        only_last = torch.rand(len(items), 1, device=items.device) < self.last_share
        only_last |= ~masked.any(1, keepdim=True)
        return torch.where(only_last, last, masked)

    def full_sort_predict(self, interaction: Interaction) -> Tensor:
        """Scores of all items, float32 ``[B, items + 1]``, at a mask behind the history; short ones are not padded.

        As in RecBole the oldest item of every history makes room for the mask, though most would have it.
        """
        inputs, lengths = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        mask = torch.full_like(lengths, self.mask_token).unsqueeze(1)

        def read(rows: Tensor, longest: int) -> Tensor:
            asked = self.followed(inputs[rows, 1:longest], lengths[rows] - 1, mask[rows])
            return self.gather_indexes(self(asked), lengths[rows] - 1)

        states = read_in_lots(lengths, read, READ_TOGETHER)
        return states @ self.item_embedding.weight[: self.n_items].T + self.output_bias
