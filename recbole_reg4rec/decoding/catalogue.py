"""The catalogue constraint: which tokens can still follow a partial path, in any order of codebooks.

docs/method.md, 4. A partial path is carried as the list of items that still match it. The first token looks that list
up (a posting list), every further one thins it out; so the cost of a step depends on the length of a posting list and
not on the size of the catalogue, and no Python code runs over items.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Catalogue(nn.Module):
    """The codes of all items, indexed by token.

    Args:
        codes: int64 ``[items + 1, M]``; row 0 is the padding item and never matches anything.
        codewords: ``K``.
    """

    codes: Tensor
    postings: Tensor
    starts: Tensor
    counts: Tensor
    used: Tensor

    def __init__(self, codes: Tensor, codewords: int) -> None:
        super().__init__()
        self.codebooks, self.codewords = codes.shape[1], codewords
        # Not in the state_dict: the codes come from the tokenizer, whose fingerprint the checkpoint holds.
        self.register_buffer("codes", codes, persistent=False)
        postings, counts = _posting_lists(codes, codewords)
        self.register_buffer("postings", postings, persistent=False)
        self.register_buffer("counts", counts, persistent=False)
        self.register_buffer("starts", counts.flatten().cumsum(0).view_as(counts) - counts, persistent=False)
        self.register_buffer("used", counts > 0, persistent=False)

    @property
    def items(self) -> int:
        """Number of items without the padding item."""
        return len(self.codes) - 1

    def open(self, books: Tensor, tokens: Tensor) -> Tensor:
        """Items that carry one token: int64 ``[...]`` each in, int64 ``[..., P]`` out, 0 fills up."""
        count = self.counts[books, tokens].unsqueeze(-1)
        place = torch.arange(max(1, int(count.max())) if count.numel() else 1, device=count.device)
        inside = place < count
        return self.postings[(self.starts[books, tokens].unsqueeze(-1) + place) * inside] * inside

    def narrow(self, candidates: Tensor, books: Tensor, tokens: Tensor) -> Tensor:
        """Those of the candidates ``[..., P]`` that also carry a token ``[...]``; ``[..., P']`` with ``P' <= P``."""
        carried = self.codes[candidates, books.unsqueeze(-1)]
        keep = (carried == tokens.unsqueeze(-1)) & (candidates > 0)
        candidates = candidates * keep
        longest = max(1, int(keep.sum(-1).max())) if keep.numel() else 1
        if 2 * longest <= candidates.shape[-1]:
            candidates = candidates.topk(longest, dim=-1).values
        return candidates

    def feasible(self, candidates: Tensor) -> Tensor:
        """Tokens that some candidate carries: int64 ``[..., P]`` in, bool ``[..., M, K]`` out."""
        codes = self.codes[candidates].transpose(-1, -2)
        # Fillers point to a column of their own that is cut off again.
        codes = codes.masked_fill((candidates == 0).unsqueeze(-2), self.codewords)
        shape = (*candidates.shape[:-1], self.codebooks, self.codewords + 1)
        mask = torch.zeros(shape, dtype=torch.bool, device=candidates.device)
        return mask.scatter_(-1, codes, True)[..., : self.codewords]


def _posting_lists(codes: Tensor, codewords: int) -> tuple[Tensor, Tensor]:
    """Items of every token, one list after the other, each ascending, int64 ``[M * items]``; lengths ``[M, K]``.

    Lists differ in length as much as tokens in use, so that they are not filled up to the longest.
    """
    items, books = codes.shape[0] - 1, codes.shape[1]
    token = (codes[1:] + torch.arange(books, device=codes.device) * codewords).T.reshape(-1)
    item = torch.arange(1, items + 1, device=codes.device).repeat(books)
    counts = torch.bincount(token, minlength=books * codewords)
    return item[torch.argsort(token, stable=True)], counts.view(books, codewords)


def feasible_log_softmax(logits: Tensor, feasible: Tensor) -> Tensor:
    """Log-probabilities per codebook over feasible tokens; both ``[..., K]``.

    Infeasible tokens get -inf; a codebook with no feasible token gets -inf everywhere instead of NaN.
    """
    masked = logits.masked_fill(~feasible, float("-inf"))
    total = masked.logsumexp(-1, keepdim=True)
    return masked - total.masked_fill(total.isinf(), 0.0)
