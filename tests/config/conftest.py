import pytest


@pytest.fixture
def properties(tmp_path, monkeypatch):
    """A folder of property files of the test's own, in the place of the package's."""
    from recbole_reg4rec.config import settings

    root = tmp_path / "properties"
    for folder in ("model", "dataset"):
        (root / folder).mkdir(parents=True)
    monkeypatch.setattr(settings, "properties_dir", lambda: root)
    return root
