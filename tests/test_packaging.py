"""What is installed, by which command, and what the built package holds."""

from __future__ import annotations

import ast
import email
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from email.message import Message
from importlib import metadata
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from packaging.requirements import Requirement

import recbole_reg4rec

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "recbole_reg4rec"


def requirements(name: str) -> list[Requirement]:
    lines = (ROOT / "requirements" / name).read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


LOCKED = {canonical(item.name): item for item in requirements("lock.txt")}


def imported_modules(path: Path) -> Iterator[str]:
    """Top-level names of everything that a file imports absolutely, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.split(".")[0]


# ---- the lock


def test_lock_pins_everything_once_and_has_no_ray() -> None:
    lines = [*requirements("lock.txt"), *requirements("dev.txt")]
    names = [canonical(item.name) for item in lines]
    assert len(names) == len(set(names))
    assert all(re.fullmatch(r"==[^*]+", str(item.specifier)) for item in lines)
    assert "ray" not in names
    assert str(LOCKED["torch"].specifier) == "==2.13.0"
    assert str(LOCKED["recbole"].specifier) == "==1.2.1"
    assert LOCKED["pandas"].specifier.contains("2.3.3")


def test_everything_the_package_imports_is_locked() -> None:
    owners = metadata.packages_distributions()
    missing = set()
    for path in [*PACKAGE.rglob("*.py"), ROOT / "setup.py"]:
        for module in set(imported_modules(path)) - set(sys.stdlib_module_names) - {"recbole_reg4rec"}:
            if not any(canonical(owner) in LOCKED for owner in owners.get(module, [])):
                missing.add(f"{path.relative_to(ROOT)}: {module}")
    assert not missing


def test_what_the_locked_packages_demand_is_locked_too() -> None:
    """`pip check` for the lock alone: every demand of every locked package is met by a locked version."""
    unmet = []
    for name, item in LOCKED.items():
        if item.marker is not None and not item.marker.evaluate():
            continue
        try:
            installed = metadata.version(name)
        except metadata.PackageNotFoundError:
            installed = "0"
        if not item.specifier.contains(installed):
            pytest.skip(f"this environment was not made from the lock: {name} is {installed}")
        for line in metadata.requires(name) or []:
            demand = Requirement(line)
            if demand.marker is not None and not demand.marker.evaluate({"extra": ""}):
                continue
            if name == "recbole" and demand.name == "ray":
                continue
            if name == "torch" and canonical(demand.name).startswith(("nvidia-", "cuda-", "triton")):
                continue  # CUDA's parts come with torch's own installation, not from the lock
            found = LOCKED.get(canonical(demand.name))
            version = "" if found is None else str(found.specifier).removeprefix("==")
            if not version or not demand.specifier.contains(version, prereleases=True):
                unmet.append(f"{name} demands {line}")
    assert not unmet


def test_nothing_imports_ray_or_recboles_quick_start() -> None:
    """All of the package, and all of RecBole that it may use, with ray made impossible to import."""
    code = """
import importlib, pkgutil, sys
sys.modules["ray"] = None
sys.argv = ["pytest", "--no-such-setting=1"]
import recbole.config, recbole.data, recbole.evaluator, recbole.trainer, recbole.utils
import recbole.model.sequential_recommender, recbole_reg4rec
for package in (recbole.model.sequential_recommender, recbole_reg4rec):
    for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not found.name.endswith("__main__") and ".properties" not in found.name:
            importlib.import_module(found.name)
print(sorted({"recbole.quick_start", "hyperopt"} & set(sys.modules)))
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "[]"


