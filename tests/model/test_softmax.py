"""The piecewise cross-entropy is torch's own, value and gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from recbole_reg4rec.model.softmax import catalogue_cross_entropy, products


def _case(rows: int = 7, items: int = 11, width: int = 5, seed: int = 3):
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(rows, width, generator=generator, requires_grad=True)
    targets = torch.randint(1, items, (rows,), generator=generator)
    table = torch.randn(items, width, generator=generator, requires_grad=True)
    rows = torch.randint(0, rows, (9,), generator=generator).sort().values
    columns = torch.randint(0, items, (9,), generator=generator)
    values = torch.randn(9, generator=generator, requires_grad=True)
    return states, table, (rows, columns, values), targets


def _dense(states, table, extra):
    logits = states @ table.T
    if extra is not None:
        rows, columns, values = extra
        logits = logits.index_put((rows, columns), values.to(logits.dtype), accumulate=True)
    return logits


def _reference(states, table, extra, targets):
    logits = _dense(states, table, extra)
    return F.cross_entropy(logits.index_fill(1, torch.tensor([0]), float("-inf")), targets)


@pytest.mark.parametrize("buffer", [1, 11, 25, 33, 10_000])
@pytest.mark.parametrize("with_extra", [True, False])
def test_value_and_gradients_equal_torch(buffer, with_extra):
    states, table, extra, targets = _case()
    added = extra if with_extra else None
    inputs = [states, table, extra[2]] if with_extra else [states, table]
    expected = _reference(states, table, added, targets)
    found = catalogue_cross_entropy(states, table, targets, added, buffer=buffer)
    assert torch.allclose(found, expected, atol=1e-6)
    wanted = torch.autograd.grad(3.0 * expected, inputs)
    given = torch.autograd.grad(3.0 * found, inputs)
    for one, other in zip(wanted, given, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_gradients_by_finite_differences():
    states, table, extra, targets = _case(3, 4, 2)
    states, table = states.double(), table.double()
    step = 1e-3
    grad = torch.autograd.grad(catalogue_cross_entropy(states, table, targets, extra), table)[0].detach()
    for place in [(1, 0), (3, 1)]:
        moved = table.detach().clone()
        moved[place] += step
        up = _reference(states, moved, extra, targets)
        moved[place] -= 2 * step
        down = _reference(states, moved, extra, targets)
        assert float(grad[place]) == pytest.approx(float((up - down).detach() / (2 * step)), abs=1e-4)


def test_large_logits_do_not_overflow():
    states, table = torch.full((2, 1), 1e4), torch.tensor([[9.0], [1.0], [-1.0]])
    loss = catalogue_cross_entropy(states, table, torch.tensor([1, 2]))
    assert float(loss) == pytest.approx(1e4)


def test_the_padding_item_gets_no_probability_and_no_gradient():
    states, table, extra, targets = _case()
    grad = torch.autograd.grad(catalogue_cross_entropy(states, table, targets, extra), [table, extra[2]])
    assert not grad[0][0].any() and not grad[1][extra[1] == 0].any()
    states, large = states.detach(), table.detach().clone()
    large[0] = 1e3
    without = catalogue_cross_entropy(states, table.detach(), targets)
    assert float(catalogue_cross_entropy(states, large, targets)) == float(without)


def test_padding_takes_part_where_it_is_asked_to():
    states, table, extra, targets = _case()
    expected = F.cross_entropy(_dense(states, table, extra), targets)
    assert torch.allclose(catalogue_cross_entropy(states, table, targets, extra, padding=True), expected, atol=1e-6)


def test_without_gradients_only_the_value_is_computed():
    states, table, _, targets = (x if isinstance(x, tuple) else x.detach() for x in _case())
    assert not catalogue_cross_entropy(states, table, targets).requires_grad
    assert torch.allclose(catalogue_cross_entropy(states, table, targets), _reference(states, table, None, targets))


def test_half_precision_inputs_get_gradients_of_their_type():
    states, table, extra, targets = _case()
    half = states.detach().bfloat16().requires_grad_()
    grad = torch.autograd.grad(catalogue_cross_entropy(half, table, targets), [half, table])
    assert grad[0].dtype == torch.bfloat16 and grad[1].dtype == torch.float32


@pytest.mark.parametrize("size", [1, 4095, 4096, 4097, 9000])
def test_products_piece_by_piece_are_those_at_once_and_have_a_gradient_where_one_is_wanted(size):
    generator = torch.Generator().manual_seed(size)
    left, right = torch.randn(5, 7, generator=generator), torch.randn(size, 7, generator=generator, requires_grad=True)
    with torch.no_grad():
        assert torch.allclose(products(left, right), left @ right.T, atol=1e-6)
    products(left, right).sum().backward()
    assert torch.allclose(right.grad, left.sum(0).expand_as(right))
