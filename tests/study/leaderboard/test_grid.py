from __future__ import annotations

import pytest

from recbole_reg4rec.config import properties_dir
from recbole_reg4rec.errors import UserError
from recbole_reg4rec.study.leaderboard.grid import Asked, cell_keys, first_stage_key, load_variants, parse_seeds, plan

SMALL = {"use_gpu": "False"}


def asked(models="ItemMemory", datasets="ml-100k", seeds="1", settings=None, **more):
    return plan(Asked(models, datasets, seeds, settings={**SMALL, **(settings or {})}, **more))


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("3", [2020, 2021, 2022]), ("[7]", [7]), ("5,7", [5, 7]), ("[2, 1]", [2, 1]), ("7,", [7]), ("0,1", [0, 1])],
)
def test_seeds(text, seeds):
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "0", "-1", "many", "1.5", "1,2,1", "3,03", "1,-2", "99999", "[]", ","])
def test_seeds_that_make_no_sense(text):
    with pytest.raises(UserError, match="--seeds"):
        parse_seeds(text)


def test_cells_and_their_names():
    cells = asked("SASRecWhole,REG4Rec:paper", "ml-100k,ml-1m", "2", {"mask_history": "both", "epochs": "1"})
    assert len(cells) == len({cell.key for cell in cells}) == 16
    rows = {(cell.model, cell.variant, cell.dataset, cell.masked) for cell in cells}
    assert len(rows) == len({cell.row_key for cell in cells}) == 8
    assert [cell.seed for cell in cells[:5]] == [2020] * 4 + [2021], "every model once before the next seed"
    cell = next(cell for cell in cells if cell.variant == "paper" and cell.masked)
    settings = cell.job["settings"]
    assert (settings["item_path"], settings["memory"], settings["epochs"]) == (False, False, 1)
    assert settings["mask_history"] is True and settings["seed"] == cell.seed
    assert cell_keys(settings) == (cell.key, cell.row_key)
    assert cell.title == "REG4Rec:paper ml-100k seed 2020 masked"


def test_keys_hold_what_decides_a_result_and_nothing_else():
    (cell,) = asked("SASRecWhole")
    settings = dict(cell.job["settings"])

    def keys(**more):
        return cell_keys({**settings, **more})

    for free in ({"data_path": "elsewhere"}, {"eval_batch_size": 3}, {"show_progress": False}, {"device": "cuda:1"}):
        assert keys(**free) == (cell.key, cell.row_key), free
    for binding in ({"epochs": 7}, {"stopping_step": 1}, {"learning_rate": 0.5}, {"mask_history": True}):
        assert keys(**binding)[1] != cell.row_key, binding
    other = keys(seed=99)
    assert other[0] != cell.key and other[1] == cell.row_key


def test_how_long_stage_2_lasts_decides_only_where_there_is_one():
    plain, aligned = asked("REG4Rec:paper,REG4Rec:paper-aligned")
    for more in ({"align_epochs": 30}, {"align_stopping_step": 9}):
        assert cell_keys({**plain.job["settings"], **more}) == (plain.key, plain.row_key)
        assert cell_keys({**aligned.job["settings"], **more})[1] != aligned.row_key
        assert first_stage_key({**aligned.job["settings"], **more}) == plain.first_key


@pytest.mark.parametrize("name", ["item_epochs", "item_stopping_step"])
def test_when_the_item_path_ends_decides_only_beside_reasoning(name):
    for cell in asked("REG4Rec:paper,REG4Rec:all-but-reason,REG4Rec:control,REG4Rec:paper-aligned"):
        assert cell_keys({**cell.job["settings"], name: 7}) == (cell.key, cell.row_key), cell.title
    (whole,) = asked("REG4Rec")
    for paths in ({}, {"item_path": False, "control": True}):  # the control learns as the item path does
        settings = {**whole.job["settings"], **paths}
        assert cell_keys({**settings, name: 7})[1] != cell_keys(settings)[1]


