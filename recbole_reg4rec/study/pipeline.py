"""The steps that a run, a tokenizer run and later studies share: configuration to data to codes to model."""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from recbole.data.dataloader import FullSortEvalDataLoader
from recbole.data.utils import data_preparation
from recbole.utils import FeatureType, init_logger, init_seed
from threadpoolctl import threadpool_limits

from recbole_reg4rec.alignment.stage import AlignmentStage
from recbole_reg4rec.config import Reg4RecConfig, given_settings
from recbole_reg4rec.data.categories import ItemCategories, build_item_categories
from recbole_reg4rec.data.columns import guess_columns
from recbole_reg4rec.data.dataset import OrderedDataset
from recbole_reg4rec.data.evaluation_loader import EvaluationLoader
from recbole_reg4rec.data.features import build_item_features, item_columns
from recbole_reg4rec.data.sequences import WholeSequenceLoader, training_sequences
from recbole_reg4rec.decoding.corp import corp_rule
from recbole_reg4rec.errors import UserError
from recbole_reg4rec.model.lanes import most_lanes
from recbole_reg4rec.model.size import AUTO_WIDTHS
from recbole_reg4rec.model.tokens import ItemTokens
from recbole_reg4rec.study.registry import READS_ALL_HISTORIES, find_model
from recbole_reg4rec.tokenizer.codes import ItemCodes, tokenize_items, tokenizer_settings
from recbole_reg4rec.trainer.checkpoint import settings_hash
from recbole_reg4rec.trainer.stages import Stage, SupervisedStage

# Scores of a batch, 32 MB, that `eval_batch_size: auto` leaves room for on a CPU: beyond, the C library asks the system
# anew for every table of them. But so many users at least, since products with all items are as slow for few.
_SCORES, _FEWEST = 8_000_000, 32


@dataclass
class PreparedData:
    """Loaders of the three parts; ``train`` holds whole sequences where the model wants them."""

    dataset: OrderedDataset
    train: Any
    valid: Any
    test: Any


@dataclass
class Tokenized:
    """Codes of the items with the categories and the time that all of it took."""

    codes: ItemCodes
    categories: ItemCategories
    seconds: float

    def as_model_input(self) -> ItemTokens:
        """What a token-based model is built from."""
        return ItemTokens(
            codes=self.codes.codes,
            codewords=self.codes.codewords,
            members=self.categories.members,
            categories=self.categories.number,
            category_names=self.categories.names,
            fingerprint=self.codes.fingerprint,
        )


def configure(
    model: str | type,
    dataset: str,
    config_file_list: list[str] | None = None,
    config_dict: dict[str, Any] | None = None,
    command_line: dict[str, str] | None = None,
) -> Any:
    """The checked configuration of a run.

    Columns of user, item and time that the data do not have by the names set are guessed (`data.columns`);
    ``guessed_columns`` of what is returned says which.

    Raises:
        UserError: unknown model or setting, or a value that is not allowed.
    """
    model_class = find_model(model) if isinstance(model, str) else model
    config = Reg4RecConfig(model_class, dataset, config_file_list, config_dict, command_line)
    config.guessed_columns = guess_columns(config, given_settings(config))
    for setting, column in config.guessed_columns.items():
        config[setting] = column
    _check_heads(config)
    corp_rule(config)
    return config


def _check_heads(config: Any) -> None:
    """Attention splits the width into heads of equal size; torch would say so in its own words, and late."""
    width, heads = config["hidden_size"], config["n_heads"]
    if width is None or heads is None:
        return
    widths = AUTO_WIDTHS if width == "auto" else (int(width),)
    if any(number % int(heads) for number in widths):
        meant = f" ({' or '.join(map(str, widths))})" if width == "auto" else ""
        raise UserError(
            f"setting hidden_size is {width}{meant}, which n_heads ({heads}) does not divide; "
            "make hidden_size a multiple of n_heads"
        )


def run_name(config: Any, settings: dict[str, Any]) -> str:
    """What the record and the checkpoint of a run are called."""
    return f"{config['model']}-{config['dataset']}-seed{config['seed']}-{settings_hash(settings)}"


def best_checkpoint(config: Any, settings: dict[str, Any], checkpoint: str | Path | None = None) -> Path:
    """Where the best model of a run lies: the file named, or the one that the settings lead to."""
    folder = Path(config["checkpoint_dir"]) / run_name(config, settings)
    return Path(checkpoint) if checkpoint else folder / "best.pth"


def start_logging(config: Any) -> None:
    """RecBole's log file and terminal output.

    Raises:
        UserError: the log folder cannot be written.
    """
    try:
        # RecBole first looks whether a folder is there and then makes it, where another process may come between.
        Path("log", config["model"]).mkdir(parents=True, exist_ok=True)
        init_logger(config)
    except OSError as error:
        raise UserError(f"the log folder {Path('log').absolute()} cannot be written ({error.strerror})") from error
    for setting, column in config.guessed_columns.items():
        getLogger().info(f"The data have no column of the name that {setting} has by default; taken for it: {column}.")


