"""Codes: unique, cached by everything they depend on, fitted again when the cache is damaged."""

from __future__ import annotations

import dataclasses
import threading

import numpy as np
import pytest

from recbole_reg4rec.data.categories import ItemCategories
from recbole_reg4rec.data.features import ItemFeatures
from recbole_reg4rec.errors import UserError
from recbole_reg4rec.tokenizer import codes as module
from recbole_reg4rec.tokenizer.codes import tokenize_items
from recbole_reg4rec.tokenizer.collisions import count_collisions


def unit_rows(items: int, width: int) -> np.ndarray:
    rows = np.random.default_rng(0).normal(size=(items, width))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def make_features(items: int = 40, unknown: int = 0) -> ItemFeatures:
    matrix = np.zeros((items + unknown + 1, 10), dtype=np.float32)
    matrix[1 : items + 1] = unit_rows(items, 10)
    known = np.abs(matrix).sum(axis=1) > 0
    return ItemFeatures(matrix, known, {"text": 10}, {"items_without_features": unknown})


def make_categories(features: ItemFeatures) -> ItemCategories:
    members = np.arange(len(features.matrix)).reshape(-1, 1) % 3 + 1
    members[0] = 0
    return ItemCategories(members, ("[PAD]", "a", "b", "c"), "kind")


@pytest.fixture
def tokenize(tmp_path, small_settings):
    """``tokenize(features, settings=, categories=)`` with a cache in the test's folder; counts the fits."""
    fits = []

    def run(features=None, settings=None, categories=None, cache=tmp_path / "cache" / "deep"):
        features = make_features() if features is None else features
        categories = make_categories(features) if categories is None else categories
        return tokenize_items(features, categories, settings or small_settings(), cache)

    run.fits, run.cache = fits, tmp_path / "cache" / "deep"
    fit = module.fit_mpq

    def counted(*args):
        fits.append(args)
        return fit(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "fit_mpq", counted)
        yield run


def test_codes_and_report(tokenize):
    found = tokenize()
    assert found.codes.shape == (41, 3) and found.codes.dtype == np.int64 and not found.codes[0].any()
    assert len(np.unique(found.codes[1:], axis=0)) == 40 and found.codewords == 8
    report = found.report
    assert report["collisions"] == 0 and report["items_without_features"] == 0
    assert report["codebooks"] == 3 and report["codewords"] == 8 and report["features"] == {"text": 10}
    assert report["moved"] <= report["collisions_before"] <= 40
    assert len(report["utilisation"]) == len(report["perplexity"]) == len(report["category_purity"]) == 3


def test_cache_gives_the_same(tokenize):
    first = tokenize()
    second = tokenize()
    assert len(tokenize.fits) == 1 and (first.cached, second.cached) == (False, True)
    assert np.array_equal(first.codes, second.codes) and second.codes.dtype == np.int64
    assert dataclasses.replace(second, cached=False, codes=first.codes) == first
    assert len(list(tokenize.cache.iterdir())) == 1


def test_a_fit_is_repeatable_without_the_cache(tokenize, tmp_path):
    first, second = tokenize(), tokenize(cache=tmp_path / "other")
    assert not second.cached and np.array_equal(first.codes, second.codes) and first.report == second.report


def test_any_change_misses_the_cache(tokenize, small_settings):
    tokenize()
    features = make_features()
    features.matrix[7, 3] = np.nextafter(features.matrix[7, 3], np.float32(9))
    assert not tokenize(features).cached
    features = make_features()
    features.known[7] = False
    assert not tokenize(features).cached
    features = make_features()
    features.parts = {"collaborative": 10}
    assert not tokenize(features).cached
    features = make_features()
    categories = make_categories(features)
    categories.members[5] = categories.members[5] % 3 + 1
    assert not tokenize(features, categories=categories).cached
    base = small_settings()
    for field in dataclasses.fields(base):
        value = getattr(base, field.name)
        other = not value if isinstance(value, bool) else value - 1 if field.name == "codewords" else value + 1
        assert not tokenize(settings=dataclasses.replace(base, **{field.name: other})).cached, field.name
    assert tokenize().cached


def test_a_newer_algorithm_misses_the_cache(tokenize, monkeypatch):
    tokenize()
    monkeypatch.setattr(module, "ALGORITHM", module.ALGORITHM + 1)
    assert not tokenize().cached


@pytest.mark.parametrize("damage", ["cut", "empty", "flip", "text", "other shape", "pickle"])
def test_a_damaged_cache_is_fitted_again_and_mended(tokenize, damage):
    first = tokenize()
    (path,) = tokenize.cache.iterdir()
    data = path.read_bytes()
    if damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "flip":
        at = data.index(first.codes.tobytes()) + 9
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    elif damage == "text":
        path.write_bytes(b"not an archive")
    else:
        with np.load(path) as archive:
            meta = archive["meta"]
        codes = first.codes[:-1] if damage == "other shape" else np.array([None, {}], dtype=object)
        np.savez(path, codes=codes, meta=meta)
    second = tokenize()
    assert not second.cached and np.array_equal(first.codes, second.codes)
    assert tokenize().cached and len(list(tokenize.cache.iterdir())) == 1


