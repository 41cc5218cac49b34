from recbole_reg4rec.config import help as help_module
from recbole_reg4rec.config.help import settings_help


def test_settings_help(properties, monkeypatch):
    monkeypatch.setattr(help_module, "properties_dir", lambda: properties)
    (properties / "overall.yaml").write_text('# Training\n\nalpha: 1e-3 # (float) > 0 Step.\nsep: "\\t" # (str) Sep.\n')
    (properties / "model" / "REG4Rec.yaml").write_text("beta: [1, 2] # (list of int) Sizes.\n")
    text = settings_help(width=60)
    assert "(properties/overall.yaml)" in text and "(properties/model/REG4Rec.yaml)" in text
    assert text.index("Training:") < text.index("--alpha=0.001") < text.index("(float) > 0 Step.")
    assert '--sep="\\t"' in text and "--beta=[1, 2]" in text
    assert text.index("overall.yaml") < text.index("REG4Rec.yaml") < text.index("recbole.io")
    assert max(map(len, text.splitlines())) <= 80


def test_settings_help_without_property_files(properties, monkeypatch):
    monkeypatch.setattr(help_module, "properties_dir", lambda: properties / "missing")
    assert "recbole.io" in settings_help(width=60)
