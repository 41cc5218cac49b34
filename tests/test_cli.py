import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from recbole_reg4rec import __version__, cli
from recbole_reg4rec.errors import UserError

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def calls(monkeypatch):
    """What the functions behind the commands were called with; nothing heavy runs."""
    found = []

    def module(name, **functions):
        made = types.ModuleType(name)
        vars(made).update(functions)
        monkeypatch.setitem(sys.modules, name, made)

    module("recbole_reg4rec.versions", check_versions=lambda: found.append("versions"))
    module("recbole_reg4rec.study.quick_start", run=lambda **given: found.append(given))
    module("recbole_reg4rec.study.tokenize", tokenize=lambda **given: found.append(given))
    module("recbole_reg4rec.study.explain_report", explain=lambda **given: found.append(given))
    module("recbole_reg4rec.study.tuning.command", tune=lambda **given: found.append(given))
    return found


def test_run_with_defaults(calls):
    assert cli.main(["--dataset=ml-100k"]) == 0
    expected = {
        "model": "REG4Rec",
        "dataset": "ml-100k",
        "config_file_list": None,
        "command_line": {},
        "resume": False,
        "checkpoint": None,
        "results_dir": "results",
    }
    assert calls == ["versions", expected]


@pytest.mark.parametrize("code", [0, 1, 130])
def test_how_a_command_ended_is_the_exit_code(calls, monkeypatch, code):
    made = types.ModuleType("leaderboard")
    made.leaderboard = lambda **given: code
    monkeypatch.setitem(sys.modules, "recbole_reg4rec.study.leaderboard.command", made)
    assert cli.main(["leaderboard", "--models=ItemMemory", "--datasets=d"]) == code


def test_run_with_everything(calls):
    arguments = "run --dataset d --model=SASRec --config_files=a.yaml,b.yaml --resume --checkpoint c.pt"
    arguments += " --results_dir=r --data_path p --epochs=3 --learning-rate=1e-3 --use_amp --title=a=b"
    assert cli.main(arguments.split()) == 0
    assert calls[1] == {
        "model": "SASRec",
        "dataset": "d",
        "config_file_list": ["a.yaml", "b.yaml"],
        "command_line": {
            "epochs": "3",
            "learning_rate": "1e-3",
            "use_amp": "True",
            "title": "a=b",
            "data_path": "p",
        },
        "resume": True,
        "checkpoint": "c.pt",
        "results_dir": "r",
    }


def test_tokenize(calls):
    assert cli.main(["tokenize", "--dataset=d", "--n_codebooks=4"]) == 0
    expected = {
        "dataset": "d",
        "config_file_list": None,
        "command_line": {"n_codebooks": "4"},
        "results_dir": "results",
    }
    assert calls[1] == expected


def test_explain_takes_arguments_of_its_own(calls):
    assert cli.main(["explain", "--dataset=d", "--users", "u1,u2", "--top=3", "--checkpoint=~/c.pt", "--corp"]) == 0
    assert calls[1] == {
        "dataset": "d",
        "config_file_list": None,
        "command_line": {"corp": "True"},
        "checkpoint": os.path.expanduser("~/c.pt"),
        "users": "u1,u2",
        "top": "3",
    }
    assert cli.main(["explain", "--dataset=d", "--json="]) == 2
    assert cli.main(["explain", "--dataset=d", "--resume"]) == 2
    # Of another command these are settings, and refused as unknown ones.
    assert cli.parse(["--dataset=d", "--users=a"]).settings == {"users": "a"}


def test_arguments_of_one_command(calls):
    arguments = "tune --dataset=d --trials 5 --study=M --values=[2,4] --output=o --epochs=3 --name=n"
    assert cli.main(arguments.split()) == 0
    assert calls[1] == {
        "model": "REG4Rec",
        "dataset": "d",
        "config_file_list": None,
        "command_line": {"epochs": "3"},
        "results_dir": "results",
        "trials": "5",
        "study": "M",
        "values": "[2,4]",
        "output": "o",
        "name": "n",
    }
    assert cli.main(["--dataset=d", "--trials=5"]) == 0
    assert calls[3]["command_line"] == {"trials": "5"}, "no argument of another command: a setting, refused later"


@pytest.mark.parametrize(
    ("text", "files"),
    [("a.yaml,b.yaml", ["a.yaml", "b.yaml"]), ("a.yaml b.yaml", ["a.yaml", "b.yaml"]), ("a.yaml,", ["a.yaml"])],
)
def test_config_files(calls, text, files):
    assert cli.main(["--dataset=d", f"--config_files={text}"]) == 0
    assert calls[1]["config_file_list"] == files


def test_one_config_file_with_a_space_in_its_path(calls, tmp_path):
    path = tmp_path / "my file.yaml"
    path.write_text("")
    assert cli.main(["--dataset=d", f"--config_files={path}"]) == 0
    assert calls[1]["config_file_list"] == [str(path)]


