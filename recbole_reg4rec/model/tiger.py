"""TIGER (Rajput et al. 2023, arXiv 2305.05065): spells the next item's semantic id, from coarse to fine.

It shares the encoder, the decoder, the catalogue and the search with REG4Rec. What differs: codes of an RQ-VAE with a
last digit that tells items apart, a fixed order of codebooks, and a loss on the one codebook that is next.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_reg4rec.data.sequences import TARGETS
from recbole_reg4rec.decoding.beam import Paths, beam_search
from recbole_reg4rec.decoding.catalogue import Candidates, Catalogue, feasible_log_softmax
from recbole_reg4rec.decoding.scoring import item_scores
from recbole_reg4rec.model.history import HistoryEncoder, TokenTable
from recbole_reg4rec.model.layers import layer_shape
from recbole_reg4rec.model.reasoner import Reasoner, ReasoningSession
from recbole_reg4rec.model.tokens import ItemTokens
from recbole_reg4rec.model.whole_sequence import WholeSequenceRecommender, last_states


class TIGER(WholeSequenceRecommender):
    """Encoder over the history, decoder that emits an item's tokens in their order; beams spell only real items.

    Args:
        config: RecBole configuration with the settings of ``properties/model/TIGER.yaml``.
        dataset: the training split.
        tokens: codes of the items, as the tokenizer made them.
    """

    needs_tokens = True

    def __init__(self, config: Any, dataset: Any, tokens: ItemTokens) -> None:
        super().__init__(config, dataset)
        codes, width = torch.from_numpy(tokens.codes), int(config["hidden_size"])
        self.catalogue = Catalogue(codes, tokens.codewords)
        table = TokenTable(codes, tokens.codewords, width)
        shape = layer_shape(config)
        layers = int(config["n_layers"])
        self.encoder = HistoryEncoder(
            table, config["history_form"], self.max_seq_length, layers=layers - layers // 2, **shape
        )
        self.reasoner = Reasoner(
            table, 0, layers=layers // 2, start_from_history=bool(config["start_from_history"]), **shape
        )
        self.feasible_softmax = config["softmax"] == "feasible"
        self.beam_width = int(config["beam_width"])

    # ---------------------------------------------------------------------------------------------- training

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        """Negative log-likelihood of the target's tokens, mean over targets, scalar, nats an item."""
        targets = interaction[TARGETS]
        trained = targets > 0
        history = self.encoder(interaction[self.ITEM_SEQ])
        session = self.reasoner.session(history, history.last, history.mask(), causal=history.causal)
        codes = self.catalogue.codes[targets[trained]]
        hidden = session.begin()
        candidates: Candidates | None = None
        loss = hidden.new_zeros((), dtype=torch.float32)
        for book, token in enumerate(codes.T):
            logits = self.reasoner.book_logits(hidden[trained], book).float()
            if self.feasible_softmax:
                feasible = self.catalogue.used if candidates is None else self.catalogue.feasible(candidates)
                log_probs = feasible_log_softmax(logits, feasible[..., book, :])
                loss = loss - log_probs.gather(1, token.unsqueeze(1)).mean()
            else:
                loss = loss + F.cross_entropy(logits, token)
            if book + 1 == codes.shape[1]:
                break
            here = torch.full_like(token, book)
            if self.feasible_softmax:
                if candidates is None:
                    candidates = self.catalogue.open(here, token)
                else:
                    candidates = self.catalogue.narrow(candidates, here, token)
            embedded = torch.zeros_like(hidden)
            embedded[trained] = self.reasoner.table.tokens(here, token).to(hidden.dtype)
            hidden = session.take(embedded)
        return loss

    # ---------------------------------------------------------------------------------------------- inference

    def spell(self, items: Tensor, lengths: Tensor) -> Paths:
        """The most probable items for histories: int64 ``[B, T]`` (0 pads on the right) and ``[B]``, in ``[1, T]``."""
        history = self.encoder(items[:, : int(lengths.max())])
        last = last_states(history.last, lengths)
        session = self.reasoner.session(history, last, history.mask_behind(lengths), causal=False)
        return beam_search(
            _Spelling(self.reasoner, session, absolute=not self.feasible_softmax),
            self.catalogue,
            self.beam_width,
            order="fixed",
            gives="logits" if self.feasible_softmax else "log_probs",
        )

    def full_sort_predict(self, interaction: Interaction) -> Tensor:
        """A finite score for every item, float32 ``[B, items + 1]``: beams first, the others by their first token."""
        return item_scores(self.spell(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]), self.catalogue)


class _Spelling:
    """Shows a reasoning session to beam search as logits of one codebook a step; the others say nothing."""

    def __init__(self, reasoner: Reasoner, session: ReasoningSession, absolute: bool) -> None:
        self._reasoner, self._session, self._absolute, self._book = reasoner, session, absolute, 0

    def first(self) -> Tensor:
        return self._logits(self._session.begin())

    def advance(self, parents: Tensor, books: Tensor, tokens: Tensor, candidates: Candidates) -> Tensor:
        self._session.follow(parents)
        return self._logits(self._session.take(self._reasoner.table.tokens(books, tokens)))

    def _logits(self, hidden: Tensor) -> Tensor:
        own = self._reasoner.book_logits(hidden, self._book).float()
        own = own.log_softmax(-1) if self._absolute else own
        table = self._reasoner.table
        logits = own.new_zeros(*own.shape[:-1], table.codebooks, table.codewords)
        logits[..., self._book, :] = own
        self._book += 1
        return logits
