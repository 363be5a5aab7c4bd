"""The solver against formulas computed by other means: numpy in float64, and least squares."""

import numpy as np
import pytest
import torch

from qf.errors import ModelError
from qf.method import solve

N, D = 12, 40


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def spd(size=D, seed=9):
    """A well-conditioned symmetric positive definite matrix whose axes are not the coordinates."""
    x = normal(3 * size, size, seed=seed) * torch.linspace(0.3, 2.0, size).double()
    return x.T @ x / (3 * size)


def root_of(C):
    """The map x -> x C^-½."""
    values, axes = torch.linalg.eigh(C)
    half = axes @ torch.diag(values.rsqrt()) @ axes.T
    return lambda x: x @ half


def change(update):
    return update.B @ update.A


def apart(x, y):
    return ((x - y).norm() / y.norm()).item()


def minimiser(K, R, s, C, penalty):
    """argmin penalty ‖ΔW C^½‖² + Σ s ‖ΔW k - r‖² as one tall least-squares problem, by numpy."""
    K, R, s, C = (x.numpy() for x in (K, R, s, C))
    values, axes = np.linalg.eigh(C)
    half = axes @ np.diag(np.sqrt(values)) @ axes.T
    tall = np.vstack([np.sqrt(s)[:, None] * K, np.sqrt(penalty) * half])
    right = np.vstack([np.sqrt(s)[:, None] * R, np.zeros((C.shape[0], R.shape[1]))])
    return torch.from_numpy(np.linalg.lstsq(tall, right, rcond=None)[0].T)


def penalty_of(ridge, K, C):
    """λ is relative to the mean of k C⁻¹ kᵀ."""
    return ridge * np.mean([k @ np.linalg.solve(C.numpy(), k) for k in K.numpy()])


# Eq. 3


def case(tokens=6, dtype=torch.float32, seed=0):
    W = normal(N, D, seed=seed)
    u, v = normal(tokens, D, seed=seed + 1), normal(tokens, N, seed=seed + 2)
    u_closed = u + 0.3 * normal(tokens, D, seed=seed + 3)
    v_closed = v + 0.3 * normal(tokens, N, seed=seed + 4)
    return [x.to(dtype) for x in (W, u, v, u_closed, v_closed)]


def equation_3(W, u, v, u_closed, v_closed):
    """Eq. 3 as printed, one column per token, in numpy."""
    W, u, v, u_, v_ = (x.double().numpy() for x in (W, u.T, v.T, u_closed.T, v_closed.T))
    return torch.from_numpy(W - (W @ (u_ - u) + (v_ - v)) @ np.linalg.inv(u_.T @ u_) @ u_.T)


@pytest.mark.parametrize("tokens", [1, 6, D])
def test_paper_is_equation_3(tokens):
    given = case(tokens, torch.float64)
    assert apart(solve.paper(*given), equation_3(*given)) < 1e-9


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-7), (torch.bfloat16, 4e-3), (torch.float16, 5e-4)]
)
def test_paper_returns_the_type_of_the_weight_and_is_as_exact_as_that_allows(dtype, tolerance):
    given = case(dtype=dtype)
    changed = solve.paper(*given)
    assert changed.dtype == dtype
    assert apart(changed.double(), equation_3(*given)) < tolerance


def test_after_paper_the_closed_book_output_is_the_open_book_output():
    W, u, v, u_closed, v_closed = case(dtype=torch.float64)
    changed = solve.paper(W, u, v, u_closed, v_closed)
    assert apart(u_closed @ changed.T + v_closed, u @ W.T + v) < 1e-12


def test_paper_is_not_harmed_by_repeated_rows():
    W, *activations = case(dtype=torch.float64)
    repeated = [torch.cat([x, x[:3], x[:1]]) for x in activations]
    assert apart(solve.paper(W, *repeated), solve.paper(W, *activations)) < 1e-10


