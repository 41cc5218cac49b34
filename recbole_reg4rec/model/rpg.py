"""RPG (Hou et al. 2025, *Generating Long Semantic IDs in Parallel for Recommendation*): all tokens of an item at once.

An item has many unordered tokens. A causal encoder reads the history, an item being the sum of its tokens; one head a
codebook says how probable each token of the next item is; an item's score is the mean log-probability of its tokens.
The paper searches a graph of items for the best; catalogues of these sizes are scored whole, which is exact.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from recbole.data.interaction import Interaction
from torch import Tensor, nn

from recbole_reg4rec.data.sequences import TARGETS
from recbole_reg4rec.decoding.catalogue import Catalogue
from recbole_reg4rec.decoding.scoring import parallel_scores
from recbole_reg4rec.model.history import HistoryEncoder, TokenTable
from recbole_reg4rec.model.layers import layer_shape
from recbole_reg4rec.model.tokens import ItemTokens
from recbole_reg4rec.model.whole_sequence import WholeSequenceRecommender, last_states, padding_last


class ParallelHeads(nn.Module):
    """A residual projection a codebook; logits are cosines with its token embeddings over a temperature."""

    def __init__(self, table: TokenTable, temperature: float) -> None:
        super().__init__()
        self.table, self.temperature = table, temperature
        width = table.weight.shape[1]
        # Every head begins as the identity.
        self.weight = nn.Parameter(torch.zeros(table.codebooks, width, width))
        self.bias = nn.Parameter(torch.zeros(table.codebooks, 1, width))

    def forward(self, states: Tensor, books: Tensor | None = None) -> Tensor:
        """Logits of the tokens of codebooks ``books`` int64 ``[m]``, or of all: ``[R, d]`` to float32 ``[m, R, K]``."""
        weight: Tensor = self.weight
        bias: Tensor = self.bias
        tokens = self.table.weight.unflatten(0, (self.table.codebooks, self.table.codewords))
        if books is not None:
            weight, bias, tokens = weight[books], bias[books], tokens[books]
        views = F.normalize(states + F.silu(torch.matmul(states, weight) + bias), dim=-1) / self.temperature
        return torch.matmul(views, F.normalize(tokens, dim=-1).transpose(1, 2)).float()


class RPG(WholeSequenceRecommender):
    """Predicts the tokens of the next item in parallel.

    Args:
        config: RecBole configuration with the settings of ``properties/model/RPG.yaml``.
        dataset: the training split.
        tokens: codes of the items, as the tokenizer made them.
    """

    needs_tokens = True

    def __init__(self, config: Any, dataset: Any, tokens: ItemTokens) -> None:
        super().__init__(config, dataset)
        codes, width = torch.from_numpy(tokens.codes), int(config["hidden_size"])
        self.catalogue = Catalogue(codes, tokens.codewords)
        table = TokenTable(codes, tokens.codewords, width, length=float(config["initializer_range"]) * width**0.5)
        self.encoder = HistoryEncoder(
            table,
            "fused",
            self.max_seq_length,
            layers=int(config["n_layers"]),
            **layer_shape(config),
        )
        self.heads = ParallelHeads(table, float(config["temperature"]))
        self.heads_a_batch = int(config["heads_a_batch"])

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        """Mean cross-entropy a token of the targets, scalar, nats (paper: multi-token prediction).

        With ``heads_a_batch`` it is that of codebooks drawn for this batch, an unbiased estimate.
        """
        targets = interaction[TARGETS]
        trained = targets > 0
        codes = self.catalogue.codes[targets[trained]].T
        books = None
        if 0 < self.heads_a_batch < len(codes):
            books = torch.randperm(len(codes), device=codes.device)[: self.heads_a_batch]
            codes = codes[books]
        logits = self.heads(self.encoder(interaction[self.ITEM_SEQ]).last[trained], books)
        return F.cross_entropy(logits.flatten(0, 1), codes.flatten())

    def full_sort_predict(self, interaction: Interaction) -> Tensor:
        lengths = interaction[self.ITEM_SEQ_LEN]
        states = self.encoder.read(interaction[self.ITEM_SEQ], lengths).last
        log_probs = self.heads(last_states(states, lengths)[:, 0]).log_softmax(-1).transpose(0, 1)
        return padding_last(parallel_scores(log_probs, self.catalogue) / self.catalogue.codebooks)
