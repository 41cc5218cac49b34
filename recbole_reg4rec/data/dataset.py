"""RecBole's sequential data set, read exactly, ordered exactly, and expanded into histories only when a batch asks.

What differs from RecBole's own class, and why:

* files are read by `data.reading` (exact errors, ids such as ``NA`` kept);
* interactions are put in time order before RecBole turns the times into float32, ties keep the order of the file;
* ids of users and items are assigned in the order of their names, not of their first appearance, so that no held-out
  interaction decides which row of an embedding table an item gets;
* a row of the data set holds its place in the log instead of a copy of the history: memory grows with interactions,
  not with interactions times history length.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from recbole.data.dataset import SequentialDataset
from recbole.data.interaction import Interaction
from recbole.utils.enum_type import FeatureSource, FeatureType

from recbole_reg4rec.data.download import ensure_dataset
from recbole_reg4rec.data.reading import check_columns, read_atomic, read_exact_times, read_header
from recbole_reg4rec.errors import UserError

# Where in the log the target of a row stands; RecBole carries the column through its splits.
LOG_POSITION = "log_position"

# float64 holds every integer up to here; above it neighbouring nanosecond stamps fall together.
_EXACT_FLOAT_LIMIT = 2**53


@dataclass
class DataStatistics:
    """Counts of the data as trained and evaluated on; all are numbers of rows unless the name says otherwise.

    ``tied_interactions``: interactions with the same time as the one before them in the same user's history.
    ``tied_targets``: users whose last interaction is tied, so that the file's order decides what the test item is.
    """

    users: int
    items: int
    interactions: int
    density: float
    tied_interactions: int
    tied_targets: int
    repeated_interactions: int
    users_without_target: int
    items_without_interactions: int
    train_targets: int = 0
    valid_targets: int = 0
    test_targets: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Plain dictionary for records."""
        return asdict(self)


