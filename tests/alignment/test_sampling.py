"""Sampled groups against one path walked alone, and against all paths there are."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from recbole_reg4rec.alignment.grpo import clipped_objective
from recbole_reg4rec.alignment.sampling import Hopes, Sampler, replay
from recbole_reg4rec.alignment.tree import pick, subtree

ITEMS = 12


@pytest.fixture
def make(toy_data):
    """A factory of (model, items, trained): a random model, three rows, of which not every position is trained."""

    def build(**settings):
        rows = [(f"u{u}", f"i{(u * 5 + t * t) % ITEMS}", t) for u in range(9) for t in range(8)]
        lines = [(f"i{i}", f"name{i % 4} word{i}", f"class{i % 3} class{i % 5}") for i in range(ITEMS)]
        toy = toy_data(rows, lines, **{"codebooks": 3, "codebook_size": 4, **settings})
        torch.manual_seed(3)
        model = toy.model.eval()
        with torch.no_grad():
            for weights in model.parameters():
                weights.add_(0.3 * torch.randn_like(weights))
        items = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 0], [8, 9, 0, 0]])
        trained = torch.tensor([[False, True, True, True], [True, False, True, False], [True, True, False, False]])
        return model, items, trained

    return build


def token_logits(model, hidden: Tensor, alive: Tensor, odds: Tensor) -> Tensor:
    """Logits ``[M, K]`` whose softmax over what is ``alive`` is the model's, by the definition of its setting."""
    logits, codes = model.reasoner.token_logits(hidden), model.catalogue.codes
    if not model.catalogue_softmax:
        return logits
    own = (item_logits(model, hidden, alive) + odds[alive]).exp()
    return torch.stack(
        [torch.zeros(logits.shape[1]).index_add(0, codes[alive, book], own) for book in range(codes.shape[1])]
    ).log()


def item_logits(model, hidden: Tensor, alive: Tensor) -> Tensor:
    """Of some items: the sums of their tokens' logits, and what their own vectors add."""
    codes = model.catalogue.codes
    found = model.reasoner.token_logits(hidden)[torch.arange(codes.shape[1]), codes[alive]].sum(1)
    identity = model.reasoner.vectors.identity
    return found if identity is None else found + identity(alive) @ model.reasoner.query(hidden)


def walk_alone(model, items: Tensor, wanted: Tensor, temperature: float, order: str, steps: int | None = None):
    """Log-probability, codebooks and categories of an item's path for one history, by the definition."""
    codes, members, reasoner = model.catalogue.codes, model.members, model.reasoner
    history = model.encoder(items.unsqueeze(0))
    session = reasoner.session(history, history.last[:, -1:], None, causal=False)
    hidden, total = session.begin()[0, 0], torch.zeros(())
    odds = torch.zeros(len(codes)) if model.repeat is None else model.repeat.scores(items.unsqueeze(0), len(codes))[0]
    alive = torch.arange(1, len(codes))
    books: list[int] = []
    categories: list[int] = []
    open_books = list(range(codes.shape[1]))

    def own(state: Tensor, item: int) -> int:
        logits = reasoner.category_logits(state)
        mine = members[item][members[item] > 0]
        return int(mine[logits[mine].argmax()])

    while open_books:
        logits = token_logits(model, hidden, alive, odds)
        if len(books) + 1 == steps:
            # The answer: what is left of the item at once, the softmax of the sums of its tokens' logits.
            sums = item_logits(model, hidden, alive) + odds[alive]
            total = total + (sums / temperature).log_softmax(-1)[alive.tolist().index(int(wanted))]
            return total, books, categories + [own(hidden, int(wanted))] * len(open_books)
        words = {book: codes[alive, book].unique() for book in open_books}
        sure = {book: logits[book, words[book]].softmax(-1).max().item() for book in open_books}
        # Where one item decides, several codebooks are as sure but for rounding.
        best = max(round(math.log(sure[b]), 4) for b in open_books)
        surest = [b for b in open_books if round(math.log(sure[b]), 4) == best]
        book = surest[0] if order == "confidence" else open_books[0]
        token = int(codes[wanted, book])
        log_probs = (logits[book, words[book]] / temperature).log_softmax(-1)
        total = total + log_probs[words[book].tolist().index(token)]
        alive = alive[codes[alive, book] == token]
        open_books.remove(book)
        books.append(book)
        if len(alive) == 1 or not open_books:
            categories += [own(hidden, int(alive[-1]))] * (len(open_books) + 1)
            return total, books, categories
        entered = reasoner.table.tokens(torch.tensor([[book]]), torch.tensor([[token]]))
        hidden = session.take(entered)[0, 0]
        categories.append(int(reasoner.category_logits(hidden).argmax()))
    raise AssertionError


