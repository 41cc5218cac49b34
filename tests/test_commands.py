"""Real command lines on a small data set: what users type, what they see, what is left behind."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from recbole_reg4rec import cli

ROOT = Path(__file__).resolve().parent.parent
HEADER = "user_id:token\titem_id:token\ttimestamp:float"
# fmt: off
SMALL = [
    "--learning_rate=0.001", "--learning_rate_schedule=constant", "--warmup_steps=0",
    "--use_gpu=False", "--show_progress=False", "--state=WARNING", "--topk=[1,5,10]",
    "--MAX_ITEM_LIST_LENGTH=8", "--hidden_size=16", "--inner_size=32", "--codebooks=3", "--codebook_size=8",
    "--mpq_hidden=16", "--mpq_dim=8", "--mpq_epochs=5", "--beam_width=20",
]
# fmt: on


def interactions(users=60, items=40):
    draw = random.Random(0)
    for user in range(users):
        item = draw.randrange(items)
        for moment in range(draw.randint(5, 12)):
            item = (item + 1) % items if draw.random() < 0.7 else draw.randrange(items)
            yield f"u{user}\ti{item}\t{moment}"


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes ``data/toy/toy.inter`` and ``toy.item`` in the working folder, whole or as lines given."""
    monkeypatch.chdir(tmp_path)

    def make(lines=None, header=HEADER, items=None):
        folder = tmp_path / "data" / "toy"
        folder.mkdir(parents=True, exist_ok=True)
        rows = list(interactions()) if lines is None else lines
        (folder / "toy.inter").write_text("\n".join([header, *rows, ""]))
        if items is None:
            items = ["item_id:token\ttitle:token_seq\tclass:token"]
            items += [f"i{i}\tname{i % 7} word{i}\tclass{i % 4}" for i in range(40)]
        (folder / "toy.item").write_text("\n".join([*items, ""]))
        return folder

    return make


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def arguments(*more):
    given = {argument.split("=")[0] for argument in more}
    small = [argument for argument in SMALL if argument.split("=")[0] not in given]
    named = [argument for argument in ("--dataset=toy", "--data_path=data") if argument.split("=")[0] not in given]
    return [*named, *small, *more]


def command(*more):
    return [sys.executable, str(ROOT / "run_recbole_reg4rec.py"), *arguments(*more)]


def environment(**more):
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": "", **more}


def refused(capsys, *more, plain=False):
    """Runs a command that must fail; gives back its one sentence."""
    capsys.readouterr()
    code = cli.main(list(more) if plain else arguments(*more))
    printed = capsys.readouterr()
    assert code == 2, printed
    assert printed.err.startswith("error: ") and printed.err.count("\n") == 1, printed.err
    assert printed.out == ""
    return printed.err


def only_record(folder="results"):
    (path,) = Path(folder, "runs").glob("*.json")
    return json.loads(path.read_text())


# ------------------------------------------------------------------------------------------------- the good case


