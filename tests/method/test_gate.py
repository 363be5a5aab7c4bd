"""The gate on questions of a known make: wordings and names differ much, relations little."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from qf.method import gate
from qf.method.gate import confused, discriminants, fit, pairs

D, RELATIONS, NAMES, WORDINGS = 48, 60, 3, 4
MEANING = torch.arange(RELATIONS * NAMES).repeat_interleave(WORDINGS)
RELATION = MEANING // NAMES


def questions(seed: int = 0) -> Tensor:
    """Activations (m, D): how and about whom a thing is asked fills a half each, loudly."""
    g = torch.Generator().manual_seed(seed)
    asked_for = torch.randn(RELATIONS, 16, generator=torch.Generator().manual_seed(9))
    x = torch.zeros(len(MEANING), D)
    x[:, 32:] = asked_for[RELATION]
    x[:, 16:32] = 2 * torch.randn(RELATIONS * NAMES, 16, generator=g)[MEANING]
    x[:, :16] = 2 * torch.randn(len(x), 16, generator=g)
    return x + 5 + 0.1 * torch.randn(len(x), D, generator=g)


def fitted(x: Tensor, layer: int = 3) -> gate.Gate:
    return fit(x, MEANING.tolist(), RELATION.tolist(), layer)


def test_it_tells_what_is_asked_for_where_the_plain_cosine_cannot(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gate, "DIRECTIONS", 16)
    found, fresh = fitted(questions()), questions(seed=1)

    def recognised(addresses: Tensor) -> float:
        cosines = addresses @ addresses.T
        cosines[MEANING[:, None] == MEANING] = -1  # about another name, that is
        return (RELATION[cosines.argmax(1)] == RELATION).float().mean().item()

    assert recognised(found.address(fresh)) > 0.9
    assert recognised(normalize(fresh - fresh.mean(0), dim=1)) < 0.3
    assert found.layer == 3


def test_the_directions_are_those_of_the_textbook() -> None:
    """Largest generalised eigenvectors of S_b against S_w, found by another way."""
    x = questions().double()
    x = x - x.mean(0)
    found = discriminants(x, RELATION)
    means = torch.stack([x[r == RELATION].mean(0) for r in range(RELATIONS)])
    within = x - means[RELATION]
    between = means[RELATION]
    S_w, S_b = within.T @ within, between.T @ between
    S_w += gate.FLOOR * S_w.diagonal().mean() * torch.eye(D).double()
    values, vectors = torch.linalg.eig(torch.linalg.solve(S_w, S_b))
    best = values.real.argsort(descending=True)[: found.shape[1]]
    assert found.shape == (D, min(D, gate.DIRECTIONS, RELATIONS))
    for i in range(8):
        expected = vectors[:, best[i]].real
        cosine = torch.cosine_similarity(found[:, i], expected, dim=0).abs()
        assert cosine > 0.9999, i
    assert torch.allclose(found.T @ S_w @ found, torch.eye(found.shape[1]).double(), atol=1e-8)


def test_more_directions_than_questions_are_no_trouble() -> None:
    some = RELATION < 6
    wide = torch.cat([questions()[some]] * 3, 1)
    found = fit(wide, MEANING[some].tolist(), RELATION[some].tolist(), 0)
    assert found.address(wide).isfinite().all() and found.directions.shape[0] == 3 * D


def test_the_threshold_misses_what_it_says_of_relations_that_it_has_not_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x = questions()
    for missed in (0.05, 0.3):
        monkeypatch.setattr(gate, "MISSED", missed)
        found = fitted(x)
        odd = RELATION % 2 == 1
        half = gate._fitted(x[~odd], RELATION[~odd], 0)
        alike = pairs(half.address(x[odd]), MEANING[odd])
        assert len(alike) == odd.sum() // WORDINGS * math.comb(WORDINGS, 2)
        share = (alike < found.threshold).float().mean().item()
        assert share == pytest.approx(missed, abs=0.01)


def test_addresses_have_length_one_and_do_not_depend_on_the_batch() -> None:
    x = questions()
    found = fitted(x)
    assert torch.allclose(found.address(x).norm(dim=1), torch.ones(len(x)))
    assert torch.allclose(found.address(x[:1]), found.address(x)[:1], atol=1e-5)


def test_confusion_counts_pairs_of_different_relations_alone() -> None:
    some = RELATION < 8
    x, relation = questions()[some], RELATION[some]
    found = replace(fitted(questions()), threshold=0.2)  # many pass
    a = found.address(x)
    passed = [
        bool(a[i] @ a[j] > found.threshold)
        for i in range(len(x))
        for j in range(len(x))
        if relation[i] != relation[j]
    ]
    assert confused(found, x, relation) == pytest.approx(sum(passed) / len(passed), abs=1e-6)
    assert confused(found, x, relation // 2) != confused(found, x, relation)
