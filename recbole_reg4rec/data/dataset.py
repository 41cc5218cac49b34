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
from recbole_reg4rec.data.reading import check_columns, check_vectors, read_atomic, read_exact_times, read_header
from recbole_reg4rec.errors import UserError

# Where in the log the target of a row stands; RecBole carries the column through its splits.
LOG_POSITION = "log_position"
# int64 [rows, most]: all that a row's user took before, however long ago, oldest first, 0 pads on the right. As wide as
# the rows asked for need or, where RecBole joins rows that it asked for one by one (sampled candidates), as all do.
SEEN = "seen_items"

# float64 holds every integer up to here; above it neighbouring nanosecond stamps fall together.
_EXACT_FLOAT_LIMIT = 2**53


@dataclass
class DataStatistics:
    """Counts of the data as trained and evaluated on; all are numbers of rows unless the name says otherwise.

    ``tied_interactions``: interactions with the same time as the one before them in the same user's history.
    ``tied_targets``: users whose last interaction is tied, so that the file's order decides what the test item is.
    ``filtered_interactions``: lines of the file that filters took away, or that lack a user or an item.
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
    filtered_interactions: int = 0
    train_targets: int = 0
    valid_targets: int = 0
    test_targets: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Plain dictionary for records."""
        return asdict(self)