@pytest.mark.parametrize("order", ["confidence", "fixed"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"token_softmax": "codebook"},
        {"history_form": "flat"},
        {"n_layers": 4, "start_from_history": False, "token_softmax": "codebook"},
        {"reasoning_steps": 2},
        {"repeat": True},
        {"repeat": True, "reasoning_steps": 2},
        {"reason_identity": True},
        {"reason_identity": True, "reasoning_steps": 2, "repeat": True},
    ],
)
def test_sampled_paths_equal_paths_walked_alone(make, settings, order):
    model, items, trained = make(**settings)
    steps = settings.get("reasoning_steps")
    sampler = Sampler(model.catalogue, model.members, order, temperature=1.3, steps=steps)
    torch.manual_seed(0)
    scorer = model.scorer(model.reasoner, odds=model.odds_at(items, trained))
    groups = sampler.sample(model.reasoner, scorer, model.encoder(items), trained, 6)
    log_probs = groups.path_log_probs(groups.walk)
    again = replay(model.reasoner, scorer, model.encoder(items), groups.levels, 1.3)
    assert torch.allclose(groups.path_log_probs(again), log_probs, atol=1e-5)
    assert len(set(groups.items.flatten().tolist())) >= 3, "otherwise little is compared"
    for group, (row, place) in enumerate(trained.nonzero().tolist()):
        for path, item in enumerate(groups.items[group]):
            expected, books, categories = walk_alone(model, items[row, : place + 1], item, 1.3, order, steps)
            assert log_probs[group, path].item() == pytest.approx(expected.item(), abs=1e-5)
            # Forced steps stand behind the decided ones, in any order.
            assert groups.books[group, path, : len(books)].tolist() == books
            assert sorted(groups.books[group, path].tolist()) == [0, 1, 2]
            assert torch.equal(model.catalogue.codes[item][groups.books[group, path]], groups.tokens[group, path])
            assert groups.categories[group, path].tolist() == categories


@pytest.mark.parametrize("steps", [None, 2])
@pytest.mark.parametrize("order", ["confidence", "random", "fixed"])
def test_all_paths_together_have_probability_one_and_draws_follow_it(make, order, steps):
    model, items, trained = make()
    contexts, draws = int(trained.sum()), 4000
    sampler = Sampler(model.catalogue, model.members, order, categories=False, steps=steps)
    every = torch.arange(1, ITEMS + 1).expand(contexts, -1)
    torch.manual_seed(1)
    groups = sampler.sample(model.reasoner, model.scorer(model.reasoner), model.encoder(items), trained, draws, every)
    assert torch.equal(groups.items[:, draws:], every)
    probability = groups.path_log_probs(groups.walk)[:, draws:].exp()
    assert torch.allclose(probability.sum(1), torch.ones(contexts), atol=1e-5)
    share = torch.stack([(groups.items[:, :draws] == item).float().mean(1) for item in range(1, ITEMS + 1)], dim=1)
    deviation = (probability * (1 - probability) / draws).sqrt()
    assert ((share - probability).abs() <= 5 * deviation + 1e-6).all()
    assert (groups.categories == 0).all()


