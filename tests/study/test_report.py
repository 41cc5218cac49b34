from recbole_reg4rec.study.report import result_table, tokenizer_table

RECORD = {
    "model": "REG4Rec",
    "dataset": "toy",
    "seed": 7,
    "protocol": {
        "masked": False,
        "order": "timestamp",
        "history": 50,
        "eval_args": {"mode": {"valid": "full", "test": "full"}},
    },
    "valid": {"recall@5": 0.125, "ndcg@5": 0.0625, "recall@10": 0.25, "ndcg@10": 0.5},
    "test": {"recall@5": 0.1, "ndcg@5": 0.2, "recall@10": 0.3, "ndcg@10": 0.4},
    "seconds": {"tokenizer": 1.0, "train": 2.0, "evaluate": 3.0, "total": 6.5},
    "targets_per_second": 12345.6,
    "peak_memory_mb": 456.7,
}
REPORT = {
    "codebooks": 2,
    "codewords": 8,
    "features": {"text": 4, "collaborative": 5},
    "items_without_content": 1,
    "items_without_training_interactions": 2,
    "items_without_features": 3,
    "collisions_before": 4,
    "moved": 6,
    "collisions": 0,
}


def cells(line):
    return line.split()


def test_one_row_a_depth_and_both_parts_beside_each_other():
    lines = result_table(RECORD).splitlines()
    assert cells(lines[0]) == ["valid", "recall", "valid", "ndcg", "test", "recall", "test", "ndcg"]
    assert cells(lines[2]) == ["@5", "0.1250", "0.0625", "0.1000", "0.2000"]
    assert cells(lines[3]) == ["@10", "0.2500", "0.5000", "0.3000", "0.4000"]


def test_protocol_and_costs_are_said():
    text = result_table(RECORD)
    for part in ("history not masked", "ordered by timestamp", "50 items", "seed 7", "total 6.5", "12346", "457 MB"):
        assert part in text, part
    masked = {**RECORD, "protocol": {**RECORD["protocol"], "masked": True}}
    assert "history masked" in result_table(masked)
    sampled = {**RECORD, "protocol": {**RECORD["protocol"], "eval_args": {"mode": {"valid": "full", "test": "uni9"}}}}
    assert "full ranking" in text and "full ranking" not in result_table(sampled)
    assert "sampled candidates (uni9)" in result_table(sampled)


def test_without_validation_there_are_dashes():
    lines = result_table({**RECORD, "valid": {}}).splitlines()
    assert cells(lines[2]) == ["@5", "-", "-", "0.1000", "0.2000"]


def test_tokenizer_health(toy):
    from recbole_reg4rec.study.pipeline import configure, prepare_data, tokenize_data

    config = configure("REG4Rec", "toy", config_dict=toy.settings())
    report = tokenize_data(config, prepare_data(config)).codes.report
    assert set(REPORT) <= set(report)
    text = tokenizer_table(report)
    assert len([line for line in text.splitlines() if line.split()[:1] in (["0"], ["1"], ["2"])]) == 3
    assert "3 codebooks of 8 codewords" in text and f"{report['collisions_before']} before" in text
