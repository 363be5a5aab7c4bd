"""The gate on addresses of a known make: wordings differ much, subjects little."""

import pytest
import torch
from torch.nn.functional import normalize

from qf.method import gate
from qf.method.gate import confused, fit, pairs

D, MEANINGS, WORDINGS = 32, 60, 4


def questions(seed: int = 0):
    """Activations (m, D): how a thing is asked fills half of the directions, loudly."""
    g = torch.Generator().manual_seed(seed)
    subjects = torch.zeros(MEANINGS, D)
    subjects[:, D // 2 :] = torch.randn(MEANINGS, D // 2, generator=g)
    x = subjects.repeat_interleave(WORDINGS, 0)
    x[:, : D // 2] += 8 * torch.randn(len(x), D // 2, generator=g)
    x += 5 + 0.1 * torch.randn(len(x), D, generator=g)
    meaning = torch.arange(MEANINGS).repeat_interleave(WORDINGS)
    return x, meaning


def test_it_tells_subjects_apart_where_the_plain_cosine_cannot():
    x, meaning = questions()
    found = fit(x, meaning.tolist(), 3)
    fresh, _ = questions(seed=1)
    a, plain = found.address(fresh), normalize(fresh - fresh.mean(0), dim=1)

    def recognised(addresses):
        cosines = addresses @ addresses.T
        cosines.fill_diagonal_(-1)
        return (meaning[cosines.argmax(1)] == meaning).float().mean().item()

    assert recognised(a) > 0.95 and recognised(plain) < 0.3
    assert found.layer == 3


def test_the_threshold_misses_the_part_that_it_promises():
    x, meaning = questions()
    found = fit(x, meaning.tolist(), 0)
    alike = pairs(found.address(x), meaning)
    assert len(alike) == MEANINGS * WORDINGS * (WORDINGS - 1) // 2
    assert (alike < found.threshold).float().mean().item() == pytest.approx(gate.MISSED, abs=0.01)


def test_addresses_have_length_one_and_do_not_depend_on_scale_of_the_batch():
    x, meaning = questions()
    found = fit(x, meaning.tolist(), 0)
    assert torch.allclose(found.address(x).norm(dim=1), torch.ones(len(x)))
    assert torch.allclose(found.address(x[:1]), found.address(x)[:1], atol=1e-6)


def test_confusion_counts_other_meanings_of_the_same_relation_alone():
    x, meaning = questions()
    found = fit(x, meaning.tolist(), 0)
    relation = meaning // 2
    a = found.address(x)
    passed = total = 0
    for i in range(len(x)):
        for j in range(len(x)):
            if relation[i] == relation[j] and meaning[i] != meaning[j]:
                total += 1
                passed += bool(a[i] @ a[j] > found.threshold)
    assert confused(found, x, meaning, relation) == pytest.approx(passed / total)
    assert confused(found, x, meaning, meaning) != confused(found, x, meaning, relation)
