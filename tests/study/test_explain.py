"""Explanations of a trained toy against the model they explain."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from recbole_reg4rec import cli
from recbole_reg4rec.errors import UserError
from recbole_reg4rec.study import explain as module
from recbole_reg4rec.study.explain import Explainer
from recbole_reg4rec.study.explain_report import _names, explanation_table
from recbole_reg4rec.study.trained import load_trained

CORP = {"corp": True, "corp_threshold": 0.9, "corp_min_beams": 2}


def checkpoint(toy: Any) -> str:
    (path,) = toy.saved.glob("*/best.pth")
    return str(path)


def load(toy: Any, **settings: Any) -> Explainer:
    return Explainer.load("toy", checkpoint(toy), config_dict={"use_gpu": False, "show_progress": False, **settings})


def predicted(explainer: Explainer) -> tuple[list[str], Any]:
    """Scores of the whole test set by the model alone, by the users' ids."""
    names, rows = [], []
    data = explainer.trained.data
    with torch.no_grad():
        for batch in data.test:
            rows.append(explainer.model.full_sort_predict(batch[0]))
            names += [str(data.dataset.field2id_token["user_id"][user]) for user in batch[0]["user_id"].tolist()]
    return names, torch.cat(rows)


OTHER_EVIDENCE = {"item_path": True, "memory": True, "reason_weight": 0.5, "fit_weights": False}


@pytest.mark.parametrize("more", [{}, {**OTHER_EVIDENCE, "beam_branch": 2}])
def test_explained_scores_are_those_of_full_sort_predict(toy: Any, more: dict[str, Any]) -> None:
    # Whether a gate is kept on so few users is chance; the next test is about it.
    toy.run(beam_width=8, gate=False, **{"reason_weight": 1.0, **more})
    explainer = load(toy, **CORP)
    names, scores = predicted(explainer)
    numbers = explainer.trained.data.dataset.field2token_id["item_id"]
    found = explainer.users(names, top=40)
    assert [explanation.user for explanation in found] == names
    without = 0
    for row, explanation in enumerate(found):
        assert len(explanation.top) == 40
        assert [item.score for item in explanation.top] == sorted(scores[row, 1:].tolist(), reverse=True)
        for item in explanation.top:
            assert item.score == float(scores[row, numbers[item.item]])
            assert item.score == pytest.approx(sum(part.contribution for part in item.evidence), abs=1e-4)
            assert [part.name for part in item.evidence] == ["reason", *(["recognise", "remember"] if more else [])]
            assert (item.path_log_probability is None) == (item.steps == ()) == (item.paths == 0)
            without += not item.steps
            if item.steps:
                codes = explainer.model.catalogue.codes[numbers[item.item]]
                assert sorted(step.codebook for step in item.steps) == [0, 1, 2]
                assert all(int(codes[step.codebook]) == step.token for step in item.steps)
                if not more:
                    product = torch.tensor([step.probability for step in item.steps]).log().sum()
                    assert float(product) == pytest.approx(item.path_log_probability, abs=1e-3)
                    assert item.score == pytest.approx(item.path_log_probability, abs=1e-4)
        assert explanation.target.score == float(scores[row, numbers[explanation.target.item]])
    assert without > 0


def test_what_a_gate_moves_is_shown_beside_the_evidence(toy: Any) -> None:
    toy.run(beam_width=8, **OTHER_EVIDENCE)
    explainer = load(toy)
    gate = explainer.model.gate
    assert gate is not None
    gate.inner.fill_(1.0)
    gate.outer.fill_(2.0)
    gate.fitted.fill_(True)
    names, scores = predicted(explainer)
    numbers = explainer.trained.data.dataset.field2token_id["item_id"]
    for row, explanation in enumerate(explainer.users(names, top=5)):
        for item in explanation.top:
            assert [part.name for part in item.evidence] == ["reason", "recognise", "remember", "gate"]
            assert item.score == float(scores[row, numbers[item.item]])
            assert item.score == pytest.approx(sum(part.contribution for part in item.evidence), abs=1e-3)
            assert item.evidence[-1].contribution != 0.0


