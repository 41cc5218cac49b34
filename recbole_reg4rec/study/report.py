"""What a run says at its end, for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tabulate import tabulate


def result_table(record: Mapping[str, Any]) -> str:
    """Metrics on validation and test side by side, one row a depth; then protocol, times and memory."""
    valid, test = record["valid"], record["test"]
    names = list(dict.fromkeys(name.split("@")[0] for name in test))
    depths = sorted({int(name.split("@")[1]) for name in test if "@" in name})
    header = ["", *(f"{part} {name}" for part in ("valid", "test") for name in names)]
    rows = [
        [f"@{depth}", *(_number(result.get(f"{name}@{depth}")) for result in (valid, test) for name in names)]
        for depth in depths
    ]
    protocol = record["protocol"]
    mode = protocol["eval_args"]["mode"]["test"]
    among = "full ranking" if mode == "full" else f"ranking of sampled candidates ({mode})"
    seconds = record["seconds"]
    lines = [
        tabulate(rows, headers=header, tablefmt="simple", disable_numparse=True, stralign="right"),
        "",
        f"model {record['model']}, data set {record['dataset']}, seed {record['seed']}; history "
        f"{'masked' if protocol['masked'] else 'not masked'}, ordered by {protocol['order']}, at most "
        f"{protocol['history']} items long; {among}",
        f"seconds: tokenizer {seconds['tokenizer']:.1f}, train {seconds['train']:.1f}, evaluate "
        f"{seconds['evaluate']:.1f}, total {seconds['total']:.1f}; {record['targets_per_second']:.0f} training targets "
        f"a second; peak memory {record['peak_memory_mb']:.0f} MB",
    ]
    return "\n".join(lines)


def tokenizer_table(report: Mapping[str, Any]) -> str:
    """Health of the codes, one row a codebook, then the figures of the whole."""
    rows = [
        [number, f"{used:.3f}", f"{perplexity:.1f}", f"{purity:.3f}"]
        for number, (used, perplexity, purity) in enumerate(
            zip(report["utilisation"], report["perplexity"], report["category_purity"], strict=True)
        )
    ]
    table = tabulate(rows, headers=["codebook", "used", "perplexity", "category purity"], disable_numparse=True)
    features = ", ".join(f"{name} {width}" for name, width in report["features"].items())
    lines = [
        table,
        "",
        f"{report['codebooks']} codebooks of {report['codewords']} codewords; features: {features}",
        f"reconstruction R2 {report['reconstruction_r2']:.3f}; mutual information between codebooks "
        f"{report['mutual_information']:.3f} of {report['entropy']:.3f} nats",
        f"items sharing a tuple: {report['collisions_before']} before, {report['collisions']} after moving "
        f"{report['moved']}; without features {report['items_without_features']}, without content "
        f"{report['items_without_content']}, without training interactions "
        f"{report['items_without_training_interactions']}",
    ]
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