def test_items_without_features_get_tuples_of_their_own(tokenize):
    alone, found = tokenize(), tokenize(make_features(unknown=5))
    assert np.array_equal(found.codes[:41], alone.codes)
    assert len(np.unique(found.codes[1:], axis=0)) == 45 and found.report["collisions"] == 0
    for figure in ("utilisation", "perplexity", "reconstruction_r2", "category_purity"):
        assert found.report[figure] == alone.report[figure]


@pytest.mark.parametrize("items", [12, 14, 15])
@pytest.mark.parametrize("large", [0, 1 << 15])
def test_items_without_features_take_nothing_from_the_others(tokenize, small_settings, items, large, monkeypatch):
    monkeypatch.setattr(module, "_LARGE", large)
    # 16 tuples in all, so that nearly every one is contended for.
    tight = small_settings(codebooks=2, codebook_size=4)
    alone, found = tokenize(make_features(items), tight), tokenize(make_features(items, unknown=6), tight)
    assert alone.report["moved"] > 0 and alone.report["collisions"] == 0
    assert np.array_equal(found.codes[: items + 1], alone.codes)
    assert len(np.unique(found.codes[1:], axis=0)) == 16


def test_too_few_tuples_are_counted(tokenize, small_settings):
    found = tokenize(settings=small_settings(codebooks=1, codebook_size=8))
    assert found.report["collisions"] == count_collisions(found.codes[1:]) >= 33
    assert len(np.unique(found.codes[1:], axis=0)) == 8


def test_more_codewords_than_items(tokenize, small_settings):
    with pytest.raises(UserError, match="codebook_size is 41, but only 40 items"):
        tokenize(settings=small_settings(codebook_size=41))
    assert not list(tokenize.cache.iterdir())


def test_auto_never_asks_for_more_codewords_than_items(tokenize, small_settings):
    found = tokenize(make_features(items=5), settings=small_settings(items=5, codebook_size="auto"))
    assert found.codewords == 5 and found.report["collisions"] == 0


def test_cache_folder_that_cannot_be_written(tokenize, tmp_path):
    (tmp_path / "file").write_text("in the way")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match="cache folder .*file.* cannot be written.*tokenizer_cache"):
            tokenize(cache=folder)
    assert not tokenize.fits


def test_nothing_half_written_is_left(tokenize, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.np, "savez", full)
    with pytest.raises(UserError, match="cannot be written .No space left"):
        tokenize()
    assert not list(tokenize.cache.iterdir())


@pytest.mark.parametrize("large", [0, 1 << 15])
def test_a_thousand_items_alike(tokenize, small_settings, large, monkeypatch):
    monkeypatch.setattr(module, "_LARGE", large)
    features = make_features(items=60)
    features.matrix = np.concatenate([features.matrix, np.repeat(features.matrix[1:2], 1000, axis=0)])
    features.known = np.concatenate([features.known, np.ones(1000, dtype=bool)])
    found = tokenize(features, settings=small_settings(codebook_size=16))
    assert len(np.unique(found.codes[1:], axis=0)) == 1060


@pytest.mark.parametrize("tokenizer", ["mpq", "opq"])
def test_large_catalogues_move_as_many_items(tokenize, small_settings, tokenizer, monkeypatch):
    """A large catalogue's collisions cost about what the distances of the items themselves would."""
    config = {"codebooks": 3, "codebook_size": 16, "seed": 1, "opq_rounds": 3}
    opq = module.tokenizer_settings({**config, "tokenizer": "opq"}, 300)
    settings = small_settings(codebooks=3, codebook_size=16) if tokenizer == "mpq" else opq
    features = make_features(items=300)
    exact = tokenize(features, settings=settings)
    monkeypatch.setattr(module, "_LARGE", 0)
    monkeypatch.setattr(module, "ALGORITHM", "another")
    found = tokenize(features, settings=settings)
    assert found.report["collisions"] == exact.report["collisions"] == 0
    assert found.report["moved"] == exact.report["moved"] > 0
    assert found.report["reconstruction_r2"] > exact.report["reconstruction_r2"] - 0.05


def test_of_several_that_want_the_same_codes_one_makes_them(tokenize, tmp_path):
    features, found, start = make_features(), [], threading.Barrier(3)

    def want():
        start.wait()
        found.append(tokenize(features))

    threads = [threading.Thread(target=want) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(codes.cached for codes in found) == [False, True, True]
    assert all(np.array_equal(codes.codes, found[0].codes) for codes in found)
    assert not list(tmp_path.rglob("*.lock"))