def test_a_gate_does_not_see_paths_that_are_shown_and_weigh_nothing(toy: Any) -> None:
    toy.run(beam_width=8, epochs=1, **OTHER_EVIDENCE)
    explainer = load(toy)
    model = explainer.model
    assert model.gate is not None
    model.gate.inner.fill_(-0.3)
    model.gate.outer.fill_(2.0)
    model.gate.fitted.fill_(True)
    model.weigh(replace(model.weights, reason=0.0))
    names, scores = predicted(explainer)
    numbers = explainer.trained.data.dataset.field2token_id["item_id"]
    (found,) = explainer.users(names[:1], top=40)
    assert any(item.steps for item in found.top)
    for item in found.top:
        assert item.score == pytest.approx(float(scores[0, numbers[item.item]]), abs=1e-3)


def test_a_path_that_ends_early_shows_what_it_decided_on(toy: Any) -> None:
    toy.run(codebooks=5, codebook_size=3, reasoning_steps=3, beam_width=6, reason_weight=1.0)
    explainer = load(toy)
    names, scores = predicted(explainer)
    numbers = explainer.trained.data.dataset.field2token_id["item_id"]
    several = 0
    for row, explanation in enumerate(explainer.users(names, top=40)):
        shown = [item for item in explanation.top if item.steps]
        assert len(shown) <= 6 and explanation.top[: len(shown)] == tuple(shown), "first of all"
        for item in shown:
            *taken, last = item.steps
            assert len(taken) <= 2 and last.codebook is None and "left" in last.meaning
            several += "at once" in last.meaning
            codes = explainer.model.catalogue.codes[numbers[item.item]]
            assert all(int(codes[step.codebook]) == step.token for step in taken)
            product = torch.tensor([step.probability for step in item.steps]).log().sum()
            assert float(product) == pytest.approx(item.path_log_probability, abs=1e-3)
            assert float(scores[row, numbers[item.item]]) == pytest.approx(item.path_log_probability, abs=1e-3)
    assert several > 0


def test_paths_are_shown_also_where_they_weigh_nothing(toy: Any) -> None:
    toy.run(item_path=True, memory=True, reason_weight=0.0)
    explainer = load(toy)
    names, scores = predicted(explainer)
    (found,) = explainer.users(names[:1], top=40)
    assert any(item.steps for item in found.top)
    for item in found.top:
        assert [(part.name, part.weight) for part in item.evidence if part.name == "reason"] == [("reason", 0.0)]
        assert item.score == pytest.approx(sum(part.contribution for part in item.evidence), abs=1e-4)
    assert [item.score for item in found.top] == pytest.approx(sorted(scores[0, 1:].tolist(), reverse=True), abs=1e-4)


def test_pruned_paths_lie_below_the_threshold_and_say_where(shared_toy: Any) -> None:
    explainer = load(shared_toy, **CORP)
    dropped = [path for explanation in explainer.users(explainer.test_users) for path in explanation.pruned]
    assert dropped
    for path in dropped:
        assert path.agreement < path.threshold == 0.9
        assert len(path.steps) == path.step and path.steps[-1].codebook is None
        assert path.steps[-1].agreement == pytest.approx(path.agreement, abs=1e-5)
        assert path.items >= len(path.examples) > 0 and path.before.startswith("class")
    assert {path.held_target for path in dropped} == {True, False}
    assert all(explanation.pruned == () for explanation in load(shared_toy).users(explainer.test_users[:5]))


def test_a_users_history_given_by_hand_is_explained_alike(shared_toy: Any) -> None:
    explainer = load(shared_toy)
    (of_user,) = explainer.users(explainer.test_users[:1], top=3)
    by_hand = explainer.items(of_user.history, top=3)
    assert by_hand.user is None and by_hand.target is None
    assert by_hand.history == of_user.history
    assert [(item.item, item.seen) for item in by_hand.top] == [(item.item, item.seen) for item in of_user.top]
    assert [item.score for item in by_hand.top] == pytest.approx([item.score for item in of_user.top], abs=1e-4)
    long = explainer.items([f"i{n}" for n in range(20)], top=1)
    assert long.history == tuple(f"i{n}" for n in range(12, 20))  # MAX_ITEM_LIST_LENGTH is 8


def test_masked_histories_are_left_out(shared_toy: Any) -> None:
    explainer = load(shared_toy, mask_history=True)
    explanation = explainer.items(["i1", "i2", "i3"], top=40)
    assert len(explanation.top) == 37 and not any(item.seen for item in explanation.top)
    assert [item.rank for item in explanation.top] == list(range(1, 38))


