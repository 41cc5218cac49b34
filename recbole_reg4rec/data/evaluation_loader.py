"""Loading for full-ranking evaluation: histories of like length together (our choice)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from recbole.data.dataloader import FullSortEvalDataLoader

# Of the order of batches; the same for every model and seed.
_SEED = 0


class EvaluationLoader(FullSortEvalDataLoader):
    """RecBole's loader of full rankings, a batch of which has histories of about the same length.

    Most are short and few long, so that a model which reads no further than the longest of a batch has little to read
    in most of them. Batches come in a drawn order: what is left to do can be told from what is done.

    Args:
        config: RecBole configuration.
        dataset: the part to be evaluated, a row a target.
        sampler: RecBole's sampler of that part.
    """

    def __init__(self, config: Any, dataset: Any, sampler: Any) -> None:
        super().__init__(config, dataset, sampler)
        lengths = dataset.inter_feat[config["ITEM_LIST_LENGTH_FIELD"]].numpy()
        batches = np.array_split(np.argsort(lengths, kind="stable"), range(self.step, len(lengths), self.step))
        # Only the last one of an iteration may be smaller than the others.
        small = batches.pop() if len(batches[-1]) < self.step else batches[0][:0]
        drawn = np.random.default_rng(_SEED).permutation(len(batches))
        self._order = np.concatenate([*(batches[number] for number in drawn), small])

    def collate_fn(self, index: Sequence[int]) -> Any:
        """The batch at these places of the loader's own order; what it consists of is RecBole's affair."""
        return super().collate_fn(self._order[np.asarray(index)])

    def as_in_data(self) -> Iterator[Any]:
        """The batches of RecBole's loader: rows in the order of the part."""
        for begin in range(0, self.sample_size, self.step):
            yield super().collate_fn(np.arange(begin, min(begin + self.step, self.sample_size)))
