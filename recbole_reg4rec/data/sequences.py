"""Whole-sequence training data: one row a user, every position a target (the efficient training scheme, our choice).

RecBole repeats a user's history once for each of its targets. Here a history stands once, a causal encoder reads it
in one pass, and every position is trained. Histories longer than the model's reach are cut into overlapping windows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_reg4rec.data.dataset import LOG_POSITION, OrderedDataset

# int64 [rows, positions]: the item that follows each position, 0 where nothing is to be learned.
TARGETS = "target_items"
# int64 [rows, positions + N - 1]: the item behind each position and those after it; 0 behind the training part.
FUTURE = "future_items"


@dataclass(frozen=True)
class TrainingSequences:
    """The training part of every user's history, user after user; nothing held out is in here.

    ``items``: int64 ``[interactions]``; ``offsets``: int64 ``[users + 1]``, user ``u`` owns
    ``items[offsets[u]:offsets[u + 1]]``, oldest first.
    """

    items: np.ndarray
    offsets: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """Interactions of each user, int64 ``[users]``."""
        return np.diff(self.offsets)

    @property
    def users(self) -> np.ndarray:
        """The number of the user that each interaction belongs to, int64 ``[interactions]``."""
        return np.repeat(np.arange(len(self.offsets) - 1), self.lengths)


def training_sequences(train: OrderedDataset) -> TrainingSequences:
    """Cuts each user's log behind the last training target; users without a training target are left out."""
    places, offsets = _training_places(train)
    return TrainingSequences(items=train.log[train.iid_field].numpy()[places], offsets=offsets)


def _training_places(train: OrderedDataset) -> tuple[np.ndarray, np.ndarray]:
    """Where in the log the training part lies, int64 ``[interactions]``, and the offsets of its users."""
    targets = np.sort(train.inter_feat[LOG_POSITION].numpy())
    start = train.history_start[targets]
    last_of_user = np.concatenate([start[1:] != start[:-1], [True]])
    first, last = start[last_of_user], targets[last_of_user]
    lengths = last - first + 1
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    places = np.repeat(first - offsets[:-1], lengths) + np.arange(offsets[-1])
    return places, offsets


@dataclass(frozen=True)
class Windows:
    """Pieces of the sequences that fit the model, all arrays int64 ``[windows]``.

    Window ``w`` reads ``length[w]`` items from ``start[w]`` on; the item behind each is its target, but the first
    ``skip[w]`` positions only give context, since an earlier window trains them.
    """

    start: np.ndarray
    length: np.ndarray
    skip: np.ndarray

    @property
    def targets(self) -> int:
        """Number of trained positions; every target of every user exactly once."""
        return int((self.length - self.skip).sum())


