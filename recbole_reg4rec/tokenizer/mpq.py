"""MPQ, the mixture-of-experts parallel quantisation codebook (docs/method.md, 1).

Paper: a router, M expert encoders, a codebook each, a gated mixture of the chosen codewords, one decoder, and an
orthogonality regulariser between experts. Cosine assignment, commitment and dead-code restart are our choice.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Cosines that are held at once while the nearest codewords are looked for.
_CACHED = 256 * 1024


@dataclass
class Quantised:
    """One pass over ``B`` items: ``codes`` int64 ``[B, M]``; ``reconstruction`` float32 ``[B, F]``; scalar losses."""

    codes: Tensor
    reconstruction: Tensor
    reconstruction_loss: Tensor
    codebook_loss: Tensor
    commitment_loss: Tensor


class MPQ(nn.Module):
    """Parallel quantiser of item features.

    Args:
        axes: principal axes of the items' features, float32 ``[F, F]``, one a column, the strongest first.
        codebooks: number of experts and codebooks ``M``.
        codewords: codewords a codebook ``K``.
        hidden: width of the experts' hidden layer.
        dim: width ``d_z`` of a codeword.
        route: use the learned gate; False mixes all experts equally (ablation).
    """

    def __init__(self, axes: Tensor, codebooks: int, codewords: int, hidden: int, dim: int, route: bool = True) -> None:
        super().__init__()
        features = len(axes)
        self.codebooks, self.codewords, self.dim, self.route = codebooks, codewords, dim, route
        # All experts in one batched product: weights [M, in, out].
        self.first = nn.Parameter(torch.randn(codebooks, features, hidden) / features**0.5)
        self.first_bias = nn.Parameter(torch.zeros(codebooks, 1, hidden))
        self.second = nn.Parameter(0.1 * torch.randn(codebooks, hidden, dim) / hidden**0.5)
        self.second_bias = nn.Parameter(torch.zeros(codebooks, 1, dim))
        # Each expert starts on principal axes of its own, so that no two start with the same view of the items.
        self.skip = nn.Parameter(_slices(axes, codebooks, dim))
        self.codewords_table = nn.Parameter(F.normalize(torch.randn(codebooks, codewords, dim), dim=-1))
        self.router = nn.Linear(features, codebooks)
        self.linear_decoder = nn.Linear(dim, features)
        self.decoder = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, features))
        # On the unit sphere once for all, while nothing is trained.
        self._settled: Tensor | None = None

    def train(self, mode: bool = True) -> MPQ:
        """As for any module; codewords must not be changed between ``eval()`` and ``train()``."""
        self._settled = None if mode else F.normalize(self.codewords_table.detach(), dim=-1)
        return super().train(mode)

    def encode(self, features: Tensor, experts: slice = slice(None)) -> Tensor:
        """Outputs on the unit sphere of all experts or some: float32 ``[B, F]`` to ``[M, B, d_z]``."""
        hidden = F.gelu(torch.matmul(features, self.first[experts]) + self.first_bias[experts])
        out = torch.matmul(hidden, self.second[experts]) + self.second_bias[experts]
        out = out + torch.matmul(features, self.skip[experts])
        return F.normalize(out, dim=-1)

    def codebook(self) -> Tensor:
        """Codewords on the unit sphere, float32 ``[M, K, d_z]``."""
        if self._settled is not None and not torch.is_grad_enabled():
            return self._settled
        return F.normalize(self.codewords_table, dim=-1)

    def gate(self, features: Tensor) -> Tensor:
        """Share of each expert in the mixture, float32 ``[B, M]``, rows sum to 1."""
        if not self.route:
            return features.new_full((len(features), self.codebooks), 1.0 / self.codebooks)
        return torch.softmax(self.router(features), dim=-1)

    def distances(self, features: Tensor) -> Tensor:
        """Squared distances of items to codewords, float32 ``[B, M, K]`` in ``[0, 4]``."""
        cosine = torch.matmul(self.encode(features), self.codebook().transpose(1, 2))
        return cosine.mul_(-2.0).add_(2.0).transpose(0, 1)

    def reconstruct(self, features: Tensor, codes: Tensor) -> Tensor:
        """Decodes given codes ``[B, M]`` with the items' own gates, float32 ``[B, F]``."""
        return self._mix(features, _look_up(self.codebook(), codes))

    def forward(self, features: Tensor) -> Quantised:
        """Quantises with a straight-through estimator: float32 ``[B, F]`` in, `Quantised` out."""
        encoded, codebook = self.encode(features), self.codebook()
        codes = _nearest(encoded.detach(), codebook.detach())
        words = _look_up(codebook, codes)
        reconstruction = self._mix(features, encoded + (words - encoded).detach())
        return Quantised(
            codes=codes,
            reconstruction=reconstruction,
            reconstruction_loss=F.mse_loss(reconstruction, features) * features.shape[1],
            codebook_loss=(words - encoded.detach()).square().sum(-1).mean(),
            commitment_loss=(encoded - words.detach()).square().sum(-1).mean(),
        )

    def orthogonality(self) -> Tensor:
        """``||V V^T - I||_F^2`` over the experts' flattened, L2-normalised weights; scalar, 0 when orthogonal."""
        flat = torch.cat([self.first.flatten(1), self.second.flatten(1), self.skip.flatten(1)], dim=1)
        flat = F.normalize(flat, dim=1)
        identity = torch.eye(self.codebooks, dtype=flat.dtype, device=flat.device)
        return (flat @ flat.T - identity).square().sum()

    def _mix(self, features: Tensor, words: Tensor) -> Tensor:
        mixture = torch.einsum("bm,mbd->bd", self.gate(features), words)
        return self.linear_decoder(mixture) + self.decoder(mixture)


def _nearest(encoded: Tensor, codebook: Tensor) -> Tensor:
    """Codewords with the largest cosine to ``[M, B, d_z]`` on the unit sphere: int64 ``[B, M]``.

    Piece by piece into one buffer that the cache holds: all cosines at once take half as long again on a processor.
    """
    books, items, _ = encoded.shape
    codes = torch.empty(books, items, dtype=torch.long, device=encoded.device)
    rows = _CACHED // codebook.shape[1] if encoded.device.type == "cpu" else items
    rows = min(items, max(1, rows))
    buffer = encoded.new_empty(rows, codebook.shape[1])
    for book in range(books):
        words = codebook[book].T
        for start in range(0, items, rows):
            part = encoded[book, start : start + rows]
            cosine = torch.mm(part, words, out=buffer[: len(part)])
            torch.argmax(cosine, dim=1, out=codes[book, start : start + rows])
    return codes.T


def _look_up(codebook: Tensor, codes: Tensor) -> Tensor:
    """Codewords ``[M, K, d_z]`` of codes ``[B, M]``, as ``[M, B, d_z]``."""
    books = torch.arange(len(codebook), device=codes.device).unsqueeze(1)
    return codebook[books, codes.T]


def _slices(axes: Tensor, codebooks: int, dim: int) -> Tensor:
    """Maps ``[M, F, d_z]`` that deal the principal axes out to the experts in turn, anew where there are fewer axes."""
    features = len(axes)
    spread, _ = torch.linalg.qr(torch.randn(max(features, dim), max(features, dim)))
    maps = torch.zeros(codebooks, features, dim)
    for book in range(codebooks):
        dealt = torch.arange(book % features, features, codebooks)
        maps[book] = axes[:, dealt] @ spread[dealt, :dim]
    return maps