def test_paper_is_not_harmed_by_rows_that_repeat_up_to_rounding():
    W, *activations = case(dtype=torch.float64)
    noise = [1e-8 * normal(*x.shape, seed=20 + i) for i, x in enumerate(activations)]
    repeated = [torch.cat([x, x + e]) for x, e in zip(activations, noise, strict=True)]
    assert apart(solve.paper(W, *repeated), solve.paper(W, *activations)) < 1e-6


def test_joint_of_one_fact_without_ridge_and_protection_is_paper():
    W, u, v, u_closed, v_closed = case(dtype=torch.float64)
    deltas = (u @ W.T + v) - (u_closed @ W.T + v_closed)
    assert (
        apart(solve.joint(u_closed, deltas).apply(W), solve.paper(W, u, v, u_closed, v_closed))
        < 1e-12
    )


# The joint solve


@pytest.mark.parametrize("n", [5, D - 1, D, D + 1, 3 * D])
@pytest.mark.parametrize("ridge", [1e-9, 1e-4, 0.1, 3.0])
def test_joint_is_the_minimiser_of_its_sum(n, ridge):
    K, R, C = normal(n, D, seed=1), normal(n, N, seed=2), spd()
    s = normal(n, seed=3).abs() + 0.1
    expected = minimiser(K, R, s, C, penalty_of(ridge, K, C))
    found = change(solve.joint(K, R, significance=s, C=C, ridge=ridge))
    assert apart(found, expected) < 1e-7


def test_joint_without_protection_takes_the_identity():
    K, R = normal(9, D), normal(9, N)
    one = torch.eye(D, dtype=torch.float64)
    expected = minimiser(K, R, torch.ones(9), one, penalty_of(0.1, K, one))
    assert apart(change(solve.joint(K, R, ridge=0.1)), expected) < 1e-12


@pytest.mark.parametrize("n", [1, 7, D])
def test_without_ridge_the_change_is_the_smallest_exact_one(n):
    K, R = normal(n, D), normal(n, N)
    found = change(solve.joint(K, R))
    assert apart(found @ K.T, R.T) < 1e-9
    expected = torch.from_numpy(np.linalg.lstsq(K.numpy(), R.numpy(), rcond=None)[0].T)
    assert apart(found, expected) < 1e-9
    if n < D:
        outside = normal(D, seed=8)  # a change that the rows do not see makes it larger
        outside -= K.T @ torch.linalg.lstsq(K.T, outside[:, None]).solution[:, 0]
        other = found + 0.1 * torch.outer(normal(N, seed=9), outside)
        assert apart(other @ K.T, R.T) < 1e-9 and other.norm() > found.norm()


def test_without_ridge_the_change_is_the_smallest_in_the_measure_of_the_protection():
    K, R, C = normal(7, D), normal(7, N), spd()
    found = change(solve.joint(K, R, C=C))
    assert apart(found @ K.T, R.T) < 1e-10
    expected = R.T @ torch.linalg.inv(K @ torch.linalg.inv(C) @ K.T) @ K @ torch.linalg.inv(C)
    assert apart(found, expected) < 1e-9


@pytest.mark.parametrize("ridge", [0.0, 0.1])
def test_a_map_stands_for_its_matrix(ridge):
    K, R, C = normal(7, D), normal(7, N), spd()
    given = solve.joint(K, R, C=C, ridge=ridge)
    mapped = solve.joint(K, R, whiten=root_of(C), ridge=ridge)
    assert apart(change(mapped), change(given)) < 1e-9


def test_a_vanishing_ridge_comes_to_the_exact_solve():
    K, R, C = normal(7, D), normal(7, N), spd()
    exact = change(solve.joint(K, R, C=C))
    assert apart(change(solve.joint(K, R, C=C, ridge=2e-8)), exact) < 1e-6
    assert apart(change(solve.joint(K, R, C=C, ridge=1e-12)), exact) < 1e-10


