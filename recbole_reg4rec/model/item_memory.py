"""The item memory alone: what followed what in training, read over the history; no training (docs/method.md, 5)."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import Tensor

from recbole_reg4rec.data.cooccurrence import transitions
from recbole_reg4rec.data.sequences import TrainingSequences, training_sequences

# Popularity orders the items that no item of the history points to, and stays below the weakest pointer.
_POPULARITY_SHARE = 1e-6


def memory_table(
    sequences: TrainingSequences, items: int, window: int, decay: float, backward: float, popularity: float
) -> sp.csr_matrix:
    """Weight of each item as the next one, given one item of the history.

    Args:
        sequences: training part of every user's history.
        items: number of items with the padding item.
        window: steps in a history that count as following.
        decay: power of the distance that a step's weight falls with.
        backward: weight of "came before" beside 1 for "came after".
        popularity: power of an item's number of interactions that its weight is divided by.

    Returns:
        float32 ``[items, items]``, row the item of the history, each row divided by the row item's interactions.
    """
    forward = transitions(sequences, items, window, decay)
    table = sp.csr_matrix(forward + backward * forward.T)
    table.setdiag(0)
    table.eliminate_zeros()
    count = np.maximum(np.bincount(sequences.items, minlength=items), 1).astype(np.float64)
    return sp.csr_matrix(sp.diags(1.0 / count) @ table @ sp.diags(count**-popularity)).astype(np.float32)


class ItemMemory(SequentialRecommender):
    """Scores items by the weights that the items of the history give them, the newest item the most.

    Memory grows with the interactions (times the window), not with items squared.
    """

    input_type = InputType.POINTWISE
    whole_sequence = True

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.recency = float(config["memory_recency"])
        sequences = training_sequences(dataset)
        table = memory_table(
            sequences,
            self.n_items,
            int(config["memory_window"]),
            float(config["memory_decay"]),
            float(config["memory_backward"]),
            float(config["memory_popularity"]),
        )
        # Turned round, so that one sparse product gives the scores of a batch; built from the data, so not saved.
        turned = sp.csr_matrix(table.T)
        rows, columns = (torch.from_numpy(part.astype(np.int64)) for part in (turned.indptr, turned.indices))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
            sparse = torch.sparse_csr_tensor(
                rows, columns, torch.from_numpy(turned.data), size=turned.shape, check_invariants=True
            )
        self.register_buffer("table", sparse, persistent=False)
        count = torch.bincount(torch.from_numpy(sequences.items), minlength=self.n_items).float()
        self.register_buffer("popularity", _POPULARITY_SHARE * count / count.max().clamp(min=1.0), persistent=False)
        # RecBole's optimiser wants a parameter.
        self.placeholder = torch.nn.Parameter(torch.zeros(1), requires_grad=True)

    table: Tensor
    popularity: Tensor

    def full_sort_predict(self, interaction: Interaction) -> Tensor:
        """A finite score for every item, float32 ``[B, items + 1]``."""
        items, lengths = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        age = lengths.unsqueeze(1) - 1 - torch.arange(items.shape[1], device=items.device)
        weight = torch.where(age >= 0, self.recency ** age.clamp(min=0).float(), torch.zeros((), device=items.device))
        history = torch.zeros(len(items), self.n_items, device=items.device).scatter_add(1, items, weight)
        history[:, 0] = 0.0
        return torch.sparse.mm(self.table, history.T).T + self.popularity

    def predict(self, interaction: Interaction) -> Tensor:
        """The same scores for one item a row, float32 ``[B]``."""
        return self.full_sort_predict(interaction).gather(1, interaction[self.ITEM_ID].unsqueeze(1)).squeeze(1)