def prepare_data(config: Any) -> PreparedData:
    """Reads, orders and splits the data, and makes the loaders.

    Raises:
        UserError: see `data.reading`, `data.download` and `OrderedDataset`; or a pickled loader lies in the way.
    """
    saved = Path(config["checkpoint_dir"]) / f"{config['dataset']}-for-{config['model']}-dataloader.pth"
    if saved.exists():
        raise UserError(f"file {saved} is a pickled data loader, which is never read; delete it or set checkpoint_dir")
    init_seed(config["seed"], config["reproducibility"])
    with warnings.catch_warnings():
        # RecBole says what pandas 3 would do differently, which `versions` refuses.
        warnings.simplefilter("ignore", FutureWarning)
        dataset = OrderedDataset(config)
        if config.auto_eval_batch:
            fitting = max(_FEWEST, _SCORES // dataset.item_num)
            lanes = most_lanes(config["device"]) if getattr(config.model_class, "in_lanes", False) else 1
            config["eval_batch_size"] = min(config["eval_batch_size"] * lanes, fitting)
        train, valid, test = data_preparation(config, dataset)
    if getattr(config.model_class, "whole_sequence", False):
        train = WholeSequenceLoader(config, train._dataset)
    valid, test = (_by_length(config, loader) for loader in (valid, test))
    return PreparedData(dataset, train, valid if len(valid._dataset) else None, test)


def _by_length(config: Any, loader: Any) -> Any:
    """Full rankings with histories of like length together; sampled candidates as RecBole has them."""
    if not isinstance(loader, FullSortEvalDataLoader) or not len(loader._dataset):
        return loader
    return EvaluationLoader(config, loader._dataset, loader._sampler)


def data_fingerprint(data: PreparedData, tokens: Tokenized | None) -> str:
    """Sixteen hexadecimal digits that name the log of interactions, in order and by names, and the items' codes."""
    dataset = data.train._dataset
    digest = hashlib.sha256()
    for field in (dataset.uid_field, dataset.iid_field):
        digest.update("\n".join(map(str, dataset.field2id_token[field])).encode())
        digest.update(np.ascontiguousarray(dataset.log[field].numpy()).tobytes())
    if tokens is not None:
        digest.update(np.ascontiguousarray(tokens.codes.codes).tobytes())
    return digest.hexdigest()[:16]


def tokenize_data(config: Any, data: PreparedData) -> Tokenized:
    """Features, categories and codes from the training part; see `tokenizer.codes` for the cache."""
    begin = perf_counter()
    train = data.train._dataset
    # One thread: how many there are changes the last bits of a sum, and with them what the cache is asked for.
    with threadpool_limits(limits=1):
        features = build_item_features(config, train, training_sequences(train))
        categories = build_item_categories(config, train, features)
    cache = Path(config["tokenizer_cache"] or Path(config["checkpoint_dir"]) / "tokenizer")
    settings = tokenizer_settings(config, int(features.known.sum()))
    codes = tokenize_items(features, categories, settings, cache, bool(config["show_progress"]), config["device"])
    if codes.report["collisions"]:
        getLogger().warning(
            "%d items still share their tuple of tokens: %d codebooks of %d codewords are too few for the catalogue; "
            "raise codebooks or codebook_size",
            codes.report["collisions"],
            codes.report["codebooks"],
            codes.report["codewords"],
        )
    return Tokenized(codes, categories, perf_counter() - begin)


def build_model(config: Any, data: PreparedData, tokens: Tokenized | None) -> Any:
    """The model, initialised from the seed alone."""
    init_seed(config["seed"] + config["local_rank"], config["reproducibility"])
    extra = (tokens.as_model_input(),) if tokens is not None else ()
    dataset = data.train._dataset
    _check_item_columns(config, dataset)
    if config["model"] in READS_ALL_HISTORIES:
        dataset = dataset.with_histories()
    return config.model_class(config, dataset, *extra).to(config["device"])


def _check_item_columns(config: Any, dataset: OrderedDataset) -> None:
    """Columns that RecBole's models of item features name must be there; RecBole would fail on the bare name."""
    columns = item_columns(dataset)
    tokens = [name for name, kind in columns.items() if kind in (FeatureType.TOKEN, FeatureType.TOKEN_SEQ)]
    # Of columns of numbers RecBole reads those alone, and passes over others without a word.
    numbers = [name for name in columns if name in config["numerical_features"] and name not in tokens]
    for setting, one, fitting in (("selected_features", False, tokens + numbers), ("item_attribute", True, tokens)):
        value = config[setting]
        if value is None:
            continue
        names = [value] if one else value
        if not isinstance(names, list) or not names or not set(names) <= set(fitting):
            raise UserError(
                f"setting {setting} is {value}, but must be {'one' if one else 'a list'} of the item columns of "
                f"{dataset.dataset_name} that {config['model']} can read: {fitting or 'none'} (of tokens"
                f"{'' if one else ', and of numbers where numerical_features names them'})"
            )


def build_stages(config: Any, model: Any, data: PreparedData) -> list[Stage]:
    """The stages of training that the settings name; a model without such a setting has its own loss alone.

    Raises:
        UserError: stages that do not follow one another, or a setting of stage 2 that cannot work.
    """
    names, start = config["stages"] or ["supervised"], config["align_from"]
    if names not in (["supervised"], ["supervised", "alignment"]):
        raise UserError(f"setting stages is {names}, but it must be [supervised] or [supervised, alignment]")
    stages: list[Stage] = [SupervisedStage(config, model)]
    if "alignment" in names:
        stages.append(AlignmentStage(config, model, data.train))
    elif start:
        raise UserError(
            f"setting align_from names {start}, but stages is [supervised], so nothing starts from it; "
            "set stages to [supervised, alignment]"
        )
    return stages
