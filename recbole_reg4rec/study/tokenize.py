"""The tokenizer alone: fits or loads the codes, reports their health, and writes them to be looked at."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from recbole_reg4rec.files import whole_file
from recbole_reg4rec.study.pipeline import Tokenized, configure, prepare_data, start_logging, tokenize_data
from recbole_reg4rec.study.record import check_results_dir, unwritable
from recbole_reg4rec.study.report import tokenizer_table


def tokenize(
    dataset: str,
    config_file_list: list[str] | None = None,
    command_line: dict[str, str] | None = None,
    results_dir: str = "results",
    model: str = "REG4Rec",
) -> dict[str, Any]:
    """Writes ``results_dir/tokenizer/<dataset>.csv``: item, tokens, categories; prints and returns the health report.

    Raises:
        UserError: any mistake that the user can mend.
    """
    config = configure(model, dataset, config_file_list, None, command_line)
    folder = check_results_dir(Path(results_dir), "tokenizer")
    start_logging(config)
    data = prepare_data(config)
    tokens = tokenize_data(config, data)
    path = folder / f"{dataset}.csv"
    _write(path, tokens, data.dataset.field2id_token[data.dataset.iid_field])
    print(tokenizer_table(tokens.codes.report))
    source = "cache" if tokens.codes.cached else "fit"
    print(f"codes ({source}, {tokens.seconds:.1f} s, fingerprint {tokens.codes.fingerprint}): {path}")
    return tokens.codes.report


def _write(path: Path, tokens: Tokenized, names: Any) -> None:
    codes, members = tokens.codes.codes, tokens.categories.members
    try:
        with whole_file(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["item_id", *(f"token_{book}" for book in range(codes.shape[1])), "categories"])
            for item in range(1, len(codes)):
                categories = " ".join(tokens.categories.names[c] for c in members[item] if c > 0)
                writer.writerow([names[item], *codes[item].tolist(), categories])
    except OSError as error:
        raise unwritable(path.parent, error) from error