class OrderedDataset(SequentialDataset):
    """One log of all interactions in exact order, with a row for every target (see the module's text)."""

    statistics: DataStatistics
    log: Interaction
    history_start: np.ndarray

    def _load_data(self, token: str, dataset_path: str) -> None:
        folder = Path(dataset_path)
        ensure_dataset(token, folder, show_progress=bool(self.config["show_progress"]))
        if self.benchmark_filename_list is None:
            path = folder / f"{token}.inter"
            required = {
                setting: self.config[setting]
                for setting in ("USER_ID_FIELD", "ITEM_ID_FIELD", "TIME_FIELD")
                if self.config[setting]
            }
            if "TIME_FIELD" not in required:
                raise UserError("setting TIME_FIELD is empty, but sequences need a column to order interactions by")
            check_columns(path, read_header(path, self.config["field_separator"], self._encoding), required)
        super()._load_data(token, dataset_path)
        if self.inter_feat is None or len(self.inter_feat) == 0:
            raise UserError(f"file {folder / token}.inter holds no interactions; at least one line below the header is needed")

    @property
    def _encoding(self) -> str:
        return str(self.config["encoding"] or "utf-8-sig")

    def _get_load_and_unload_col(self, source: Any) -> tuple[set[str] | None, set[str] | None]:
        if self.config["load_col"] != "auto":
            return super()._get_load_and_unload_col(source)
        if source == FeatureSource.INTERACTION:
            fields = ("USER_ID_FIELD", "ITEM_ID_FIELD", "RATING_FIELD", "TIME_FIELD")
            return {self.config[field] for field in fields if self.config[field]}, None
        # User columns are read only when load_col names them: no model of this package uses them.
        return (set(), None) if source == FeatureSource.USER else (None, None)

    def _load_feat(self, filepath: str, source: Any) -> pd.DataFrame | None:
        load_col, unload_col = self._get_load_and_unload_col(source)
        if load_col == set():
            return None
        separator = self.config["field_separator"]
        table = read_atomic(
            Path(filepath),
            separator=separator,
            seq_separator=self.config["seq_separator"],
            encoding=self._encoding,
            columns=load_col,
            skip=unload_col,
        )
        if table.frame.shape[1] == 0:
            return None
        limits = self.config["seq_len"] or {}
        for field, kind in table.types.items():
            length = 1
            if kind in (FeatureType.TOKEN_SEQ, FeatureType.FLOAT_SEQ):
                length = max(table.sequence_lengths[field], 1)
                if field in limits:
                    length = min(length, int(limits[field]))
                    table.frame[field] = [row[:length] for row in table.frame[field]]
            self.set_field_property(field, kind, source, length)
            if kind in (FeatureType.FLOAT, FeatureType.FLOAT_SEQ):
                self.field2bucketnum[field] = 2
        if source == FeatureSource.INTERACTION and self.time_field in table.frame:
            self._keep_exact(table.frame, filepath, separator)
        return table.frame

    def _keep_exact(self, frame: pd.DataFrame, filepath: str, separator: str) -> None:
        """Replaces times that float64 cannot tell apart by their rank."""
        times = frame[self.time_field].to_numpy()
        if times.size == 0 or np.nanmax(np.abs(times)) < _EXACT_FLOAT_LIMIT:
            return
        exact = read_exact_times(Path(filepath), self.time_field, separator, self._encoding)
        if exact is not None:
            frame[self.time_field] = np.unique(exact, return_inverse=True)[1].astype(np.float64)

    def _remap(self, remap_list: list[tuple[pd.DataFrame, str, FeatureType]]) -> None:
        identity = {self.uid_field, self.iid_field}
        if not remap_list or not identity & {field for _, field, _ in remap_list}:
            super()._remap(remap_list)
            return
        tokens, split_points = self._concat_remaped_tokens(remap_list)
        numbers, names = pd.factorize(tokens)
        names = np.asarray(names, dtype=str)
        order = np.argsort(names, kind="stable")
        rank = np.empty(len(names), dtype=np.int64)
        rank[order] = np.arange(1, len(names) + 1)
        ids = np.where(numbers >= 0, rank[numbers], 0)
        id_token = np.concatenate([np.array(["[PAD]"]), names[order]]).astype(object)
        token_id = {name: number for number, name in enumerate(id_token)}
        for (frame, field, kind), part in zip(remap_list, np.split(ids, split_points), strict=True):
            self.field2id_token.setdefault(field, id_token)
            self.field2token_id.setdefault(field, token_id)
            if kind == FeatureType.TOKEN:
                frame[field] = part
            else:
                ends = np.cumsum([len(row) for row in frame[field]])[:-1]
                frame[field] = np.split(part, ends)

    def _data_filtering(self) -> None:
        before = len(self.inter_feat)
        try:
            super()._data_filtering()
        except ValueError as error:
            if "empty" not in str(error):
                raise
            raise UserError(
                f"data set {self.dataset_name}: none of its {before} interactions is left after filtering; "
                "loosen user_inter_num_interval, item_inter_num_interval or val_interval"
            ) from error
        self._put_in_order()

    def _put_in_order(self) -> None:
        """Stable order by time; RecBole's own sorts are stable and see float32 later, which cannot undo it."""
        if self.time_field in self.inter_feat:
            missing = self.inter_feat[self.time_field].isna()
            if missing.any():
                raise UserError(
                    f"column {self.time_field} of {self.dataset_name}.inter is empty in {int(missing.sum())} lines; "
                    "every interaction needs a time"
                )
            self.inter_feat.sort_values(by=self.time_field, kind="stable", inplace=True, ignore_index=True)

    def _change_feat_format(self) -> None:
        self._count()
        super()._change_feat_format()

    def _count(self) -> None:
        """Statistics on the exact times, while they are still there."""
        frame = self.inter_feat[[self.uid_field, self.iid_field, self.time_field]]
        frame = frame.sort_values(by=self.uid_field, kind="stable", ignore_index=True)
        user, time = frame[self.uid_field].to_numpy(), frame[self.time_field].to_numpy()
        same_user = user[1:] == user[:-1]
        tied = np.concatenate([[False], same_user & (time[1:] == time[:-1])])
        last = np.concatenate([~same_user, [True]])
        lengths = np.bincount(user, minlength=self.user_num)[1:]
        pairs = len(frame.drop_duplicates(subset=[self.uid_field, self.iid_field]))
        users, items = self.user_num - 1, self.item_num - 1
        self.statistics = DataStatistics(
            users=users,
            items=items,
            interactions=len(frame),
            density=round(len(frame) / max(users * items, 1), 8),
            tied_interactions=int(tied.sum()),
            tied_targets=int((tied & last).sum()),
            repeated_interactions=len(frame) - pairs,
            users_without_target=int((lengths < 2).sum()),
            items_without_interactions=items - int(frame[self.iid_field].nunique()),
        )

    def data_augmentation(self) -> None:
        """A row for every interaction that has a history; the history itself stays in `log` until it is asked for."""
        self._aug_presets()
        self._check_field("uid_field", "iid_field", "time_field")
        self.inter_feat.sort(by=self.uid_field)
        self.log = self.inter_feat
        users = self.log[self.uid_field].numpy()
        first = np.concatenate([[True], users[1:] != users[:-1]]) if len(users) else np.zeros(0, dtype=bool)
        start = np.maximum.accumulate(np.where(first, np.arange(len(users)), 0))
        self.history_start = start
        targets = np.flatnonzero(~first)
        rows = self.log[torch.from_numpy(targets)]
        length = np.minimum(targets - start[targets], self.max_item_list_len)
        rows.update(
            Interaction(
                {
                    self.item_list_length_field: torch.from_numpy(length.astype(np.int64)),
                    LOG_POSITION: torch.from_numpy(targets.astype(np.int64)),
                }
            )
        )
        self.inter_feat = rows

    def __getitem__(self, index: Any, join: bool = True) -> Interaction:
        """Rows with their histories: for every field ``f`` of the log a ``f_list`` of ``[rows, longest]``, oldest first."""
        rows = self.inter_feat[index]
        if LOG_POSITION in rows:
            rows = self._with_histories(rows)
        return self.join(rows) if join else rows

    def _with_histories(self, rows: Interaction) -> Interaction:
        length = rows[self.item_list_length_field]
        offsets = torch.arange(self.max_item_list_len)
        places = rows[LOG_POSITION].unsqueeze(1) - length.unsqueeze(1) + offsets
        inside = offsets < length.unsqueeze(1)
        places = torch.where(inside, places, torch.zeros_like(places))
        lists = {}
        for field in self.log.columns:
            if field == self.uid_field:
                continue
            values = self.log[field][places]
            keep = inside.reshape(inside.shape + (1,) * (values.dim() - 2))
            lists[getattr(self, f"{field}_list_field")] = values * keep.to(values.dtype)
        rows = Interaction(dict(rows.interaction))
        rows.update(Interaction(lists))
        return rows

    def seen_items(self, rows: Interaction) -> tuple[torch.Tensor, torch.Tensor]:
        """The whole history before each target, however long: ``(row number [S], item id [S])``, both int64."""
        position = rows[LOG_POSITION].cpu()
        start = torch.from_numpy(self.history_start)[position]
        count = position - start
        row = torch.repeat_interleave(torch.arange(len(position)), count)
        within = torch.arange(len(row)) - torch.repeat_interleave(torch.cumsum(count, 0) - count, count)
        return row, self.log[self.iid_field][start[row] + within]

    def build(self) -> list[OrderedDataset]:
        """Training, validation and test rows by RecBole's ``eval_args``.

        Raises:
            UserError: nobody is left to train on or to evaluate.
        """
        if self.config["benchmark_filename"] is not None:
            raise UserError("setting benchmark_filename is not supported: give one .inter file and split it by eval_args")
        datasets = super().build()
        train, valid, test = (len(part) for part in datasets)
        for name, size in (("train on", train), ("test on", test)):
            if size == 0:
                raise UserError(
                    f"data set {self.dataset_name}: no user is left to {name} (targets: {train} training, {valid} "
                    f"validation, {test} test); leave-one-out needs users with at least 3 interactions, or set eval_args"
                )
        self.statistics.train_targets, self.statistics.valid_targets, self.statistics.test_targets = train, valid, test
        return datasets