@pytest.mark.parametrize(
    "other", [{"encoder_layers": 5}, {"reason_identity": True}, {"later_steps": 0.7}, {"later_share": 0.7}]
)
def test_how_reasoning_is_built_and_trained_decides_nothing_where_it_is_off(other):
    for cell in asked("REG4Rec:all-but-reason,REG4Rec:control"):
        assert cell_keys({**cell.job["settings"], **other}) == (cell.key, cell.row_key), cell.title
    for cell in asked("REG4Rec,REG4Rec:paper"):
        assert cell_keys({**cell.job["settings"], **other})[1] != cell.row_key, cell.title


def test_a_model_without_training_leaves_epochs_out():
    memory, sasrec = asked("ItemMemory,SASRecWhole", settings={"epochs": "2"})
    assert (memory.job["settings"]["epochs"], sasrec.job["settings"]["epochs"]) == (0, 2)


@pytest.mark.parametrize(
    ("models", "more", "said"),
    [
        ("SASRecWohle", {}, "SASRecWhole"),
        ("ItemMemory,", {"datasets": ","}, "--datasets names nothing"),
        ("ItemMemory,ItemMemory", {}, "--models names ItemMemory twice"),
        ("ItemMemory", {"datasets": "ml-1m,ml-1m"}, "--datasets names ml-1m twice"),
        ("REG4Rec:papr", {}, "did you mean REG4Rec:paper"),
        ("ItemMemory:all", {}, "no variant `all`"),
        ("REG4Rec:papr-*", {}, "no variant of REG4Rec fits `papr-\\*`; there are paper,"),
        ("ItemMemory:*", {}, "no variant of ItemMemory fits .*; there are none"),
        ("SASRecWhole", {"settings": {"codebooks": "3"}}, "SASRecWhole on ml-100k: unknown setting `codebooks`"),
        ("SASRecWhole", {"settings": {"epochs": "many"}}, "epochs"),
        ("SASRecWhole", {"settings": {"seed": "3"}}, "--seeds"),
        ("SASRecWhole", {"settings": {"mask_history": "maybe"}}, "--mask_history"),
        ("REG4Rec:paper", {"settings": {"memory": "True"}}, "variant REG4Rec:paper says memory=False"),
        ("SASRecWhole", {"settings": {"eval_args": "{'mode': 'uni100'}"}}, "sampled candidates"),
    ],
)
def test_mistakes(models, more, said):
    with pytest.raises(UserError, match=said):
        asked(models, **more)


def test_a_star_stands_for_all_variants_that_fit():
    models = [f"{cell.model}:{cell.variant}" for cell in asked("ItemMemory,REG4Rec:paper-*")]
    assert models == ["ItemMemory:default", "REG4Rec:paper-aligned", "REG4Rec:paper-corp"]
    ablations = {cell.variant: cell.job["settings"] for cell in asked("REG4Rec:paper-aligned,REG4Rec:ablation-*")}
    base = ablations.pop("paper-aligned")
    for variant, settings in ablations.items():
        changed = {name for name in base if settings[name] != base[name]}
        assert variant.startswith("ablation-") and 1 <= len(changed) <= 3, (variant, changed)


def test_two_names_for_the_same_settings(tmp_path):
    (tmp_path / "mine.yaml").write_text("ItemMemory:\n  wide: {memory_window: 20}\n  far: {memory_window: 10}\n")
    variants = str(tmp_path / "mine.yaml")
    assert len(asked("ItemMemory,ItemMemory:far", variants=variants)) == 2
    with pytest.raises(UserError, match="same settings"):
        asked("ItemMemory,ItemMemory:wide", variants=variants)


@pytest.mark.parametrize(
    "text", ["ItemMemory: 3", "ItemMemory: {far: 3}", "ItemMemory: {default: {}}", "ItemMemory: {'a b': {}}"]
)
def test_variants_of_another_form(tmp_path, text):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(UserError, match="mine.yaml"):
        load_variants(str(tmp_path / "mine.yaml"))


def test_variants_that_set_what_the_command_sets(tmp_path):
    (tmp_path / "mine.yaml").write_text("ItemMemory: {far: {seed: 3}}")
    with pytest.raises(UserError, match="seed"):
        load_variants(str(tmp_path / "mine.yaml"))


def test_every_variant_of_the_package_can_be_run():
    assert (properties_dir() / "leaderboard.yaml").is_file()
    names = [f"{model}:{variant}" for model, variants in load_variants().items() for variant in variants]
    assert names and len(asked(",".join(names))) == len(names)