def cut_windows(sequences: TrainingSequences, longest: int, overlap: float) -> Windows:
    """Cuts sequences into windows of at most ``longest`` inputs, each later one sharing ``overlap`` of its length.

    Args:
        sequences: training part of every user's history.
        longest: inputs a window may hold (``MAX_ITEM_LIST_LENGTH``).
        overlap: share of a window, ``[0, 1)``, that only repeats context of the window before.
    """
    step = max(1, longest - int(longest * overlap))
    inputs = np.maximum(sequences.lengths - 1, 0)
    # Counted from a sequence's end, so that the newest interactions have the fullest context.
    later = np.maximum(-(-(inputs - longest) // step), 0)
    count = np.where(inputs > 0, later + 1, 0)
    owner = np.repeat(np.arange(len(inputs)), count)
    number = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)
    end = inputs[owner] - (later[owner] - number) * step
    begin = np.maximum(end - longest, 0)
    skip = np.where(number > 0, end - step - begin, 0)
    return Windows(start=sequences.offsets[:-1][owner] + begin, length=end - begin, skip=skip)


class WholeSequenceLoader:
    """Batches of windows of similar length, a new arrangement every epoch, decided by seed, stage and epoch alone.

    A batch holds at most ``train_batch_size`` positions, padding included. It is an `Interaction` with the inputs
    ``item_id_list`` int64 ``[B, T]`` (0 pads on the right), ``item_length`` int64 ``[B]`` and `TARGETS`; for a model
    with ``reads_times`` also the times of the inputs, float32 ``[B, T]``, under the name that evaluation gives them;
    with ``future`` above 0 also `FUTURE`.

    Attributes:
        future: items that a position looks ahead, its target among them; 0 leaves `FUTURE` out.
    """

    def __init__(self, config: Any, dataset: OrderedDataset) -> None:
        self.dataset = self._dataset = dataset
        self.shuffle = bool(config["shuffle"])
        self.sequences = training_sequences(dataset)
        self.windows = cut_windows(self.sequences, config["MAX_ITEM_LIST_LENGTH"], config["window_overlap"])
        self._positions = int(config["train_batch_size"])
        self._item_list = config["ITEM_ID_FIELD"] + config["LIST_SUFFIX"]
        self._length = config["ITEM_LIST_LENGTH_FIELD"]
        self._seed = int(config["seed"])
        self._items = torch.from_numpy(self.sequences.items)
        self._time_list, self._times = config["TIME_FIELD"] + config["LIST_SUFFIX"], None
        if getattr(config.model_class, "reads_times", False):
            self._times = dataset.log[dataset.time_field][torch.from_numpy(_training_places(dataset)[0])]
        self._epoch: tuple[int, ...] = (0,)
        self.future = 0
        self._batches = self._arrange()

    @property
    def targets(self) -> int:
        """Trained positions an epoch."""
        return self.windows.targets

    def set_epoch(self, epoch: int, stage: int = 0) -> None:
        """Chooses the arrangement of an epoch; the same seed, stage and epoch always give the same batches."""
        self._epoch = (epoch, stage) if stage else (epoch,)
        self._batches = self._arrange()

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Interaction]:
        for rows in self._batches:
            yield self._collate(rows)

    def _arrange(self) -> list[np.ndarray]:
        """Sorts by length with a little noise, so that epochs differ, and cuts at the limit of positions."""
        generator = np.random.default_rng([self._seed, *self._epoch])
        length = self.windows.length.astype(np.float64)
        noise = generator.random(len(length)) * (0.1 * length + 1.0) if self.shuffle else 0.0
        order = np.argsort(-(length + noise), kind="stable")
        batches, at = [], 0
        while at < len(order):
            # Noise lets a window be up to a tenth longer than the first of its batch.
            longest = int(self.windows.length[order[at : at + self._positions]].max())
            rows = max(1, self._positions // longest)
            batches.append(order[at : at + rows])
            at += rows
        if self.shuffle:
            generator.shuffle(batches)
        return batches

    def _collate(self, rows: np.ndarray) -> Interaction:
        start = torch.from_numpy(self.windows.start[rows])
        length = torch.from_numpy(self.windows.length[rows])
        skip = torch.from_numpy(self.windows.skip[rows])
        offsets = torch.arange(int(length.max()))
        inside = offsets < length.unsqueeze(1)
        places = torch.where(inside, start.unsqueeze(1) + offsets, torch.zeros((), dtype=torch.int64))
        zero = torch.zeros((), dtype=torch.int64)
        inputs = torch.where(inside, self._items[places], zero)
        trained = inside & (offsets >= skip.unsqueeze(1))
        targets = torch.where(trained, self._items[places + trained], zero)
        batch = {self._item_list: inputs, self._length: length, TARGETS: targets}
        if self._times is not None:
            batch[self._time_list] = self._times[places] * inside
        if self.future > 0:
            batch[FUTURE] = self._look_ahead(start, int(length.max()) + self.future - 1)
        return Interaction(batch)

    def _look_ahead(self, start: Tensor, count: int) -> Tensor:
        """The ``count`` items behind the first of each window, within the training part; int64 ``[B, count]``."""
        offsets = torch.from_numpy(self.sequences.offsets)
        end = offsets[torch.searchsorted(offsets, start, right=True)]
        places = start.unsqueeze(1) + 1 + torch.arange(count)
        inside = places < end.unsqueeze(1)
        return self._items[places * inside] * inside
