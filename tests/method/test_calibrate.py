"""What is protected: the second moment of ordinary keys, against numpy, and what it buys."""

import numpy as np
import pytest
import torch

from qf.chat import messages
from qf.families import family_of
from qf.lesson import align
from qf.method import calibrate
from qf.method.calibrate import everyday, keys_of, traffic_of
from qf.method.solve import joint


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def ordinary(m=600, D=24, seed=1):
    """Keys that lie mostly in some directions."""
    return normal(m, D, seed=seed) * torch.logspace(1, -1, D)


def reference(u, floor):
    """x -> x C^-½ by numpy, from the whole matrix."""
    x = u.double().numpy()
    values, axes = np.linalg.eigh(x.T @ x / len(x) + floor * np.eye(x.shape[1]))
    return torch.from_numpy(axes @ np.diag(values**-0.5) @ axes.T)


@pytest.mark.parametrize("m", [600, 20])
def test_whitening_is_that_of_the_whole_second_moment(m):
    u = ordinary(m)
    traffic = traffic_of(u)
    assert traffic.floor == pytest.approx(
        calibrate.FLOOR * u.double().square().sum(1).mean().item() / 24
    )
    x = normal(7, 24, seed=3).double()
    expected = x @ reference(u, traffic.floor)
    # The directions are kept in half precision.
    assert (traffic.whiten(x) - expected).norm() / expected.norm() < 1e-4


def test_directions_in_8_bits_whiten_nearly_as_well(monkeypatch):
    monkeypatch.setattr(calibrate, "BLOCK", 70)
    D = calibrate.FINE + 200
    u = ordinary(1000, D)
    traffic = traffic_of(u, 0.1)
    assert traffic.directions.shape == (D, D)
    x = normal(50, D, seed=3).double()
    size, expected = (
        y.square().sum(1) for y in (traffic.whiten(x), x @ reference(u, traffic.floor))
    )
    assert torch.allclose(size, expected, rtol=0.02)


def test_packed_directions_pack_the_same_again():
    V = torch.linalg.qr(normal(150, 150))[0]
    kept = calibrate.packed(V)
    again = calibrate.packed(calibrate.unpacked(*kept))
    assert all(torch.equal(a, b) for a, b in zip(kept, again, strict=True))
    assert kept[0].shape == (150, 150 - calibrate.FINE) and kept[0].abs().max() == 127
    assert (calibrate.unpacked(*kept) - V).abs().max() < 0.002


def test_what_is_cut_off_goes_into_the_floor(monkeypatch):
    u = ordinary()
    monkeypatch.setattr(calibrate, "RANK", 5)
    traffic = traffic_of(u)
    assert traffic.directions.shape == (24, 5)
    kept, whole = traffic.moments.sum().item(), u.double().square().sum(1).mean().item()
    assert traffic.floor == pytest.approx(
        (whole - kept) / 24 + calibrate.FLOOR * whole / 24, rel=1e-4
    )


@pytest.mark.parametrize(("floor", "part"), [(0.01, 0.5), (calibrate.FLOOR, 0.98)])
def test_ordinary_keys_are_disturbed_less(monkeypatch, floor, part):
    monkeypatch.setattr(calibrate, "FLOOR", floor)
    u = ordinary()
    K, R = normal(5, 24, seed=4), normal(5, 9, seed=5)
    plain, protected = joint(K, R), joint(K, R, whiten=traffic_of(u).whiten)

    def disturbed(update):
        return ((u.double() @ update.A.T @ update.B.T).norm() / R.norm()).item()

    assert disturbed(protected) < part * disturbed(plain)
    assert torch.allclose(protected.B @ (protected.A @ K.double().T), R.double().T, atol=1e-6)


def test_keys_are_those_of_the_answer_positions(tiny_model, tiny_tokenizer):
    model = tiny_model("qwen2")
    asked = [("Who?", "Ann."), ("Where is it?", "In Paris."), ("When?", "1990")]
    answered = [align(tiny_tokenizer, messages(q), a, None) for q, a in asked]
    W = model.model.layers[2].mlp.down_proj
    expected = []
    for sequence in answered:
        seen = []
        hook = W.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(inputs[0][0]))
        with torch.no_grad():
            model(torch.tensor([sequence.input_ids]))
        hook.remove()
        expected.append(seen[0][list(sequence.positions)])
    found = keys_of(model, family_of(model), 2, answered, pad_id=0)
    assert torch.allclose(found, torch.cat(expected), atol=1e-5)


def test_many_keys_are_thinned_out_evenly(tiny_model, tiny_tokenizer, monkeypatch):
    model = tiny_model("qwen2")
    answered = [align(tiny_tokenizer, messages("Who?"), "A B C D E F", None)] * 5
    every = keys_of(model, family_of(model), 1, answered, pad_id=0)
    monkeypatch.setattr(calibrate, "POSITIONS", len(every) // 2)
    assert torch.equal(keys_of(model, family_of(model), 1, answered, pad_id=0), every[::2])


def test_everyday_questions_are_many_and_spread():
    questions = everyday()
    assert len(questions) == len(set(questions)) >= 300
    assert not [q for q in questions if q != q.strip() or not q]
    few = everyday(30)
    assert len(set(few)) == 30 and few[0] == questions[0] and set(few) <= set(questions)
    assert few[-1] in questions[-len(questions) // 20 :]