@pytest.mark.parametrize(
    ("arguments", "resume"),
    [("--resume", True), ("--resume=true", True), ("--resume=False", False), ("--resume true", True)],
)
def test_resume(calls, arguments, resume):
    assert cli.main(["--dataset=d", *arguments.split()]) == 0
    assert calls[1]["resume"] is resume


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("", "--dataset"),
        ("--model=SASRec", "--dataset"),
        ("--dataset", "--dataset has no value"),
        ("--dataset= --epochs=3", "--dataset has no value"),
        ("--dataset --epochs=3", "--dataset has no value"),
        ("--dataset=d stray", "`stray`"),
        ("--dataset=d --epochs 3", "`3`"),
        ("--dataset=d -e=3", "`-e=3`"),
        ("--dataset=d --=3", "`--=3`"),
        ("--dataset=d --epochs=3 --epochs=4", "--epochs is given twice"),
        ("--dataset=d --dataset=e", "--dataset is given twice"),
        ("--dataset=d --resume=perhaps", "--resume"),
        ("trian --dataset=d", "no command `trian`"),
        ("tokenize --dataset=d --resume", "takes no --resume"),
        ("tokenize --dataset=d --model=SASRec", "takes no --model"),
        ("tune --dataset=d --resume", "takes no --resume"),
        ("tune --dataset=d --trials=", "--trials has no value"),
        ("tune --dataset=d --trials=3 --trials=4", "--trials is given twice"),
    ],
)
def test_mistakes_are_one_sentence_and_code_2(calls, capsys, arguments, said):
    assert cli.main(arguments.split()) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and said in printed.err
    assert printed.err.startswith("error: ") and printed.err.count("\n") == 1
    assert calls == []


def test_the_same_value_twice_is_no_mistake(calls):
    assert cli.main(["--dataset=d", "--epochs=3", "--epochs=3"]) == 0
    assert calls[1]["command_line"] == {"epochs": "3"}


def test_errors_of_the_work(calls, monkeypatch, capsys):
    quick_start = sys.modules["recbole_reg4rec.study.quick_start"]

    def raising(error):
        def run(**_):
            raise error

        monkeypatch.setattr(quick_start, "run", run)
        return cli.main(["--dataset=d"])

    assert raising(UserError("no such thing")) == 2
    assert capsys.readouterr().err == "error: no such thing\n"
    assert raising(KeyboardInterrupt()) == 130
    assert "--resume" in capsys.readouterr().err
    with pytest.raises(ZeroDivisionError):  # our own mistakes keep their traceback
        raising(ZeroDivisionError())


def test_interrupted_tokenize_does_not_speak_of_resume(calls, monkeypatch, capsys):
    def interrupt(**_):
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["recbole_reg4rec.study.tokenize"], "tokenize", interrupt)
    assert cli.main(["tokenize", "--dataset=d"]) == 130
    assert "--resume" not in capsys.readouterr().err


def test_versions_are_checked_before_the_work(calls, monkeypatch, capsys):
    def refuse():
        raise UserError("pandas 3")

    monkeypatch.setattr(sys.modules["recbole_reg4rec.versions"], "check_versions", refuse)
    assert cli.main(["--dataset=d"]) == 2
    assert calls == []


def test_main_does_not_read_sys_argv(calls, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["pytest", "--epochs=9", "stray"])
    assert cli.main(["--dataset=d"]) == 0
    assert calls[1]["command_line"] == {}


def test_console_script_reads_sys_argv(calls, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["reg4rec", "--dataset=d", "--epochs=9"])
    with pytest.raises(SystemExit) as ended:
        cli.main_and_exit()
    assert ended.value.code == 0
    assert calls[1]["command_line"] == {"epochs": "9"}


def process(*command, **options):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "90"}
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, cwd=ROOT, env=environment, check=False, **options
    )


@pytest.mark.parametrize("start", [["run_recbole_reg4rec.py"], ["-m", "recbole_reg4rec"]])
def test_help(start):
    done = process(*start, "--help")
    assert done.returncode == 0 and done.stderr == ""
    for part in ("usage:", "--dataset=ml-100k", "--resume", "--checkpoint=", "tokenize", "recbole.io"):
        assert part in done.stdout


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ([], "--codebooks="),
        (["--model=RPG"], "--heads_a_batch="),
        (["--model", "HSTU"], "--negatives="),
        (["--model=SASRec"], "settings of SASRec: none in this package"),
    ],
)
def test_help_lists_the_settings_of_the_model_that_is_named(named, expected, capsys):
    assert cli.main([*named, "--help"]) == 0
    shown = capsys.readouterr().out
    assert expected in shown and "settings of every model" in shown
    assert ("--reasoning_steps=" in shown) == (not named)


def test_help_and_version_need_no_torch():
    code = "import sys; from recbole_reg4rec.cli import main; main([sys.argv[1]]); print('torch' in sys.modules)"
    assert process("-c", code, "--help").stdout.strip().endswith("False")
    done = process("-c", code, "--version")
    assert done.stdout.split() == ["recbole_reg4rec", __version__, "False"]


def test_mistake_in_a_process_has_no_traceback():
    done = process("-m", "recbole_reg4rec", "--epochs=3")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and "Traceback" not in done.stderr


@pytest.mark.skipif(os.name != "posix", reason="a pipe that closes early is another matter elsewhere")
def test_a_reader_that_goes_away_is_no_error():
    command = f"{sys.executable} -m recbole_reg4rec --help | true"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=ROOT, env=environment, check=True)
    assert done.stderr == ""


def test_unknown_setting_through_the_real_config(calls, monkeypatch, capsys):
    from recbole.model.sequential_recommender import SASRec

    from recbole_reg4rec.config import Reg4RecConfig

    def run(dataset, command_line, **_):
        Reg4RecConfig(SASRec, dataset, command_line=command_line)

    monkeypatch.setattr(sys.modules["recbole_reg4rec.study.quick_start"], "run", run)
    assert cli.main(["--dataset=ml-100k", "--epoch=3"]) == 2
    assert "unknown setting `epoch` (on the command line); did you mean `epochs`?" in capsys.readouterr().err
