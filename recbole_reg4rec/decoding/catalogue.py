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
    used: Tensor

    def __init__(self, codes: Tensor, codewords: int) -> None:
        super().__init__()
        self.codebooks, self.codewords = codes.shape[1], codewords
        # Not in the state_dict: the codes come from the tokenizer, whose fingerprint the checkpoint holds.
        self.register_buffer("codes", codes, persistent=False)
        self.register_buffer("postings", _posting_lists(codes, codewords), persistent=False)
        self.register_buffer("used", self.postings[:, :, 0] > 0, persistent=False)

    @property
    def items(self) -> int:
        """Number of items without the padding item."""
        return len(self.codes) - 1

    def open(self, books: Tensor, tokens: Tensor) -> Tensor:
        """Items that carry one token: int64 ``[...]`` each in, int64 ``[..., P]`` out, 0 fills up."""
        return self.postings[books, tokens]

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


def _posting_lists(codes: Tensor, codewords: int) -> Tensor:
    """Items of every token, int64 ``[M, K, longest list]``, ascending, 0 fills up."""
    items, books = codes.shape[0] - 1, codes.shape[1]
    flat = codes[1:] + torch.arange(books, device=codes.device) * codewords
    token = flat.T.reshape(-1)
    item = torch.arange(1, items + 1, device=codes.device).repeat(books)
    order = torch.argsort(token, stable=True)
    token, item = token[order], item[order]
    counts = torch.bincount(token, minlength=books * codewords)
    place = torch.arange(len(token), device=codes.device) - torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    lists = torch.zeros(books * codewords, max(1, int(counts.max())), dtype=torch.int64, device=codes.device)
    lists[token, place] = item
    return lists.view(books, codewords, -1)


def feasible_log_softmax(logits: Tensor, feasible: Tensor) -> Tensor:
    """Log-probabilities per codebook over feasible tokens; both ``[..., K]``.

    Infeasible tokens get -inf; a codebook with no feasible token gets -inf everywhere instead of NaN.
    """
    masked = logits.masked_fill(~feasible, float("-inf"))
    total = masked.logsumexp(-1, keepdim=True)
    return masked - total.masked_fill(total.isinf(), 0.0)
