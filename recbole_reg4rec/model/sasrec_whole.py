"""SASRec trained on whole sequences: RecBole's own network, every position's target in one pass."""

from __future__ import annotations

import torch
from recbole.data.interaction import Interaction
from recbole.model.sequential_recommender import SASRec
from torch import Tensor

from recbole_reg4rec.data.sequences import TARGETS
from recbole_reg4rec.errors import UserError
from recbole_reg4rec.model.softmax import catalogue_cross_entropy


class SASRecWhole(SASRec):
    """RecBole's SASRec with full cross-entropy at every position (our efficient training scheme).

    Raises:
        UserError: ``loss_type`` is not ``CE``.
    """

    whole_sequence = True

    def __init__(self, config, dataset) -> None:  # type: ignore[no-untyped-def]
        super().__init__(config, dataset)
        if self.loss_type != "CE":
            raise UserError(f"setting loss_type is '{self.loss_type}', but SASRecWhole needs CE; set loss_type: CE")

    def encode(self, items: Tensor) -> Tensor:
        """States behind every item: int64 ``[B, T]`` to ``[B, T, d]``."""
        positions = torch.arange(items.shape[1], device=items.device)
        x = self.item_embedding(items) + self.position_embedding(positions)
        x = self.dropout(self.LayerNorm(x))
        return self.trm_encoder(x, self.get_attention_mask(items), output_all_encoded_layers=True)[-1]

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        """Mean cross-entropy a target, scalar."""
        targets = interaction[TARGETS]
        trained = targets > 0
        states = self.encode(interaction[self.ITEM_SEQ])[trained]
        return catalogue_cross_entropy(states, self.item_embedding.weight, targets[trained], padding=True)
