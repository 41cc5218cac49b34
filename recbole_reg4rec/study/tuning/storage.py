"""Where a study lies, and how commands on many machines come to work on the same one."""

from __future__ import annotations

import json
import re
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import DuplicatedStudyError, StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from sqlalchemy.exc import ArgumentError, IntegrityError, NoSuchModuleError, SQLAlchemyError

from recbole_reg4rec.errors import UserError
from recbole_reg4rec.files import exclusive
from recbole_reg4rec.study.tuning.plan import Plan
from recbole_reg4rec.study.tuning.samplers import make_pruner, make_sampler

_JOURNALS, _SQLITES = (".journal", ".log"), (".db", ".sqlite", ".sqlite3")
CONTRACT, READY = "contract", "ready"
# Seconds that a database may be busy before a call fails, and that a joining command waits for the one that began.
_BUSY, _OTHERS_SETUP = 120, 20
_TABLE_ATTEMPTS = 6


def storage_url(text: str | None, output: Path) -> str:
    """The storage in full: a database URL, or ``journal:PATH``.

    Args:
        text: what the user gave: a URL, a path that ends in .db (SQLite) or .journal; None: SQLite in ``output``.
        output: the study's folder.

    Raises:
        UserError: it is none of these.
    """
    if text is None:
        return f"sqlite:///{(output / 'study.db').absolute()}"
    if text.startswith("journal:"):
        return f"journal:{Path(text.removeprefix('journal:')).expanduser().absolute()}"
    if "://" in text:
        return text
    suffix = Path(text).suffix.lower()
    if suffix in _JOURNALS:
        return f"journal:{Path(text).expanduser().absolute()}"
    if suffix in _SQLITES:
        return f"sqlite:///{Path(text).expanduser().absolute()}"
    raise UserError(
        f"--storage is `{text}`, but it must be a path that ends in .db (SQLite) or .journal, or a database URL such "
        "as postgresql+psycopg://user:password@host/database"
    )


def shown(url: str) -> str:
    """A storage without its password."""
    return re.sub(r"(://[^:/@]*):[^@/]*@", r"\1:***@", url)


def open_storage(url: str) -> BaseStorage:
    """Optuna's storage behind a URL from `storage_url`; files and tables are made where they are missing.

    Raises:
        UserError: the folder cannot be written, the database does not answer, or its driver is not installed.
    """
    try:
        if url.startswith("journal:"):
            path = url.removeprefix("journal:")
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            return JournalStorage(JournalFileBackend(path, **_journal_lock(path)))
        options: dict[str, Any] = {"pool_pre_ping": True}
        if url.startswith("sqlite"):
            if url.startswith("sqlite:///"):
                Path(url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
            options = {"connect_args": {"timeout": _BUSY}}
        return _open_database(url, options)
    except ImportError as error:
        missing = getattr(error.__cause__, "name", None) or error.name or "of its driver"
        raise UserError(
            f"storage {shown(url)} needs the package {missing}, which is not installed; pip install {missing}"
        ) from error
    except (ArgumentError, NoSuchModuleError) as error:
        raise UserError(f"--storage={shown(url)} is no database URL that SQLAlchemy knows; {_first(error)}") from error
    except (SQLAlchemyError, StorageInternalError, RuntimeError) as error:
        raise UserError(f"storage {shown(url)} does not answer: {_first(error)}") from error
    except OSError as error:
        raise UserError(f"storage {shown(url)} cannot be written ({error.strerror}); set --storage") from error


def _open_database(url: str, options: dict[str, Any]) -> RDBStorage:
    """Several commands may find an empty database together and make the tables; all but one must look again."""
    for attempt in range(_TABLE_ATTEMPTS):
        try:
            return RDBStorage(url, engine_kwargs=dict(options))
        except (SQLAlchemyError, StorageInternalError) as error:
            made_meanwhile = isinstance(error, IntegrityError) or "already exists" in str(error)
            if not made_meanwhile or attempt + 1 == _TABLE_ATTEMPTS:
                raise
            time.sleep(1.0 + attempt)
    raise AssertionError


def _journal_lock(path: str) -> dict[str, Any]:
    # Windows makes symbolic links only for administrators.
    return {"lock_obj": JournalFileOpenLock(path)} if Path(path).drive else {}


def _first(error: BaseException) -> str:
    return str(getattr(error, "orig", None) or error).strip().splitlines()[0]


def alone(url: str) -> AbstractContextManager[None]:
    """Lets one process at a time take a trial, where the storage does not see to that itself.

    SQLite reads and writes in two steps, between which another process may read the same. It is a file on this
    machine, and so can the lock be.
    """
    if not url.startswith("sqlite:///"):
        return nullcontext()
    return exclusive(Path(url.removeprefix("sqlite:///") + ".lock"), keep=True)


def load(plan: Plan, storage: BaseStorage, slot: int = 0) -> optuna.Study:
    """The study with the sampler of one trial; nothing is cached from earlier trials."""
    sampler, pruner = make_sampler(plan.sampler, plan.seed, slot), make_pruner(plan.pruner)
    return optuna.load_study(study_name=plan.name, storage=storage, sampler=sampler, pruner=pruner)


def begin_or_join(plan: Plan, storage: BaseStorage) -> tuple[optuna.Study, bool]:
    """The study, begun where it does not exist yet, and whether this command began it.

    Exactly one of several commands that start together begins it. One that joins waits until the first has said what
    the study is about.

    Raises:
        UserError: the study exists and is about something else.
    """
    contract = json.loads(json.dumps(plan.contract(), default=str))
    try:
        study = optuna.create_study(study_name=plan.name, storage=storage, directions=plan.directions)
    except DuplicatedStudyError:
        return _join(plan, storage, contract), False
    study.set_user_attr(CONTRACT, contract)
    return study, True


def _join(plan: Plan, storage: BaseStorage, contract: dict[str, Any]) -> optuna.Study:
    deadline = time.monotonic() + _OTHERS_SETUP
    study = load(plan, storage)
    while READY not in study.user_attrs and time.monotonic() < deadline:
        time.sleep(0.2)
    there = study.user_attrs.get(CONTRACT)
    if there is None:  # the command that began it was killed at once
        study.set_user_attr(CONTRACT, contract)
        return study
    difference = _difference(there, contract)
    if difference is not None:
        name, then, now = difference
        raise UserError(
            f"the study {plan.name} in {shown(plan.storage)} was begun with {name} = {then}, but this command has "
            f"{name} = {now}; give the same settings, or another --output or --name for a study of its own"
        )
    return study


def _difference(there: Any, here: Any, name: str = "") -> tuple[str, Any, Any] | None:
    """The first thing that differs, by name."""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in sorted(there.keys() | here.keys()):
            # `settings` and `search` say nothing that the setting's own name does not.
            inner = key if name in ("settings", "space", "search", "fixed", "") else f"{name}.{key}"
            found = _difference(there.get(key), here.get(key), inner)
            if found is not None:
                return found
        return None
    return None if there == here else (name, there, here)