# ---- the built package


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel of a copy of the sources, with one property folder more than there is now."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("setup.py", "pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, source)
    (source / "README.md").write_text("# Größe\n", encoding="utf-8")
    for name in ("recbole_reg4rec", "properties"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    (source / "properties" / "later" / "deep").mkdir(parents=True)
    (source / "properties" / "later" / "deep" / "new.yaml").write_text("a: 1\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    result = subprocess.run([*command, "-w", str(out), str(source)], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    (path,) = out.glob("*.whl")
    return zipfile.ZipFile(path)


@pytest.fixture(scope="module")
def wheel_metadata(wheel: zipfile.ZipFile) -> Message:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return email.message_from_bytes(wheel.read(name))


def test_wheel_holds_every_module_and_property_file_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    modules = {path.relative_to(ROOT).as_posix() for path in PACKAGE.rglob("*.py")}
    properties = {"recbole_reg4rec/" + path.relative_to(ROOT).as_posix() for path in ROOT.glob("properties/**/*.yaml")}
    held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert held == modules | properties | {"recbole_reg4rec/properties/later/deep/new.yaml"}
    assert any(name.endswith("/LICENSE") for name in wheel.namelist())


def test_property_files_in_the_wheel_are_the_ones_at_the_top_level(wheel: zipfile.ZipFile) -> None:
    for path in ROOT.glob("properties/**/*.yaml"):
        held = wheel.read("recbole_reg4rec/" + path.relative_to(ROOT).as_posix())
        assert held == path.read_bytes()
        yaml.safe_load(held)


def test_installed_package_finds_its_property_files(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    wheel.extractall(tmp_path / "site")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r}); "
        "from recbole_reg4rec.config import properties_dir; print(properties_dir())"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    found = Path(result.stdout.splitlines()[-1])
    assert found == tmp_path / "site" / "recbole_reg4rec" / "properties"
    assert (found / "later" / "deep" / "new.yaml").is_file()


def test_wheel_metadata(wheel: zipfile.ZipFile, wheel_metadata: Message) -> None:
    assert wheel_metadata["Version"] == recbole_reg4rec.__version__
    assert set(wheel_metadata["Requires-Python"].split(",")) == {">=3.10", "<3.14"}
    (name,) = (name for name in wheel.namelist() if name.endswith("/entry_points.txt"))
    assert "recbole-reg4rec = recbole_reg4rec.cli:main_and_exit" in wheel.read(name).decode()


def test_loose_bounds_admit_the_lock_and_leave_recbole_out(wheel_metadata: Message) -> None:
    bounds = {canonical(item.name): item for item in map(Requirement, wheel_metadata.get_all("Requires-Dist") or [])}
    assert not {"recbole", "ray"} & set(bounds)
    assert not bounds["pandas"].specifier.contains("3.0.0")
    assert not bounds["torch"].specifier.contains("2.3.1")
    for name, item in bounds.items():
        version = str(LOCKED[name].specifier).removeprefix("==")
        assert item.specifier.contains(version), f"{item} does not admit the locked {version}"


def test_citation_and_license_agree_with_the_package() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert str(citation["version"]) == recbole_reg4rec.__version__
    assert citation["license"] == "MIT"
    assert (ROOT / "LICENSE").read_text(encoding="utf-8").startswith("MIT License")


# ---- quickstart


@pytest.fixture
def quickstart() -> ModuleType:
    spec = spec_from_file_location("quickstart", ROOT / "quickstart.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def steps(quickstart: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stand-ins for what takes minutes; returns the list of what was asked of them."""
    done: list[str] = []

    def make_venv(folder: Path) -> None:
        python = quickstart.venv_python(folder)
        python.parent.mkdir(parents=True, exist_ok=True)
        python.touch()
        done.append("venv")

    def note(name: str) -> Callable[[Path], None]:
        return lambda python: done.append(name)

    monkeypatch.setattr(quickstart, "make_venv", make_venv)
    monkeypatch.setattr(quickstart, "install_run", note("run"))
    monkeypatch.setattr(quickstart, "install_dev", note("dev"))
    return done


def test_quickstart_needs_the_standard_library_alone() -> None:
    assert set(imported_modules(ROOT / "quickstart.py")) <= set(sys.stdlib_module_names)


@pytest.mark.parametrize("version", [(3, 9), (3, 14), (2, 7), (4, 0)])
def test_quickstart_refuses_other_pythons(quickstart: ModuleType, version: tuple[int, int]) -> None:
    with pytest.raises(quickstart.SetupError, match=r"3\.10 to 3\.13 is needed, this is Python " + str(version[0])):
        quickstart.check_python(version)


@pytest.mark.parametrize("minor", [10, 11, 12, 13])
def test_quickstart_takes_the_promised_pythons(quickstart: ModuleType, minor: int) -> None:
    quickstart.check_python((3, minor))


def test_quickstart_says_how_to_get_a_missing_venv_module(
    quickstart: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(quickstart.importlib.util, "find_spec", lambda name: None if name == "ensurepip" else name)
    assert quickstart.main([]) == 2
    assert f"apt-get install python3.{sys.version_info[1]}-venv" in capsys.readouterr().err


def test_quickstart_installs_once(quickstart: ModuleType, steps: list[str], tmp_path: Path) -> None:
    for _ in range(2):
        quickstart.prepare(tmp_path, with_dev=False)
    assert steps == ["venv", "run"]
    for _ in range(2):
        quickstart.prepare(tmp_path, with_dev=True)
    assert steps == ["venv", "run", "venv", "dev"]


def test_quickstart_installs_again_after_an_interruption_and_after_a_new_lock(
    quickstart: ModuleType, steps: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(python: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(quickstart, "install_run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            quickstart.prepare(tmp_path, with_dev=False)
    quickstart.prepare(tmp_path, with_dev=False)
    assert steps == ["venv", "venv", "run"]

    old = quickstart.LOCK
    new = tmp_path / "lock.txt"
    new.write_text("torch==2.13.0\n", encoding="utf-8")
    with monkeypatch.context() as patch:
        patch.setattr(quickstart, "LOCK", new)
        patch.setattr(quickstart, "install_run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            quickstart.prepare(tmp_path, with_dev=False)
    assert old == quickstart.LOCK
    # the old lock is back, but the environment may be half-way to the new one
    quickstart.prepare(tmp_path, with_dev=False)
    assert steps[-1] == "run" and steps.count("run") == 2


def test_quickstart_leaves_a_folder_alone_that_is_no_environment(
    quickstart: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.tex").write_text("years of work", encoding="utf-8")
    monkeypatch.setenv("REG4REC_VENV", str(tmp_path))
    assert quickstart.main(["install"]) == 2
    assert "is not a Python environment" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_quickstart_reports_a_failing_pip(
    quickstart: ModuleType, steps: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = lambda python: quickstart.pip(Path(sys.executable), "--no-such-option")  # noqa: E731
    monkeypatch.setattr(quickstart, "install_run", failing)
    with pytest.raises(quickstart.SetupError, match="pip failed with exit code 2.*--no-such-option"):
        quickstart.prepare(tmp_path, with_dev=False)
    assert not list(tmp_path.glob("*.stamp"))


@pytest.mark.parametrize("index", [None, "https://download.pytorch.org/whl/cpu"])
def test_quickstart_install_order(quickstart: ModuleType, monkeypatch: pytest.MonkeyPatch, index: str | None) -> None:
    calls: list[tuple[str, ...]] = []
    monkeypatch.setattr(quickstart, "pip", lambda python, *arguments: calls.append(arguments))
    monkeypatch.delenv("TORCH_INDEX_URL", raising=False)
    if index:
        monkeypatch.setenv("TORCH_INDEX_URL", index)
    quickstart.install_run(Path("python"))
    torch, lock, package = calls
    assert torch == ("torch==2.13.0", *(("--index-url", index) if index else ()))
    assert "--no-deps" in lock and lock[-1].endswith("lock.txt")
    assert {"--no-deps", "--no-build-isolation", "-e"} < set(package)
    assert not any(str(index) in call for call in (lock, package))


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        ([], ["run_recbole_reg4rec.py", "--dataset=ml-100k"]),
        (["--dataset=ml-1m", "--epochs=1"], ["run_recbole_reg4rec.py", "--dataset=ml-1m", "--epochs=1"]),
        (["test"], ["-m", "pytest"]),
        (["test", "-q", "tests/x.py"], ["-m", "pytest", "-q", "tests/x.py"]),
    ],
)
def test_quickstart_commands(
    quickstart: ModuleType,
    steps: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    command: list[str],
) -> None:
    called: list[str] = []

    def become(given: list[str]) -> int:
        called.extend(given)
        return 7

    monkeypatch.setenv("REG4REC_VENV", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(quickstart, "become", become)
    assert quickstart.main(arguments) == 7
    assert called[0] == str(quickstart.venv_python(tmp_path))
    assert [Path(part).name if part.endswith("g4rec.py") else part for part in called[1:]] == command
    assert ("dev" in steps) == (arguments[:1] == ["test"])


def test_ci_script_is_executable_and_parses() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", str(script)], check=True)
