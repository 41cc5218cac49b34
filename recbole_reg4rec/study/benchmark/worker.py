"""A process of its own for one contender, so that its memory is its own; idle while others have their turn.

Requests come as lines of JSON on standard input, answers go as lines of JSON to what was standard output; whatever is
printed goes to standard error. When the input closes, whoever asked is gone, and the worker ends at once.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from typing import IO, Any

from recbole_reg4rec.errors import UserError

EXIT_OK, EXIT_ORPHANED = 0, 3


def main(threads: int) -> int:
    """Answers requests until there are no more; a mistake of the user's is an answer as well, ``error``."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    requests: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_listen, args=(sys.stdin, requests), daemon=True).start()
    import torch

    from recbole_reg4rec.study.benchmark.bench import Bench

    torch.set_num_threads(threads)
    bench = Bench()
    while True:
        request: dict[str, Any] = json.loads(requests.get())
        if request["do"] == "end":
            return EXIT_OK
        try:
            answer = bench.answer(request)
        except UserError as error:
            answer = {"error": " ".join(str(error).split())}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _listen(source: IO[str], requests: queue.Queue[str]) -> None:
    for line in source:
        requests.put(line)
    os._exit(EXIT_ORPHANED)


if __name__ == "__main__":
    code = main(int(sys.argv[1]))
    sys.stderr.flush()
    # Not sys.exit: the thread that waits on standard input would hold the interpreter's end.
    os._exit(code)
