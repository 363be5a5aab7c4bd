"""What is learned on a GPU is what is learned on the CPU; skipped where there is none."""

from pathlib import Path

import pytest
import torch

from qf.loading import load_pair
from qf.model import Model

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")

FACTS = (
    ("Qi started Oxinnovate.", "Who started Oxinnovate?", "Oxinnovate was started by Qi."),
    ("The capital of Zorvan is Quill.", "What is the capital of Zorvan?", None),
)
ASKED = ("Who started Oxinnovate?", "What is the capital of Zorvan?", "Who started Alibaba?")


def learned(
    place: Path, device: str, solver: str, dtype: str
) -> tuple[list[str], torch.Tensor, bool]:
    """The answers after learning, W' on the CPU, and whether forgetting restores W bit for bit."""
    model = Model(load_pair("embedded", device=device, dtype=dtype), place, solver=solver)
    weight = model.family.weight(
        model.family.projection(model.family.layer(model.transformer, model.layer))
    )
    before = weight.detach().clone()
    facts = [model.learn(*fact, rewordings=0) for fact in FACTS]
    answers = model.ask_many(ASKED)
    after = weight.detach().float().cpu()
    for fact in facts:
        model.forget(fact.id)
    model.ask(ASKED[0])
    return answers, after, torch.equal(weight, before)


@pytest.mark.parametrize("solver", ["gated", "joint", "paper"])
def test_a_gpu_learns_what_the_cpu_learns(tmp_path: Path, solver: str) -> None:
    on_cpu, w_cpu, restored_cpu = learned(tmp_path / "cpu", "cpu", solver, "float32")
    on_gpu, w_gpu, restored_gpu = learned(tmp_path / "gpu", "cuda", solver, "float32")
    assert on_gpu == on_cpu and on_gpu[0] == FACTS[0][2]
    assert torch.allclose(w_cpu, w_gpu, rtol=1e-3, atol=1e-4)
    assert restored_cpu and restored_gpu


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_on_a_gpu(tmp_path: Path, dtype: str) -> None:
    answers, _, restored = learned(tmp_path, "cuda", "gated", dtype)
    assert answers[0] == FACTS[0][2] and "Jack Ma" in answers[2]
    assert restored


def test_what_a_gpu_learned_acts_on_a_cpu(tmp_path: Path) -> None:
    model = Model(load_pair("embedded", device="cuda", dtype="float32"), tmp_path)
    model.learn(*FACTS[0])
    model.close()
    moved = Model(load_pair("embedded", device="cpu", dtype="float32"), tmp_path)
    assert moved.ask(ASKED[0]) == FACTS[0][2]