@pytest.mark.parametrize("steps", [None, 2])
@pytest.mark.parametrize("repeat", [False, True])
def test_the_estimate_over_all_paths_is_the_exact_policy_gradient(make, repeat, steps):
    """Each path weighted by its probability, the objective's gradient is that of the expected reward.

    So it is where only the paths that earn anything are walked again.
    """
    model, items, trained = make(repeat=repeat)
    scorer = model.scorer(model.reasoner, odds=model.odds_at(items, trained))
    contexts = int(trained.sum())
    sampler = Sampler(model.catalogue, model.members, steps=steps)
    every = torch.arange(1, ITEMS + 1).expand(contexts, -1)
    reward = torch.randn(contexts, ITEMS, generator=torch.Generator().manual_seed(5))
    reward[::2] = 0.0
    groups = sampler.sample(model.reasoner, scorer, model.encoder(items), trained, 0, every)
    assert not any(part.requires_grad for part in groups.walk.log_probs)
    parameters = [weights for weights in model.parameters() if weights.requires_grad]
    walk = replay(model.reasoner, scorer, model.encoder(items), groups.levels, 1.0)
    probability = groups.path_log_probs(walk).exp()
    exact = torch.autograd.grad((probability * reward).sum(), parameters, retain_graph=True, allow_unused=True)
    objective = torch.zeros(())
    worth = (probability.detach() * reward).flatten()
    levels, _ = subtree(groups.levels, worth != 0.0)
    walk = replay(model.reasoner, scorer, model.encoder(items), levels, 1.0)
    for level, log_probs in zip(levels, walk.log_probs, strict=True):
        token = pick(log_probs, level.nodes, level.columns)
        objective = objective + clipped_objective(token, token.detach(), worth[level.paths], 0.2).sum()
    estimate = torch.autograd.grad(objective, parameters, allow_unused=True)
    compared = 0
    for one, other in zip(exact, estimate, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            assert torch.allclose(one, other, atol=1e-5), "gradient"
            compared += int(one.abs().max() > 1e-4)
    assert compared > 10


def test_a_temperature_spreads_draws(make):
    model, items, trained = make()
    kinds = []
    for temperature in (0.05, 1.0, 20.0):
        sampler = Sampler(model.catalogue, model.members, temperature=temperature)
        torch.manual_seed(2)
        groups = sampler.sample(model.reasoner, model.scorer(model.reasoner), model.encoder(items), trained, 64)
        kinds.append(sum(len(set(row.tolist())) for row in groups.items))
    assert kinds[0] < kinds[1] < kinds[2]


@pytest.mark.parametrize("steps", [None, 2])
def test_the_subtree_of_some_paths_gives_them_the_same_probability(make, steps):
    model, items, trained = make()
    sampler = Sampler(model.catalogue, model.members, steps=steps)
    torch.manual_seed(4)
    groups = sampler.sample(model.reasoner, model.scorer(model.reasoner), model.encoder(items), trained, 8)
    levels, kept = subtree(groups.levels, torch.arange(groups.items.numel()) % 8 < 2)
    walk = replay(model.reasoner, model.scorer(model.reasoner), model.encoder(items), levels, 1.0)
    whole = groups.path_log_probs(groups.walk)
    part = torch.zeros(whole.numel())
    for level, nodes, log_probs, original in zip(levels, kept, walk.log_probs, groups.walk.log_probs, strict=True):
        assert torch.allclose(log_probs.exp(), original[nodes].exp()[:, : log_probs.shape[1]], atol=1e-5)
        assert not original[nodes].exp()[:, log_probs.shape[1] :].any()
        part = part.index_add(0, level.paths, pick(log_probs, level.nodes, level.columns))
    part = part.view(whole.shape)
    assert torch.allclose(part[:, :2], whole[:, :2], atol=1e-5) and (part[:, 2:] == 0).all()
    assert sum(len(level.rows) for level in levels) < sum(len(level.rows) for level in groups.levels)


def test_items_that_share_a_tuple_end_at_the_last_step(make):
    model, items, trained = make(codebooks=1, codebook_size=2)
    sampler = Sampler(model.catalogue, model.members)
    groups = sampler.sample(model.reasoner, model.scorer(model.reasoner), model.encoder(items), trained, 4)
    assert len(groups.levels) == 1 and (groups.items > 0).all()
    assert torch.equal(model.catalogue.codes[groups.items], groups.tokens)
    assert torch.allclose(groups.walk.log_probs[0].exp().sum(1), torch.ones(int(trained.sum())), atol=1e-5)


def drawn_with_hopes(model, items, trained, rewarded, kept, steps, given=None):
    sampler = Sampler(model.catalogue, model.members, steps=steps)
    hopes = Hopes(model.catalogue, rewarded, kept)
    scorer, history = model.scorer(model.reasoner), model.encoder(items)
    return sampler.sample(model.reasoner, scorer, history, trained, kept.shape[1], given, hopes)


@pytest.mark.parametrize("steps", [None, 3])
def test_a_group_goes_no_further_once_none_of_its_paths_can_earn_anything(make, steps):
    model, items, trained = make()
    items, trained = items.repeat(40, 1), trained.repeat(40, 1)
    contexts, drawn, codes = int(trained.sum()), 3, model.catalogue.codes
    torch.manual_seed(6)
    rewarded = torch.randint(0, ITEMS + 1, (contexts, 2))
    rewarded[0] = 0
    kept = torch.zeros(contexts, drawn, dtype=torch.bool)
    kept[::2, 0] = True
    groups = drawn_with_hopes(model, items, trained, rewarded, kept, steps, torch.full((contexts, 1), 5))
    assert (groups.items[:, drawn] == 5).all(), "paths that were asked for"
    ended = groups.items[:, :drawn] > 0
    assert ended[kept].all() and not ended[0][~kept[0]].any()
    agree = (codes[groups.items].gather(2, groups.books) == groups.tokens).all(2)
    assert agree[:, :drawn][ended].all()
    prefixes: list[dict[int, int]] = [{} for _ in range(groups.items.numel())]
    for level in groups.levels:
        if level.books is not None:
            tokens = level.open.token(level.nodes, level.columns)
            for path, book, token in zip(level.paths, level.books[level.nodes], tokens, strict=True):
                prefixes[int(path)][int(book)] = int(token)
    stopped = 0
    for group in range(contexts):
        wanted = codes[rewarded[group][rewarded[group] > 0]]
        others = ended[group][~kept[group]]
        hopes = []
        for length in (1, 3):
            steps_taken = [list(prefixes[group * (drawn + 1) + path].items())[:length] for path in range(drawn)]
            hopes.append(any(all(row[b] == t for b, t in taken) for taken in steps_taken for row in wanted))
        if not hopes[0]:
            assert not others.any(), "given up behind the first token"
        if hopes[1]:
            assert others.all(), "never given up"
        stopped += int(not others.all())
    assert 20 < stopped < contexts - 20, "otherwise little is compared"


@pytest.mark.parametrize("steps", [None, 3])
def test_stopping_changes_nothing_about_how_often_something_is_earned(make, steps):
    model, items, trained = make()
    contexts, copies, drawn = int(trained.sum()), 700, 2
    every = torch.arange(1, ITEMS + 1).expand(contexts, -1)
    sampler = Sampler(model.catalogue, model.members, steps=steps)
    whole = sampler.sample(model.reasoner, model.scorer(model.reasoner), model.encoder(items), trained, 0, every)
    rewarded = torch.tensor([[2, 9]]).expand(contexts, -1)
    expected = whole.path_log_probs(whole.walk).exp().gather(1, rewarded - 1).sum(1)
    torch.manual_seed(8)
    groups = drawn_with_hopes(
        model,
        items.repeat(copies, 1),
        trained.repeat(copies, 1),
        rewarded.repeat(copies, 1),
        torch.zeros(contexts * copies, drawn, dtype=torch.bool),
        steps,
    )
    assert (groups.items == 0).float().mean() > 0.2
    earned = torch.isin(groups.items, torch.tensor([2, 9])).float().view(copies, contexts, drawn).mean((0, 2))
    deviation = (expected * (1 - expected) / (copies * drawn)).sqrt()
    assert ((earned - expected).abs() <= 5 * deviation + 1e-6).all()
