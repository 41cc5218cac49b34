"""Fits MPQ to item features: k-means start, minibatch training, dead-code restart."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from sklearn.cluster import KMeans
from torch import Tensor

from recbole_reg4rec.errors import UserError
from recbole_reg4rec.tokenizer.mpq import MPQ
from recbole_reg4rec.tokenizer.training import train_codebooks

# k-means sees at most this many items a codeword: more moves a centre by less than training does.
_KMEANS_ITEMS_A_CODEWORD = 64
# The same in catalogues of more than `_ENCODED` items, where k-means takes longer than everything else.
_FEWER_ITEMS_A_CODEWORD = 8
# Items at random that an epoch sees at most: codebooks are of a bounded size, so that more tell them nothing new.
_EPOCH_ITEMS = 1 << 17
# Items that are encoded by all experts at once.
_ENCODED = 1 << 15


@dataclass(frozen=True)
class TokenizerSettings:
    """Everything besides the features that the codes depend on; names as in ``properties/model/REG4Rec.yaml``."""

    codebooks: int
    codewords: int
    hidden: int
    dim: int
    epochs: int
    batch_size: int
    learning_rate: float
    expert_rate: float
    commitment: float
    orthogonality: float
    route: bool
    seed: int


def default_codewords(items: int) -> int:
    """The value of ``codebook_size: auto`` (our choice): the power of two next to ``8 sqrt(items)``, 8 to 4096.

    In small catalogues it is that next to a quarter of the items, so that tokens are shared; with fewer than 8 items it
    is their number.
    """
    target = min(8.0 * max(items, 1) ** 0.5, max(items, 4) / 4)
    return int(min(4096, max(8, 2 ** round(np.log2(target))), max(items, 2)))


def fit_mpq(
    features: np.ndarray,
    known: np.ndarray,
    settings: TokenizerSettings,
    show_progress: bool = False,
    device: torch.device | str = "cpu",
) -> MPQ:
    """Trains the quantiser on the items that have features; the same input and seed give the same weights.

    Args:
        features: float32 ``[items + 1, F]``.
        known: bool ``[items + 1]``, items to fit on.
        settings: sizes, weights of the losses, schedule.
        show_progress: draw a progress bar.
        device: where it trains; k-means before it is the processor's, and what is drawn at random comes from there too.

    Returns:
        the quantiser, on the processor.

    Raises:
        UserError: more codewords than items with features.
    """
    rows = features[known]
    check_codewords(settings.codewords, len(rows))
    # A generator of its own keeps the codes independent of whatever was drawn before.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(settings.seed)  # torch.manual_seed would also seed the GPUs
        data = torch.from_numpy(np.ascontiguousarray(rows))
        model = MPQ(
            principal_axes(data), settings.codebooks, settings.codewords, settings.hidden, settings.dim, settings.route
        )
        _start_codebooks(model, data, settings)
        _train(model.to(device), data.to(device), settings, show_progress)
    return model.cpu().eval()


def check_codewords(codewords: int, items: int) -> None:
    """UserError where there are more codewords than items with features, or too few items for any."""
    if items < 2:
        raise UserError(
            f"{items} items have features, but codewords need 2 or more to tell apart; add item columns or interactions"
        )
    if codewords > items:
        raise UserError(
            f"setting codebook_size is {codewords}, but only {items} items have features to fit codewords "
            f"to; use at most {items}, or auto"
        )


def principal_axes(data: Tensor) -> Tensor:
    """Eigenvectors of the covariance of ``[N, F]``, float32 ``[F, F]``, one a column, the largest eigenvalue first."""
    centred = (data - data.mean(0)).double()
    return torch.linalg.eigh(centred.T @ centred).eigenvectors.flip(1).float()


@torch.no_grad()
def _start_codebooks(model: MPQ, data: Tensor, settings: TokenizerSettings) -> None:
    """k-means on what each expert puts out, from items at random: training moves the codewords on.

    Spreading the first centres (k-means++) would take ten times as long and fit better by less than a hundredth.
    """
    generator = np.random.default_rng(settings.seed)
    few = len(data) <= _ENCODED
    limit = min(len(data), (_KMEANS_ITEMS_A_CODEWORD if few else _FEWER_ITEMS_A_CODEWORD) * settings.codewords)
    # Of more items all experts' output takes gigabytes, so that each one's is made of its own sample.
    encoded = model.encode(data) if few else None
    for book in range(settings.codebooks):
        chosen = torch.from_numpy(generator.permutation(len(data))[:limit])
        own = model.encode(data[chosen], slice(book, book + 1))[0] if encoded is None else encoded[book][chosen]
        sample = own.numpy()
        kmeans = KMeans(settings.codewords, init="random", n_init=1, max_iter=20, random_state=settings.seed + book)
        model.codewords_table[book] = torch.from_numpy(kmeans.fit(sample).cluster_centers_.astype(np.float32))


def _train(model: MPQ, data: Tensor, settings: TokenizerSettings, show_progress: bool) -> None:
    experts = [model.first, model.first_bias, model.second, model.second_bias, model.skip]
    slow = {id(weight) for weight in experts}
    others = [weight for weight in model.parameters() if id(weight) not in slow]
    # Experts that move as fast as their codebooks drift towards the same view of the items.
    rates = [
        {"params": others, "lr": settings.learning_rate},
        {"params": experts, "lr": settings.learning_rate * settings.expert_rate},
    ]
    optimizer = torch.optim.Adam(rates)

    def step(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        out = model(rows)
        loss = (
            out.reconstruction_loss
            + out.codebook_loss
            + settings.commitment * out.commitment_loss
            + settings.orthogonality * model.orthogonality()
        )
        return out.codes, loss, out.reconstruction_loss

    shape, restart = (settings.codebooks, settings.codewords), partial(_restart_dead, model, data)
    schedule = settings.epochs, settings.batch_size
    train_codebooks(data, optimizer, step, restart, shape, *schedule, "MPQ", show_progress, most=_EPOCH_ITEMS)


def _restart_dead(model: MPQ, data: Tensor, used: Tensor) -> None:
    """Puts every codeword that no item chose onto a random item's encoding."""
    for book in range(model.codebooks):
        dead = torch.nonzero(~used[book]).squeeze(1)
        if len(dead):
            chosen = torch.randint(len(data), (len(dead),)).to(data.device)
            model.codewords_table[book, dead] = model.encode(data[chosen])[book]
