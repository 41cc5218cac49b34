"""One job in a process of its own, so that its peak memory is its own and a crash ends nothing else.

The job comes as one line of JSON on standard input, which stays open: when it closes, whoever gave the job is gone,
and the worker stops at once instead of training on for nobody.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from recbole_reg4rec.errors import UserError
from recbole_reg4rec.files import whole_file

EXIT_USER_ERROR, EXIT_ORPHANED = 2, 3


def do(job: Mapping[str, Any]) -> None:
    """Does a job: ``kind`` is ``run`` (a record in ``results_dir``) or ``data`` (its name and size in ``answer``).

    Raises:
        UserError: any mistake that the user can mend.
    """
    given = {name: job[name] for name in ("model", "dataset", "config_file_list", "config_dict", "command_line")}
    if job["kind"] == "run":
        from recbole_reg4rec.study.quick_start import run

        run(**given, resume=True, checkpoint=job["checkpoint"], results_dir=job["results_dir"])
    else:
        _inspect(given, Path(job["answer"]))


def _inspect(given: Mapping[str, Any], answer: Path) -> None:
    from recbole_reg4rec.data.groups import data_and_split_fingerprint
    from recbole_reg4rec.study.pipeline import configure, prepare_data

    data = prepare_data(configure(**given))
    found = {"fingerprint": data_and_split_fingerprint(data.train._dataset, data.test._dataset)}
    with whole_file(answer, "w", encoding="utf-8") as file:
        json.dump(found, file)


def _stop_with_parent(closed: Callable[[], Any]) -> None:
    closed()
    os._exit(EXIT_ORPHANED)


def main() -> int:
    """Reads a job and does it; returns the exit code: 0 done, 2 a mistake of the user's, told in the last line."""
    job = json.loads(sys.stdin.readline())
    threading.Thread(target=_stop_with_parent, args=(sys.stdin.read,), daemon=True).start()
    try:
        do(job)
    except UserError as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return EXIT_USER_ERROR
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: the thread that waits on standard input would hold the interpreter's end.
    os._exit(code)
