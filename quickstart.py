#!/usr/bin/env python3
"""From a fresh clone to a result, with nothing but Python 3.10 to 3.13:

    python3 quickstart.py                     install, then run the main job: --dataset=ml-100k
    python3 quickstart.py --dataset=ml-1m ... install, then `python run_recbole_reg4rec.py` with these arguments
    python3 quickstart.py test [pytest's ...] install, then the tests
    python3 quickstart.py install             install alone

The environment is made in .venv beside this file, once: later calls find it and start at once. It takes the pinned
versions of requirements/lock.txt. Two environment variables change that:

    REG4REC_VENV=FOLDER   where the environment is made instead
    TORCH_INDEX_URL=URL   where torch is taken from, e.g. https://download.pytorch.org/whl/cpu for a small build
                          without CUDA; it counts when the environment is made
"""

# Written so that Python 3.6 to 3.9 can still read it and say that they are too old.

import hashlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
LOCK = ROOT / "requirements" / "lock.txt"
DEV = ROOT / "requirements" / "dev.txt"
LOWEST, HIGHEST = (3, 10), (3, 13)
DEFAULT_ARGUMENTS = ["--dataset=ml-100k"]


class SetupError(Exception):
    """Something that the user can mend: the message says what and how."""


def main(arguments: "list[str]") -> int:
    if arguments in (["-h"], ["--help"]):
        print(__doc__)
        print("The settings of a run: .venv/bin/python run_recbole_reg4rec.py --help")
        return 0
    try:
        check_python(sys.version_info[:2])
        check_venv_module()
        testing = arguments[:1] == ["test"]
        python = prepare(venv_folder(), with_dev=testing)
    except SetupError as error:
        print(f"quickstart: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("quickstart: interrupted; the same command goes on with what is missing", file=sys.stderr)
        return 130
    if arguments == ["install"]:
        print(f"quickstart: ready, {python}")
        return 0
    if testing:
        os.chdir(str(ROOT))
        return become([str(python), "-m", "pytest", *arguments[1:]])
    return become([str(python), str(ROOT / "run_recbole_reg4rec.py"), *(arguments or DEFAULT_ARGUMENTS)])


def check_python(version: "tuple[int, int]") -> None:
    if not LOWEST <= version <= HIGHEST:
        raise SetupError(
            f"Python 3.10 to 3.13 is needed, this is Python {version[0]}.{version[1]} ({sys.executable}): "
            "start me with another one, for example `python3.11 quickstart.py`"
        )


def check_venv_module() -> None:
    """Debian and Ubuntu ship Python without the parts that make environments."""
    if any(importlib.util.find_spec(name) is None for name in ("venv", "ensurepip")):
        name = f"python{sys.version_info[0]}.{sys.version_info[1]}-venv"
        raise SetupError(
            f"this Python ({sys.executable}) cannot make environments, its venv or ensurepip module is missing: "
            f"install it (Debian, Ubuntu: sudo apt-get install {name}) and run the same command again"
        )


def venv_folder() -> Path:
    return Path(os.environ.get("REG4REC_VENV") or ROOT / ".venv").expanduser().absolute()


def venv_python(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def prepare(folder: Path, with_dev: bool) -> Path:
    """Make the environment and install what is missing in it; its Python. Cheap where all is in place."""
    python = venv_python(folder)
    jobs = [("lock", [LOCK, ROOT / "setup.py", ROOT / "pyproject.toml"], install_run)]
    if with_dev:
        jobs.append(("dev", [LOCK, DEV], install_dev))
    for name, files, install in jobs:
        stamp = folder / f"reg4rec-{name}.stamp"
        wanted = fingerprint(files)
        if python.exists() and stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
            continue
        # gone before anything changes, written after all has: an install that was interrupted is done again
        if stamp.exists():
            stamp.unlink()
        make_venv(folder)
        install(python)
        partial = stamp.with_suffix(".partial")
        partial.write_text(wanted, encoding="utf-8")
        os.replace(str(partial), str(stamp))
    return python


def fingerprint(files: "list[Path]") -> str:
    """SHA-256 over the files' contents and this folder, to which the environment's package points."""
    digest = hashlib.sha256(str(ROOT).encode())
    for path in files:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def make_venv(folder: Path) -> None:
    """Make the environment, or mend one that was left half-made; never touch a folder that is something else."""
    if folder.exists() and not (folder.is_dir() and ((folder / "pyvenv.cfg").is_file() or not any(folder.iterdir()))):
        raise SetupError(
            f"{folder} exists and is not a Python environment: name another folder in REG4REC_VENV, or move this one"
        )
    if has_pip(folder):
        return
    say(f"making the environment {folder}")
    made = subprocess.run([sys.executable, "-m", "venv", str(folder)])
    if made.returncode or not has_pip(folder):
        raise SetupError(
            f"the environment {folder} could not be made, the lines above say why: check that the disk has room and "
            "the folder can be written, delete it if it is there, and run the same command again"
        )


def has_pip(folder: Path) -> bool:
    """Whether the environment's Python is one of ours and its pip runs."""
    python = venv_python(folder)
    if not python.exists():
        return False
    code = f"import sys, pip._internal.commands.install; sys.exit(not {LOWEST} <= sys.version_info[:2] <= {HIGHEST})"
    return subprocess.run([str(python), "-c", code], stderr=subprocess.DEVNULL).returncode == 0


def install_run(python: Path) -> None:
    # torch first and with its dependencies: on CUDA they are many, differ by platform and are pinned by torch itself
    index = os.environ.get("TORCH_INDEX_URL")
    torch = locked("torch")
    say(f"installing {torch}" + (f" from {index}" if index else ""))
    pip(python, torch, *(["--index-url", index] if index else []))
    say("installing the pinned packages of requirements/lock.txt")
    pip(python, "--quiet", "--no-deps", "-r", str(LOCK))
    say("installing this package")
    pip(python, "--quiet", "--no-deps", "--no-build-isolation", "-e", str(ROOT))


def install_dev(python: Path) -> None:
    say("installing the test tools of requirements/dev.txt")
    pip(python, "--quiet", "--no-deps", "-r", str(DEV))


def locked(name: str) -> str:
    """The lock's line for one package, such as `torch==2.13.0`."""
    for line in LOCK.read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{name}=="):
            return line.strip()
    raise SetupError(f"{LOCK} has no line for {name}: get the file again, for example with `git checkout {LOCK}`")


def pip(python: Path, *arguments: str) -> None:
    command = [str(python), "-m", "pip", "install", "--disable-pip-version-check", *arguments]
    code = subprocess.run(command).returncode
    if code:
        raise SetupError(
            f"pip failed with exit code {code}, its lines above say why (most often no network or a full disk): mend "
            "that and run the same command again. The step alone is: " + " ".join(command)
        )


def become(command: "list[str]") -> int:
    """Run the command in place of this process, so that signals reach it; Windows has no such thing."""
    sys.stdout.flush()
    if os.name == "nt":
        return subprocess.run(command).returncode
    os.execv(command[0], command)


def say(text: str) -> None:
    print(f"quickstart: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