def test_ranks_are_those_of_evaluation(shared_toy: Any) -> None:
    record = shared_toy.record
    explainer = load(shared_toy)
    ranks = [explanation.target.rank for explanation in explainer.users(explainer.test_users, top=1)]
    assert sum(rank <= 10 and 1 / rank for rank in ranks) / 60 == pytest.approx(record["test"]["mrr@10"], abs=1e-6)


def test_repeated_calls_load_nothing(shared_toy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    explainer = load(shared_toy)
    first = explainer.users(explainer.test_users[:2])
    monkeypatch.setattr(module, "load_trained", None)
    monkeypatch.setattr(torch, "load", None)
    assert explainer.users(explainer.test_users[:2]) == first


def test_names_that_the_data_lack_are_refused(shared_toy: Any) -> None:
    explainer = load(shared_toy)
    with pytest.raises(UserError, match="no user 'u5x'; did you mean 'u5"):
        explainer.users(["u5x"])
    with pytest.raises(UserError, match="no item '77777'; ids look like 'i"):
        explainer.items(["i1", "77777"])
    with pytest.raises(UserError, match=r"no item '\[PAD\]'"):
        explainer.items(["[PAD]"])
    with pytest.raises(UserError, match=r"no user '\[PAD\]'"):
        explainer.users(["[PAD]"])
    with pytest.raises(UserError, match="history is empty"):
        explainer.items([])
    assert explainer.users([]) == []


def test_users_without_a_test_item_are_refused(toy: Any) -> None:
    toy.write([*toy.noisy_rows(), ("brief", "i1", 0)])
    toy.run(epochs=0)
    with pytest.raises(UserError, match="user 'brief' of toy has too few interactions"):
        load(toy).users(["brief"])


def test_only_reg4rec_reasons(toy: Any) -> None:
    toy.run("ItemMemory", epochs=0)
    with pytest.raises(UserError, match="holds a ItemMemory, but this run is a REG4Rec"):
        Explainer.load("toy", checkpoint(toy), config_dict=toy.settings())
    trained = load_trained("toy", checkpoint(toy), "ItemMemory", config_dict=toy.settings("ItemMemory", epochs=0))
    with pytest.raises(UserError, match="only REG4Rec can be explained"):
        Explainer(trained)


def test_the_command_line(shared_toy: Any, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [
        "explain",
        "--dataset=toy",
        "--use_gpu=False",
        "--show_progress=False",
        f"--data_path={shared_toy.folder}/data",
    ]
    argv += [f"--checkpoint={checkpoint(shared_toy)}"]
    corp = ["--corp", "--corp_threshold=0.9", "--corp_min_beams=2"]
    assert cli.main([*argv, *corp, "--top", "2", "--users=u1, u2", "--items=i3,i4", "--json", "out/why.json"]) == 0
    printed = capsys.readouterr().out
    assert "user u1:" in printed and "user u2:" in printed and "history given by hand: 2 items read" in printed
    assert "paths dropped by CORP" in printed and "the token's items" in printed
    content = json.loads(Path("out/why.json").read_text(encoding="utf-8"))
    assert [part["user"] for part in content["explanations"]] == ["u1", "u2", None]
    assert content["decoding"]["corp_threshold"] == 0.9 and content["settings"]["corp"] is True
    explainer = load(shared_toy, **CORP)
    assert content["explanations"][0]["top"][0]["score"] == explainer.users(["u1", "u2"], 2)[0].top[0].score
    assert explanation_table(explainer.items(["i3", "i4"], 2)) in printed
    assert cli.main(argv) == 0
    assert f"user {explainer.test_users[0]}:" in capsys.readouterr().out
    for wrong, sentence in (
        ("--users=nobody", "no user 'nobody'"),
        ("--top=0", "--top is '0'"),
        ("--items=,", "names nothing"),
        ("--hidden_size=32", "was trained with hidden_size=16"),
        ("--json=data", "data cannot be written"),
    ):
        assert cli.main([*argv, wrong]) == cli.EXIT_USER_ERROR
        error = capsys.readouterr().err
        assert sentence in error and error.count("\n") == 1


def test_ids_with_commas_and_spaces_are_given_as_a_list() -> None:
    assert _names("a, b c", "users") == ["a", "b c"] and _names("007", "users") == ["007"]
    assert _names('[" a, b ", "c"]', "users") == [" a, b ", "c"]
    with pytest.raises(UserError, match="names nothing"):
        _names("[]", "users")