def test_the_script_from_files_to_the_record(write, tmp_path):
    write()
    shown = [argument for argument in arguments("--epochs=2") if "state" not in argument and "progress" not in argument]
    script = str(ROOT / "run_recbole_reg4rec.py")
    done = subprocess.run([sys.executable, script, *shown], capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and "Warning" not in done.stderr
    assert "100%" in done.stderr and "test result" in done.stderr, "progress bar and RecBole's lines"
    assert "@10" in done.stdout and "record: results/runs/REG4Rec-toy-seed2020" in done.stdout
    record = only_record()
    assert record["settings"]["epochs"] == 2 and len(record["epochs"]) == 2
    left = {path.name for path in tmp_path.iterdir()}
    assert left <= {"data", "results", "saved", "log", "log_tensorboard"}
    assert not list(tmp_path.rglob("*.part"))


def test_a_run_killed_within_an_epoch_and_resumed_equals_an_uninterrupted_one(write):
    write()
    settings = ["--epochs=5", "--eval_step=1", "--train_batch_size=32", "--stopping_step=9"]
    killed = subprocess.Popen(
        command(*settings, "--checkpoint_dir=killed"),
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 120
        while True:
            assert killed.poll() is None and time.monotonic() < deadline, "ended before it could be killed"
            found = list(Path("killed").glob("*/best.last.pth"))
            if found and torch.load(found[0], weights_only=True)["epoch"] >= 1:
                break
            time.sleep(0.01)
        time.sleep(0.03)
        killed.send_signal(signal.SIGKILL)
    finally:
        killed.kill()
        assert killed.wait() == -signal.SIGKILL
    epoch = torch.load(found[0], weights_only=True)["epoch"]
    assert 1 <= epoch < 4 and not list(Path("results").glob("runs/*.json"))
    assert cli.main(arguments(*settings, "--checkpoint_dir=killed", "--resume", "--results_dir=resumed")) == 0
    assert cli.main(arguments(*settings, "--checkpoint_dir=whole", "--results_dir=whole")) == 0
    resumed, whole = only_record("resumed"), only_record("whole")
    for key in ("valid", "test"):
        assert resumed[key] == whole[key]
    for name in ("epoch", "loss", "valid", "valid_score"):
        assert [entry[name] for entry in resumed["epochs"]] == [entry[name] for entry in whole["epochs"]]


def test_tokenize_alone(write, capsys):
    write()
    assert cli.main(["tokenize", *arguments()]) == 0
    assert "reconstruction R2" in capsys.readouterr().out
    assert len(Path("results/tokenizer/toy.csv").read_text().splitlines()) == 41


# ------------------------------------------------------------------------------- mistakes, each one sentence and code 2


def test_no_traceback_in_a_process(write):
    """What `refused` finds in this process, once as users see it, warnings and log lines included."""
    write(["u1\ti1\tnoon"])
    done = subprocess.run(command(), capture_output=True, text=True, env=environment())
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert "noon" in done.stderr and "timestamp" in done.stderr


def test_pandas_3_is_refused(write):
    write()
    info = Path("site/pandas-3.0.1.dist-info")
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: pandas\nVersion: 3.0.1\n")
    done = subprocess.run(command(), capture_output=True, text=True, env=environment(PYTHONPATH="site"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: pandas 3.0.1 ") and done.stderr.count("\n") == 1


def test_unknown_data_set(write, capsys):
    write()
    error = refused(capsys, "--dataset=no-such-set")
    assert "no-such-set" in error and "no-such-set.inter" in error


def test_missing_file(write, capsys):
    folder = write()
    (folder / "toy.inter").unlink()
    assert "toy.inter" in refused(capsys)


@pytest.mark.parametrize(("kept", "missing"), [((0, 1), "timestamp"), ((0, 2), "item_id"), ((1, 2), "user_id")])
def test_missing_column(write, capsys, kept, missing):
    def cut(line):
        cells = line.split("\t")
        return "\t".join(cells[i] for i in kept)

    write([cut(line) for line in interactions()], cut(HEADER))
    error = refused(capsys)
    assert f"'{missing}'" in error and "toy.inter" in error


@pytest.mark.parametrize(
    ("header", "line", "said"),
    [
        (HEADER, "u1\ti1\tnoon", "noon"),
        (HEADER, "u1\ti1\tnan", "nan"),
        (HEADER, "u1\ti1\t", "timestamp"),
        (HEADER, "u1\ti1", "2 fields"),
        (HEADER.replace("timestamp:float", "timestamp:token"), "u1\ti1\t3", "timestamp"),
        (HEADER.replace("user_id:token", "user_id:float"), "1\ti1\t3", "user_id"),
        (HEADER.replace(":float", ":number"), "u1\ti1\t3", "number"),
        (HEADER.replace(":float", ""), "u1\ti1\t3", "timestamp"),
    ],
)
def test_wrong_type_in_a_column(write, capsys, header, line, said):
    lines = list(interactions())
    if "user_id:float" in header:
        lines = [text.removeprefix("u") for text in lines]
    write([*lines, line], header)
    error = refused(capsys)
    assert said in error and "toy.inter" in error


@pytest.mark.parametrize("text", ["", "\n", HEADER, HEADER + "\n"])
def test_empty_data_set(write, capsys, text):
    folder = write()
    (folder / "toy.inter").write_text(text)
    assert "toy.inter" in refused(capsys)


@pytest.mark.parametrize(
    "setting",
    [
        "--user_inter_num_interval=[1000,inf)",
        "--item_inter_num_interval=[1000,inf)",
        "--val_interval={'timestamp': '[99,inf)'}",
    ],
)
def test_nobody_left_after_filtering(write, capsys, setting):
    write()
    error = refused(capsys, setting)
    assert "toy" in error and "filter" in error


def test_nobody_with_enough_interactions(write, capsys):
    write([f"u{user}\ti{user % 9}\t1" for user in range(30)])
    assert "3 interactions" in refused(capsys)


def vectors(bad):
    rows = [f"i{i}\t{i % 3}.5 {i % 5} {i % 7}" for i in range(40)]
    rows[7] = f"i7\t{bad}"
    return ["item_id:token\tvector:float_seq", *rows]


@pytest.mark.parametrize("bad", ["1 2", "1 2 3 4", "1 nan 2", "1 inf 2", "1 word 2"])
def test_bad_item_vectors(write, capsys, bad):
    write(items=vectors(bad))
    error = refused(capsys)
    assert "vector" in error and "toy.item" in error
    assert not Path("saved/tokenizer").exists()


def test_good_item_vectors(write):
    write(items=vectors("1 2 3"))
    assert cli.main(["tokenize", *arguments()]) == 0


def test_more_codewords_than_items(write, capsys):
    write()
    error = refused(capsys, "--codebook_size=64")
    assert "codebook_size" in error and "64" in error and "40" in error


def test_width_that_heads_do_not_divide(write, capsys):
    write()
    error = refused(capsys, "--hidden_size=15", "--n_heads=2")
    assert "hidden_size" in error and "n_heads" in error


@pytest.mark.parametrize(
    ("mistake", "nearest"),
    [
        ("--epoch=3", "epochs"),
        ("--learning_rat=0.1", "learning_rate"),
        ("--codebook=3", "codebooks"),
        ("--model=SASRek", "SASRec"),
        ("--model=reg4rec", "REG4Rec"),
    ],
)
def test_unknown_names_get_the_nearest(write, capsys, mistake, nearest):
    write()
    error = refused(capsys, mistake)
    assert nearest in error and mistake.split("=")[mistake.startswith("--model")].strip("-") in error
    assert not Path("results").exists(), "nothing is left behind"


@pytest.mark.parametrize(
    ("mistake", "named"),
    [
        ("--epochs=many", "epochs"),
        ("--epochs=-1", "epochs"),
        ("--hidden_dropout_prob=1.5", "hidden_dropout_prob"),
        ("--training_order=backwards", "training_order"),
        ("--beam_width=0", "beam_width"),
        ("--valid_metric=NDCG@7", "valid_metric"),
        ("--config_files=missing.yaml", "missing.yaml"),
        ("--item_text_fields=[nothing]", "item_text_fields"),
    ],
)
def test_values_that_are_not_allowed(write, capsys, mistake, named):
    write()
    assert named in refused(capsys, mistake)


def test_checkpoints(write, capsys):
    write()
    assert cli.main(arguments("--epochs=1", "--checkpoint=mine.pth")) == 0
    own = ("--epochs=1", "--checkpoint=mine.pth", "--resume")
    error = refused(capsys, *own, "--learning_rate=0.5")
    assert "learning_rate=0.001" in error and "learning_rate=0.5" in error and "mine.last.pth" in error
    assert "SASRecWhole" in refused(capsys, *small_of_sasrec(), *own, plain=True)
    Path("mine.last.pth").write_bytes(b"not a checkpoint at all")
    assert "mine.last.pth" in refused(capsys, *own)
    Path("folder").mkdir()
    assert "folder" in refused(capsys, "--epochs=1", "--checkpoint=folder")
    Path("file").write_text("")
    assert "cannot be written" in refused(capsys, "--epochs=1", "--checkpoint=file/mine.pth")
    assert "cannot be written" in refused(capsys, "--epochs=1", "--checkpoint_dir=file")
    assert len(list(Path("results/runs").glob("*.json"))) == 1


def small_of_sasrec():
    unknown = ("--inner_size", "--codebook", "--mpq", "--beam")
    return [*(argument for argument in arguments() if not argument.startswith(unknown)), "--model=SASRecWhole"]


@pytest.mark.parametrize("command", ["run", "tokenize"])
def test_results_dir_that_is_a_file(write, capsys, command):
    write()
    Path("taken").write_text("mine")
    error = refused(capsys, command, *arguments("--results_dir=taken"), plain=True)
    assert "taken" in error and "--results_dir" in error and Path("taken").read_text() == "mine"
