"""Versions are judged by metadata alone; the fake metadata here stands for whole environments."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from recbole_reg4rec import __version__, versions
from recbole_reg4rec.errors import UserError

GOOD = {
    "torch": "2.13.0+cpu",
    "numpy": "2.2.6",
    "pandas": "2.3.3",
    "scipy": "1.15.3",
    "scikit-learn": "1.7.2",
    "recbole": "1.2.1",
}


def install(monkeypatch: pytest.MonkeyPatch, **changes: str | None) -> None:
    """Make importlib.metadata answer as in a good environment, but for the changes; None is: not installed."""
    environment = {**GOOD, **changes}

    def version(name: str) -> str:
        found = environment.get(name)
        if found is None:
            raise metadata.PackageNotFoundError(name)
        return found

    monkeypatch.setattr(metadata, "version", version)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"pandas": "2.0.0"},
        {"pandas": "2.99"},
        {"torch": "2.4.0"},
        {"torch": "2.4"},
        {"torch": "2.10.1+cu130"},
        {"torch": "3.0.0a0+gitabc"},
        {"numpy": "1.26.0"},
    ],
)
def test_good_environments_pass(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, changes: dict[str, str]
) -> None:
    install(monkeypatch, **changes)
    with caplog.at_level(logging.WARNING):
        versions.check_versions()
    assert not caplog.records


@pytest.mark.parametrize(
    ("name", "version", "remedy"),
    [
        ("pandas", "3.0.0", "pandas>=2,<3"),
        ("pandas", "3.0.0rc1", "pandas>=2,<3"),
        ("pandas", "10.1", "pandas>=2,<3"),
        ("pandas", "1.5.3", "pandas>=2,<3"),
        ("torch", "2.3.1+cpu", "torch>=2.4"),
        ("torch", "1.13.1", "torch>=2.4"),
        ("numpy", "1.25.2", "numpy>=1.26"),
    ],
)
def test_bad_version_is_refused_and_named(
    monkeypatch: pytest.MonkeyPatch, name: str, version: str, remedy: str
) -> None:
    install(monkeypatch, **{name: version})
    with pytest.raises(UserError) as error:
        versions.check_versions()
    message = str(error.value)
    assert f"{name} {version}" in message
    assert f'pip install "{remedy}"' in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("pandas", 'pip install "pandas>=2,<3"'),
        ("torch", 'pip install "torch>=2.4"'),
        ("numpy", 'pip install "numpy>=1.26"'),
        ("recbole", "pip install --no-deps recbole==1.2.1"),
    ],
)
def test_missing_library_is_refused_with_its_install_line(
    monkeypatch: pytest.MonkeyPatch, name: str, remedy: str
) -> None:
    install(monkeypatch, **{name: None})
    with pytest.raises(UserError, match=f"^{name} is not installed") as error:
        versions.check_versions()
    assert remedy in str(error.value)


def test_other_recbole_is_only_warned_about(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    install(monkeypatch, recbole="1.2.0")
    with caplog.at_level(logging.WARNING):
        versions.check_versions()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "1.2.0" in record.getMessage()
    assert "1.2.1" in record.getMessage()


def test_record_of_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, scipy=None)
    record = versions.collect_versions()
    assert record["python"] == ".".join(str(part) for part in sys.version_info[:3])
    assert record["platform"]
    assert record["scipy"] == "not installed"
    assert record["recbole_reg4rec"] == __version__
    assert {name: record[name] for name in GOOD if name != "scipy"} == {k: v for k, v in GOOD.items() if k != "scipy"}
    assert set(record) == {"python", "platform", "recbole_reg4rec", *GOOD}
    assert json.loads(json.dumps(record)) == record


def test_checking_imports_nothing_that_it_judges() -> None:
    code = (
        "import sys; from recbole_reg4rec.versions import check_versions, collect_versions; "
        "check_versions(); collect_versions(); "
        "print(sorted({'pandas', 'torch', 'numpy', 'recbole', 'ray'} & set(sys.modules)))"
    )
    root = Path(__file__).resolve().parents[1]
    result = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
