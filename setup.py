"""Packaging of recbole_reg4rec; the tools' settings are in pyproject.toml, the pinned versions in requirements/."""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent
PACKAGE = "recbole_reg4rec"

# recbole is missing on purpose: its release 1.2.1 demands ray<=2.6.3, which has no wheel for Python 3.12 or later, so
# that pip could not resolve the two together. Install it with `pip install --no-deps recbole==1.2.1`; what it imports
# is listed here in its stead, and recbole_reg4rec/versions.py says so plainly where it is missing.
INSTALL_REQUIRES = [
    "torch>=2.4",  # what the code is written for: torch.amp for every device, weights_only checkpoints
    "numpy>=1.26",  # the first for Python 3.12; 2.x works too
    "pandas>=2,<3",  # pandas 3 never writes through a view: RecBole's data handling is then silently wrong
    "scipy>=1.11",  # the series of numpy 1.26
    "scikit-learn>=1.3",  # the series of scipy 1.11; RecBole's metrics need it too
    "filelock>=3.12",  # torch's own bound is looser still; lets processes share item codes
    "threadpoolctl>=3.1",  # holds item features to one thread, so that they repeat to the last bit
    "PyYAML>=6.0.1",  # the first that builds with Cython 3
    "tqdm>=4.48.2",  # RecBole's own bound, as for the next five
    "tabulate>=0.8.10",
    "texttable>=0.9.0",
    "psutil>=5.9.0",
    "thop>=0.1.1.post2207130030",
    "tensorboard>=2.5.0",
    "colorlog>=4.7.2",  # RecBole pins 4.7.2, but uses ColoredFormatter alone, which later releases keep
    "colorama>=0.4.4",  # RecBole pins 0.4.4, but uses init() alone, which later releases keep
    "setuptools>=60",  # thop imports distutils, which Python 3.12 dropped and setuptools brings since 60
    "plotly>=5",  # the first series with Python 3.10; RecBole's own bound is 4
    "optuna>=4",  # the first series released after numpy 2
]


def version() -> str:
    """The version that the package itself states, read without importing it."""
    text = (ROOT / PACKAGE / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
    if found is None:
        raise RuntimeError(f"{PACKAGE}/__init__.py states no __version__")
    return found.group(1)


def readme() -> str:
    path = ROOT / "README.md"
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def property_packages() -> list[str]:
    """properties/ and its folders as sub-packages: they stand at the top level, but ship inside the package."""
    top = ROOT / "properties"
    folders = [top, *sorted(path for path in top.rglob("*") if path.is_dir())]
    return [".".join((PACKAGE, *folder.relative_to(ROOT).parts)) for folder in folders if folder.is_dir()]


PROPERTIES = property_packages()

setup(
    name=PACKAGE,
    version=version(),
    description="REG4Rec, a reasoning-enhanced generative recommender, as an extension of RecBole",
    long_description=readme(),
    long_description_content_type="text/markdown",
    author="The recbole_reg4rec authors",
    license="MIT",
    license_files=["LICENSE"],
    python_requires=">=3.10,<3.14",
    install_requires=INSTALL_REQUIRES,
    packages=[*find_packages(include=[PACKAGE, f"{PACKAGE}.*"]), *PROPERTIES],
    package_dir={name: name.removeprefix(f"{PACKAGE}.").replace(".", "/") for name in PROPERTIES},
    package_data={name: ["*.yaml"] for name in PROPERTIES},
    include_package_data=False,
    entry_points={"console_scripts": ["recbole-reg4rec = recbole_reg4rec.cli:main_and_exit"]},
    zip_safe=False,
)