class OrderedDataset(SequentialDataset):
    """One log of all interactions in exact order, with a row for every target (see the module's text)."""

    statistics: DataStatistics
    inter_feat: Any  # DataFrame until the build, Interaction from then on
    log: Interaction
    history_start: np.ndarray
    vector_problems: dict[str, UserError]  # by column of type float_seq: why it cannot serve as item vectors
    _exact_times: np.ndarray | None  # int64 by line of the file, where float64 is too coarse
    _filtered: int
    _rest_fields: np.ndarray

    def _load_data(self, token: str, dataset_path: str) -> None:
        if self.benchmark_filename_list is not None:
            raise UserError("setting benchmark_filename is not supported: give one .inter file, split by eval_args")
        required = {name: self.config[name] for name in ("USER_ID_FIELD", "ITEM_ID_FIELD", "TIME_FIELD")}
        for setting, column in required.items():
            if not column:
                raise UserError(f"setting {setting} is empty, but must name a column of the .inter file")
        self.vector_problems, self._exact_times = {}, None
        folder = Path(dataset_path)
        path = folder / f"{token}.inter"
        ensure_dataset(token, folder, show_progress=bool(self.config["show_progress"]))
        check_columns(path, read_header(path, self.config["field_separator"], self._encoding), required)
        try:
            super()._load_data(token, dataset_path)
        except ValueError as error:
            raise UserError(f"data set {token} in {folder} does not fit the settings: {error}") from error
        if self.inter_feat is not None and self.inter_feat.empty:
            raise UserError(f"file {path} holds no interactions; at least one line below the header is needed")
        for column in required.values():
            if self.inter_feat is None or column not in self.inter_feat:
                raise UserError(f"setting load_col leaves out column '{column}' of {path}; sequences need it, add it")
        missing = int(self.inter_feat[self.time_field].isna().sum())
        if missing:
            raise UserError(
                f"column '{self.time_field}' of {path} is empty in {missing} lines; every interaction needs a time"
            )

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
        path = Path(filepath)
        table = read_atomic(
            path,
            separator=self.config["field_separator"],
            seq_separator=self.config["seq_separator"],
            encoding=self._encoding,
            columns=load_col,
            skip=unload_col,
        )
        if table.frame.shape[1] == 0 or (source != FeatureSource.INTERACTION and table.frame.empty):
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
            if kind == FeatureType.FLOAT_SEQ:
                # Only here is a row as short as the file has it; whether vectors are wanted is known later.
                try:
                    check_vectors(table.frame[field], field, path)
                except UserError as error:
                    self.vector_problems[field] = error
        if source == FeatureSource.INTERACTION and self.time_field in table.frame:
            times = table.frame[self.time_field].abs().max()
            if times >= _EXACT_FLOAT_LIMIT:
                separator = self.config["field_separator"]
                self._exact_times = read_exact_times(path, self.time_field, separator, self._encoding)
        return table.frame

    def _remap_ID_all(self) -> None:
        """RecBole leaves out columns of additional files that are no alias, and cannot go on with them."""
        super()._remap_ID_all()
        for field, kind in self.field2type.items():
            if kind in (FeatureType.TOKEN, FeatureType.TOKEN_SEQ) and field not in self.field2id_token:
                self._remap(self._get_remap_list(np.array([field])))

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
        self._filtered = before - len(self.inter_feat)

    def _filter_nan_user_or_item(self) -> None:
        """RecBole takes the labels of lines for their places, which is right only while no line is missing yet."""
        self.inter_feat.dropna(subset=[self.uid_field, self.iid_field], inplace=True)
        for frame, field in ((self.user_feat, self.uid_field), (self.item_feat, self.iid_field)):
            if frame is not None:
                frame.dropna(subset=[field], inplace=True)

    def _remove_duplication(self) -> None:
        """RecBole sorts by time here, and not stably: times without ties leave it no choice."""
        times = self.inter_feat[self.time_field]
        self.inter_feat[self.time_field] = times.rank(method="first")
        super()._remove_duplication()
        self.inter_feat[self.time_field] = times

    def _reset_index(self) -> None:
        """The last moment at which the index is the line of the file: puts the interactions in their exact order.

        RecBole's own sorts are stable, so that they keep it.
        """
        frame, field = self.inter_feat, self.time_field
        if self._exact_times is not None and len(frame):
            # float64 cannot tell these apart; their ranks it can.
            ranks = np.unique(self._exact_times[frame.index], return_inverse=True)[1]
            frame[field] = ranks.astype(np.float64)
        frame.sort_index(inplace=True)
        frame.sort_values(by=field, kind="stable", inplace=True)
        for name in ("user_feat", "item_feat"):
            if name in self.feat_name_list and getattr(self, name).empty:
                self._forget(name)
        super()._reset_index()

    def _forget(self, feat_name: str) -> None:
        """Goes on as if the file of users or items, of which no line is left, were not there."""
        frame = getattr(self, feat_name)
        fields = [field for field in frame if field not in (self.uid_field, self.iid_field)]
        for field in fields:
            self._del_col(frame, field)
        self._rest_fields = np.setdiff1d(self._rest_fields, fields)
        self.feat_name_list.remove(feat_name)
        setattr(self, feat_name, None)

    def _preload_weight_matrix(self) -> None:
        try:
            super()._preload_weight_matrix()
        except ValueError as error:
            raise UserError(f"setting preload_weight does not fit the data: {error}") from error

    def _change_feat_format(self) -> None:
        self._count()
        self._times = torch.from_numpy(self.inter_feat[self.time_field].to_numpy(np.float64))
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
            filtered_interactions=self._filtered,
        )

    def data_augmentation(self) -> None:
        """A row for every interaction that has a history; the history itself stays in `log` until it is asked for."""
        self._aug_presets()
        coarse = self.inter_feat[self.time_field].dtype
        # Rows are sorted and split by time across users as well, by exact times therefore; see `build`.
        self.inter_feat[self.time_field] = self._times
        self.inter_feat.sort(by=self.uid_field)
        self.log = Interaction(dict(self.inter_feat.interaction))
        self.log[self.time_field] = self.log[self.time_field].to(coarse)
        users = self.log[self.uid_field].numpy()
        first = np.concatenate([[True], users[1:] != users[:-1]]) if len(users) else np.zeros(0, dtype=bool)
        start = np.maximum.accumulate(np.where(first, np.arange(len(users)), 0))
        self.history_start = start
        targets = np.flatnonzero(~first)
        rows = self.inter_feat[torch.from_numpy(targets)]
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
        """Rows with their histories: for every field ``f`` of the log ``f_list`` ``[rows, longest]``, oldest first."""
        rows = self.inter_feat[index]
        if LOG_POSITION in rows:
            rows = self._with_histories(rows)
        return self.join(rows) if join else rows

    def with_histories(self) -> OrderedDataset:
        """A copy whose `inter_feat` holds the histories of all rows at once, as RecBole's own class would."""
        return self.copy(self._with_histories(self.inter_feat))

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
        if self.config["repeat"]:
            lists[SEEN] = self._seen_lists(rows)
        rows = Interaction(dict(rows.interaction))
        rows.update(Interaction(lists))
        return rows

    def _seen_lists(self, rows: Interaction) -> torch.Tensor:
        row, items = self.seen_items(rows)
        count = torch.bincount(row, minlength=len(rows))
        place = torch.arange(len(row)) - torch.repeat_interleave(torch.cumsum(count, 0) - count, count)
        most = int(count.max())
        if any(mode != "full" for mode in self.config["eval_args"]["mode"].values()):
            places = self.inter_feat[LOG_POSITION].numpy()
            most = int((places - self.history_start[places]).max())
        return items.new_zeros(len(rows), most).index_put((row, place), items)

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
            UserError: nobody is left to train on or to evaluate, or ``eval_args`` is not one of RecBole's ways.
        """
        try:
            datasets = super().build()
        except (ValueError, NotImplementedError, AssertionError) as error:
            raise UserError(f"setting eval_args is {self.config['eval_args']}, which does not work: {error}") from error
        for part in datasets:
            part.inter_feat[self.time_field] = part.inter_feat[self.time_field].to(self.log[self.time_field].dtype)
        train, valid, test = (len(part) for part in datasets)
        for name, size in (("train on", train), ("test on", test)):
            if size == 0:
                raise UserError(
                    f"data set {self.dataset_name}: no user is left to {name} (targets: {train} training, {valid} "
                    f"validation, {test} test); leave-one-out needs users with 3 interactions or more, or set eval_args"
                )
        self.statistics.train_targets, self.statistics.valid_targets, self.statistics.test_targets = train, valid, test
        return datasets
