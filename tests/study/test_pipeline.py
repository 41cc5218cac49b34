import logging
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from recbole_reg4rec.config.config import _AUTO_EVAL_BATCH
from recbole_reg4rec.data.features import build_item_features
from recbole_reg4rec.data.sequences import WholeSequenceLoader
from recbole_reg4rec.errors import UserError
from recbole_reg4rec.study import pipeline
from recbole_reg4rec.study.pipeline import (
    build_model,
    configure,
    data_fingerprint,
    prepare_data,
    start_logging,
    tokenize_data,
)
from recbole_reg4rec.trainer.trainer import SequenceTrainer


@pytest.mark.parametrize("model", ["REG4Rec", "SASRecWhole", "SASRec"])
def test_heads_that_do_not_divide_the_width_are_told_at_once(toy, model):
    with pytest.raises(UserError, match="hidden_size.*15.*n_heads.*2"):
        configure(model, "toy", config_dict=toy.settings(model, hidden_size=15))


def test_heads_that_do_not_divide_what_auto_may_come_to(toy):
    with pytest.raises(UserError, match="hidden_size is auto .64 or 128., which n_heads .3."):
        configure("REG4Rec", "toy", config_dict=toy.settings(hidden_size="auto", n_heads=3))
    assert configure("REG4Rec", "toy", config_dict=toy.settings(hidden_size="auto", n_heads=4))["hidden_size"] == "auto"


def test_loaders_fit_the_model(toy):
    whole = prepare_data(configure("REG4Rec", "toy", config_dict=toy.settings()))
    stock = prepare_data(configure("SASRec", "toy", config_dict=toy.settings("SASRec")))
    assert isinstance(whole.train, WholeSequenceLoader) and not isinstance(stock.train, WholeSequenceLoader)
    assert whole.train.targets == len(stock.train._dataset), "the same targets either way"
    assert len(whole.valid._dataset) == len(whole.test._dataset) == 60


def test_fewer_users_a_batch_where_their_scores_are_many_unless_a_number_is_given(toy, monkeypatch):
    def users(items_of_scores, **settings):
        monkeypatch.setattr(pipeline, "_SCORES", items_of_scores)
        data = prepare_data(configure("REG4Rec", "toy", config_dict=toy.settings(**settings)))
        return len(next(iter(data.test))[0])

    items = prepare_data(configure("REG4Rec", "toy", config_dict=toy.settings())).dataset.item_num
    assert users(42 * items, eval_batch_size="auto") == 42
    assert users(items - 1, eval_batch_size="auto") == 32
    assert users(1000 * items, eval_batch_size="auto") == 60, "all there are, fewer than 96"
    assert users(7 * items, eval_batch_size=9) == 9
    assert users(1000 * items, eval_batch_size=9) == 9


def test_threads_that_score_side_by_side_have_their_users_each(toy, monkeypatch):
    monkeypatch.setattr(pipeline, "most_lanes", lambda device: {"cpu": 2}[device.type])
    monkeypatch.setitem(_AUTO_EVAL_BATCH, "cpu", 20)

    def users(model, batch):
        data = prepare_data(configure(model, "toy", config_dict=toy.settings(model, eval_batch_size=batch)))
        return len(next(iter(data.test))[0])

    assert (users("REG4Rec", "auto"), users("TIGER", "auto")) == (40, 20), "TIGER has no such threads"
    assert users("REG4Rec", 20) == 20, "what is said holds for all together"


def test_a_part_without_rows_is_none(toy):
    arguments = {"split": {"LS": "test_only"}, "order": "TO", "mode": "full"}
    data = prepare_data(configure("REG4Rec", "toy", config_dict=toy.settings(eval_args=arguments)))
    assert data.valid is None and len(data.test._dataset) == 60


def test_reading_says_nothing_about_pandas(toy):
    config = configure("REG4Rec", "toy", config_dict=toy.settings())
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        prepare_data(config)


def test_a_pickled_loader_in_the_way_is_refused_not_read(toy):
    config = configure("REG4Rec", "toy", config_dict=toy.settings())
    toy.saved.mkdir(exist_ok=True)
    (toy.saved / "toy-for-REG4Rec-dataloader.pth").write_bytes(b"pickle")
    with pytest.raises(UserError, match="dataloader.pth"):
        prepare_data(config)


def test_weights_follow_from_the_seed_alone(toy):
    def build(seed):
        config = configure("REG4Rec", "toy", config_dict=toy.settings(seed=seed))
        data = prepare_data(config)
        tokens = tokenize_data(config, data)
        torch.rand(int(torch.randint(1, 9, ())))
        np.random.rand(3)
        return torch.cat([p.detach().flatten() for p in build_model(config, data, tokens).parameters()])

    first, again, other = build(1), build(1), build(2)
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_the_fingerprint_names_order_names_and_codes(toy):
    def fingerprint(rows, tokenized=False, **settings):
        toy.write(rows)
        config = configure("REG4Rec", "toy", config_dict=toy.settings(**settings))
        data = prepare_data(config)
        return data_fingerprint(data, tokenize_data(config, data) if tokenized else None)

    rows = toy.noisy_rows()
    base = fingerprint(rows)
    assert fingerprint(rows) == fingerprint(rows[::-1]) == base, "lines of different times may stand in any order"
    assert fingerprint([(f"x{u}", i, t) for u, i, t in rows]) != base
    assert fingerprint(rows[:-1]) != base
    (u, i, t), (_, j, s) = rows[:2]
    assert fingerprint([(u, j, t), (u, i, s), *rows[2:]]) != base
    coded = fingerprint(rows, tokenized=True)
    assert coded != base and fingerprint(rows, tokenized=True, mpq_epochs=0, codebooks=2) != coded


@pytest.mark.parametrize("threads", [1, 2])
def test_features_are_built_by_one_thread_however_many_there_are(toy_data, threads):
    limits = []

    def watch(*args):
        limits.extend(library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas")
        return build_item_features(*args)

    with threadpool_limits(limits=threads), pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "build_item_features", watch)
        assert toy_data().tokenized.codes.codes.shape == (13, 2)
    assert limits and set(limits) == {1}


def test_several_processes_may_begin_at_once(toy, tmp_path, monkeypatch):
    """RecBole looks for a folder, then makes it; what another process makes in between must not be a mistake."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(root := logging.getLogger(), "handlers", list(root.handlers))
    config = configure("REG4Rec", "toy", config_dict=toy.settings(checkpoint_dir="saved/by/all"))
    monkeypatch.setattr("recbole.utils.logger.ensure_dir", already_there)
    start_logging(config)
    monkeypatch.setattr("recbole.trainer.trainer.ensure_dir", already_there)
    data = prepare_data(config)
    model = build_model(config, data, tokenize_data(config, data))
    SequenceTrainer(config, model, {}, tmp_path / "best.pth", tmp_path / "last.pth")


def already_there(folder):
    assert Path(folder).is_dir(), f"{folder} is left for RecBole to make"