def test_facts_may_come_in_any_order():
    K, R, C = normal(30, D), normal(30, N), spd()
    s = normal(30, seed=5).abs() + 0.1
    order = torch.randperm(30, generator=torch.Generator().manual_seed(1))
    for options in ({}, {"C": C, "ridge": 0.1}):
        one = solve.joint(K, R, significance=s, **options)
        other = solve.joint(K[order], R[order], significance=s[order], **options)
        assert apart(change(other), change(one)) < 1e-10
        assert apart(other.A, one.A[order]) < 1e-10


@pytest.mark.parametrize("ridge", [0.0, 0.1])
def test_significance_zero_drops_a_row_and_keeps_its_place(ridge):
    K, R = normal(8, D), normal(8, N)
    s = torch.tensor([1.0, 0.0, 2.0, 1.0, 0.0, 1.0, 0.5, 1.0])
    kept = s > 0
    with_zeros = solve.joint(K, R, significance=s, ridge=ridge)
    without = solve.joint(K[kept], R[kept], significance=s[kept], ridge=ridge)
    assert with_zeros.rank == 8
    assert torch.equal(with_zeros.A[~kept], torch.zeros(2, D))
    assert apart(change(with_zeros), change(without)) < 1e-12


def test_more_significant_rows_are_met_better():
    K, R = normal(8, D), normal(8, N)
    s = torch.ones(8)
    s[2] = 50.0
    missed = [
        (change(solve.joint(K, R, significance=w, ridge=0.3)) @ K[2] - R[2]).norm()
        for w in (torch.ones(8), s)
    ]
    assert missed[1] < 0.2 * missed[0]


def test_weights_change_nothing_when_every_row_is_met():
    K, R = normal(8, D), normal(8, N)
    s = normal(8, seed=4).abs() + 0.1
    assert apart(change(solve.joint(K, R, significance=s)), change(solve.joint(K, R))) < 1e-10


def test_no_row_changes_nothing():
    W = normal(N, D)
    for n, s in ((0, None), (3, torch.zeros(3))):
        update = solve.joint(normal(n, D), normal(n, N), significance=s, C=spd(), ridge=0.1)
        assert update.rank == n
        assert torch.equal(update.apply(W), W)


@pytest.mark.parametrize("ridge", [0.0, 1e-9, 0.1])
def test_rows_of_zeros_change_nothing(ridge):
    update = solve.joint(torch.zeros(3, D), normal(3, N), ridge=ridge)
    assert torch.equal(update.A, torch.zeros(3, D, dtype=torch.float64))


# Rows that repeat, nearly repeat and contradict


@pytest.mark.parametrize("options", [{}, {"C": spd()}])
def test_without_ridge_repeated_rows_count_once(options):
    K, R = normal(6, D), normal(6, N)
    twice = solve.joint(torch.cat([K, K[:2]]), torch.cat([R, R[:2]]), **options)
    assert apart(change(twice), change(solve.joint(K, R, **options))) < 1e-9


def test_with_ridge_a_repeated_row_is_a_row_of_twice_the_significance():
    K, R, C = normal(6, D), normal(6, N), spd()
    scale = penalty_of(1.0, K, C)  # repetition moves the mean that λ is relative to
    twice = (torch.cat([K, K[:2]]), torch.cat([R, R[:2]]))
    ridge = 0.1 * scale / penalty_of(1.0, twice[0], C)
    weight = torch.tensor([2.0, 2.0, 1.0, 1.0, 1.0, 1.0])
    one = solve.joint(*twice, C=C, ridge=ridge)
    other = solve.joint(K, R, significance=weight, C=C, ridge=0.1)
    assert apart(change(one), change(other)) < 1e-10


def test_nearly_dependent_rows_do_not_blow_the_change_up():
    K, R = normal(6, D), normal(6, N)
    noise = 1e-7 * normal(6, D, seed=3), 1e-7 * normal(6, N, seed=4)
    found = solve.joint(torch.cat([K, K + noise[0]]), torch.cat([R, R + noise[1]]))
    assert apart(change(found), change(solve.joint(K, R))) < 1e-5


