"""RQ-VAE: an autoencoder whose middle is quantised level by level, each level the residual of those before.

For ordered codes (TIGER, Rajput et al. 2023, arXiv 2305.05065). An item's codes go from coarse to fine. Items that
share all of them get a last digit that tells them apart (paper). Cosine schedule, Adam and moving unused codewords are
our choice.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import torch
from sklearn.cluster import KMeans
from torch import Tensor, nn

from recbole_reg4rec.tokenizer.fit import check_codewords
from recbole_reg4rec.tokenizer.training import train_codebooks


@dataclass(frozen=True)
class RQVAESettings:
    """Everything besides the features that the codes depend on; names as in ``properties/model/TIGER.yaml``."""

    kind: ClassVar[str] = "rqvae"
    levels: int
    codewords: int
    hidden: tuple[int, ...]
    dim: int
    epochs: int
    batch_size: int
    learning_rate: float
    commitment: float
    seed: int

    @property
    def codebooks(self) -> int:
        """Tokens an item: the levels and the digit that tells items apart."""
        return self.levels + 1


class RQVAE(nn.Module):
    """Encoder, residual codebooks, decoder.

    Args:
        features: width ``F`` of the features.
        hidden: widths of the encoder's hidden layers; the decoder's are the same, turned round.
        dim: width ``d_z`` of a codeword.
        levels: number of codebooks ``M``.
        codewords: codewords a codebook ``K``.
    """

    def __init__(self, features: int, hidden: tuple[int, ...], dim: int, levels: int, codewords: int) -> None:
        super().__init__()
        self.encoder = _layers([features, *hidden, dim])
        self.decoder = _layers([dim, *reversed(hidden), features])
        self.codewords = nn.Parameter(torch.randn(levels, codewords, dim) * dim**-0.5)

    def quantise(self, encoded: Tensor) -> tuple[Tensor, Tensor]:
        """Codes of ``[B, d_z]``, int64 ``[B, M]``, and what is left over before every level, ``[B, M, d_z]``."""
        codes, residuals = [], []
        left = encoded
        for words in self.codewords:
            residuals.append(left)
            code = torch.cdist(left.detach(), words.detach()).argmin(1)
            codes.append(code)
            left = left - words.detach()[code]
        return torch.stack(codes, dim=1), torch.stack(residuals, dim=1)

    def look_up(self, codes: Tensor) -> Tensor:
        """Codewords of codes ``[B, M]``, float32 ``[B, M, d_z]``; their sum is the quantised middle."""
        return self.codewords[torch.arange(codes.shape[1], device=codes.device), codes]

    def assign(self, rows: Tensor) -> Tensor:
        """Codes of items: float32 ``[B, F]`` to int64 ``[B, M]``."""
        return self.quantise(self.encoder(rows))[0]

    def last_distances(self, rows: Tensor) -> Tensor:
        """Distances of what the last level quantises to its codewords: ``[B, F]`` to ``[B, K]``."""
        return torch.cdist(self.quantise(self.encoder(rows))[1][:, -1], self.codewords[-1])

    def reconstruct(self, rows: Tensor, codes: Tensor) -> Tensor:
        """Decodes codes ``[B, >= M]``, whose digits behind the levels say nothing; float32 ``[B, F]``."""
        return self.decoder(self.look_up(codes[:, : len(self.codewords)]).sum(1))

    def forward(self, rows: Tensor, commitment: float) -> tuple[Tensor, Tensor, Tensor]:
        """Codes ``[B, M]``, loss (reconstruction and, at every level, codebook and commitment), reconstruction loss."""
        encoded = self.encoder(rows)
        codes, residuals = self.quantise(encoded)
        words = self.look_up(codes)
        quantised = words.sum(1)
        # The decoder's gradient passes the quantiser by.
        decoded = self.decoder(encoded + (quantised - encoded).detach())
        reconstruction = (decoded - rows).square().sum(1).mean()
        codebook = (words - residuals.detach()).square().sum((1, 2)).mean()
        committed = (residuals - words.detach()).square().sum((1, 2)).mean()
        return codes, reconstruction + codebook + commitment * committed, reconstruction.detach()


def _layers(widths: list[int]) -> nn.Sequential:
    parts: list[nn.Module] = []
    for narrow, wide in zip(widths, widths[1:], strict=False):
        parts += [nn.Linear(narrow, wide), nn.ReLU()]
    return nn.Sequential(*parts[:-1])


def fit_rqvae(
    features: np.ndarray,
    known: np.ndarray,
    settings: RQVAESettings,
    show_progress: bool = False,
    device: torch.device | str = "cpu",
) -> RQVAE:
    """Trains the quantiser on the items that have features; the same input and seed give the same weights.

    Args:
        features: float32 ``[items + 1, F]``.
        known: bool ``[items + 1]``, items to fit on.
        settings: sizes, schedule.
        show_progress: draw a progress bar.
        device: where it trains; k-means before it is the processor's, and what is drawn at random comes from there too.

    Returns:
        the quantiser, on the processor.

    Raises:
        UserError: more codewords than items with features.
    """
    check_codewords(settings.codewords, int(known.sum()))
    # A generator of its own keeps the codes independent of whatever was drawn before.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(settings.seed)  # torch.manual_seed would also seed the GPUs
        data = torch.from_numpy(np.ascontiguousarray(features[known]))
        model = RQVAE(data.shape[1], settings.hidden, settings.dim, settings.levels, settings.codewords)
        _start_codebooks(model, data, settings)
        _train(model.to(device), data.to(device), settings, show_progress)
    return model.cpu().eval().requires_grad_(False)


@torch.no_grad()
def _start_codebooks(model: RQVAE, data: Tensor, settings: RQVAESettings) -> None:
    """k-means on what each level is given (paper: on the first batch; here on all items)."""
    left = model.encoder(data)
    for level in range(settings.levels):
        kmeans = KMeans(settings.codewords, n_init=1, max_iter=20, random_state=settings.seed + level)
        code = torch.from_numpy(kmeans.fit_predict(left.numpy())).long()
        model.codewords[level] = torch.from_numpy(kmeans.cluster_centers_.astype(np.float32))
        left = left - model.codewords[level][code]


def _train(model: RQVAE, data: Tensor, settings: RQVAESettings, show_progress: bool) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.learning_rate)
    step, restart = partial(model, commitment=settings.commitment), partial(_restart_dead, model, data)
    shape, schedule = (settings.levels, settings.codewords), (settings.epochs, settings.batch_size)
    train_codebooks(data, optimizer, step, restart, shape, *schedule, "RQ-VAE", show_progress)


def _restart_dead(model: RQVAE, data: Tensor, used: Tensor) -> None:
    """Puts every codeword that no item chose onto what its level is given of a random item."""
    for level in range(len(used)):
        dead = torch.nonzero(~used[level]).squeeze(1)
        if len(dead):
            chosen = torch.randint(len(data), (len(dead),)).to(data.device)
            model.codewords[level, dead] = model.quantise(model.encoder(data[chosen]))[1][:, level]