def test_rows_that_differ_by_little_but_truly_are_told_apart():
    K, R = normal(2, D), normal(2, N)
    K[1] = K[0] + 1e-3 * K[1]
    assert apart(change(solve.joint(K, R)) @ K.T, R.T) < 1e-8


def test_contradictory_rows_meet_at_their_weighted_mean():
    k, R = normal(1, D), normal(2, N)
    K, s = torch.cat([k, k]), torch.tensor([1.0, 3.0])
    found = change(solve.joint(K, R, significance=s)) @ k[0]
    assert apart(found, 0.25 * R[0] + 0.75 * R[1]) < 1e-10


def test_more_rows_than_dimensions_are_weighted_least_squares():
    K, R = normal(3 * D, D), normal(3 * D, N)
    s = normal(3 * D, seed=4).abs() + 0.1
    root = s.sqrt()[:, None]
    expected = np.linalg.lstsq((root * K).numpy(), (root * R).numpy(), rcond=None)[0].T
    found = change(solve.joint(K, R, significance=s))
    assert apart(found, torch.from_numpy(expected)) < 1e-10


# Update


def test_the_parts_of_all_facts_add_up_to_the_joint_change():
    K, R = normal(9, D), normal(9, N)
    update = solve.joint(K, R, C=spd(), ridge=0.1)
    assert torch.equal(update.B, R.T)
    facts = [slice(0, 2), slice(2, 7), slice(7, 9)]
    total = sum(update.B[:, rows] @ update.A[rows] for rows in facts)
    assert apart(total, change(update)) < 1e-14


@pytest.mark.parametrize("block", [1, 3 * D + 5, 10**9])
def test_apply_and_project_work_the_same_in_any_block_size(block, monkeypatch):
    monkeypatch.setattr(solve, "BLOCK", block)
    W, u = normal(N, D).float(), normal(4, D).float()
    update = solve.joint(u, normal(4, N))
    expected = (W.double() + change(update)).float()
    assert torch.allclose(update.apply(W), expected, rtol=1e-6, atol=1e-7)
    assert apart(solve.project(W, u), u.double() @ W.double().T) < 1e-14
    assert torch.equal(solve.cholesky(spd()), torch.linalg.cholesky(spd()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_apply_rounds_once_at_the_end(dtype):
    W = normal(N, D).to(dtype)
    update = solve.joint(normal(6, D), normal(6, N))
    assert torch.equal(update.apply(W), (W.double() + change(update)).to(dtype))


def test_inputs_stay_as_they_are():
    given = [*case(), normal(6, D).float(), normal(6, N).float(), torch.ones(6), spd()]
    before = [x.clone() for x in given]
    W, u, v, u_closed, v_closed, K, R, s, C = given
    solve.paper(W, u, v, u_closed, v_closed)
    solve.joint(K, R, significance=s, C=C, ridge=0.1).apply(W)
    solve.joint(K, R, significance=s, whiten=root_of(C)).apply(W)
    assert all(torch.equal(x, y) for x, y in zip(given, before, strict=True))


def asymmetric():
    C = spd()
    C[1, 3] += 0.01  # above the diagonal, where a Cholesky factor does not look
    return C


def indefinite():
    C = spd()
    return C - 2 * torch.linalg.eigvalsh(C)[0] * torch.eye(D)


def not_finite():
    C = spd()
    C[2, 2] = torch.nan
    return C


def singular():
    return torch.zeros(D, D)


@pytest.mark.parametrize("make", [asymmetric, indefinite, not_finite, singular])
def test_a_protection_that_is_not_symmetric_positive_definite_is_refused(make):
    with pytest.raises(ModelError, match="not symmetric positive definite"):
        solve.joint(normal(3, D), normal(3, N), C=make(), ridge=0.1)
