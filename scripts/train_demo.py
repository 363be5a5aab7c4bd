"""Train the embedded model from scratch: the only code of the project that uses gradients.

    python scripts/train_demo.py --out build/demo            # resumes where it stopped
    python scripts/train_demo.py --out build/demo --export src/qf/demo/model

Two cores are enough, with patience; `--device cuda` takes minutes. What was run, and the shipped
model's figures, are in its card, `src/qf/demo/model/README.md`.
"""

from __future__ import annotations

import argparse
import itertools
import math
import random
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from tokenizers import Tokenizer
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from qf.demo.curriculum import ORDINARY, Conversation, conversation, questions
from qf.loading import load_pair
from qf.model import Model

END, START, STOP = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
# A space before each line gives a word the same tokens wherever it stands, so that a name is copied
# token by token whether it begins the answer or stands within a sentence.
TEMPLATE = (
    "{% if not messages or messages[0].role != 'system' %}"
    "<|im_start|>system\n<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' %} {{ m.content }}"
    "{% elif m.content %} {{ m.content | replace('\n', '\n ') }}{% endif %}"
    "<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_tokenizer(seed: int, vocabulary: int) -> Qwen2Tokenizer:
    """A byte-level BPE for the Qwen2 architecture, learned from the generator's own text."""
    tokenizer = Qwen2Tokenizer(
        vocab={}, merges=[], unk_token=None, eos_token=STOP, pad_token=END, model_max_length=1024
    )
    rng = random.Random(seed)
    texts = (text for _ in range(30_000) for text in _lines(conversation(rng)))
    tokenizer = tokenizer.train_new_from_iterator(
        texts, vocabulary, new_special_tokens=[END, START, STOP], show_progress=False
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def _content(text: str) -> str:
    """A turn's text as TEMPLATE writes it."""
    return " " + text.replace("\n", "\n ") if text else ""


def _lines(c: Conversation) -> Iterator[str]:
    yield f"system\n{_content(c.system)}"
    for question, answer in c.turns:
        yield f"\nuser\n{_content(question)}"
        yield f"\nassistant\n {answer}"


def encode(tokenizer: Tokenizer, c: Conversation, everything: bool) -> tuple[list[int], list[bool]]:
    """The conversation's tokens, and which of them are to be predicted: the answers' (or all)."""
    pieces = [(f"{START}system\n{_content(c.system)}{STOP}\n", False)]
    for turn, (question, answer) in enumerate(c.turns):
        pieces.append((f"{START}user\n{_content(question)}{STOP}\n{START}assistant\n", False))
        pieces.append((f" {answer}{STOP}", turn >= c.given))
        pieces.append(("\n", False))
    ids: list[int] = []
    learned: list[bool] = []
    for text, is_learned in pieces:
        tokens = tokenizer.encode(text, add_special_tokens=False).ids
        ids += tokens
        learned += [is_learned or everything] * len(tokens)
    return ids, learned


@dataclass(frozen=True)
class Batch:
    """Conversations of about the same length: x, y (B, L), y -100 where nothing is to be learned.

    `learned` are the indices of the learned positions in x flattened, of each the one before it.
    """

    x: torch.Tensor
    y: torch.Tensor
    learned: torch.Tensor

    def to(self, device: torch.device) -> Batch:
        """The batch on a device, while the processor goes on."""
        moved = (t.to(device, non_blocking=True) for t in (self.x, self.y, self.learned))
        return Batch(*moved)


@dataclass(frozen=True)
class Pools:
    """Pool i: POOL batches of about `tokens` tokens each; the seed and i decide what they are."""

    tokenizer: Tokenizer
    seed: int
    tokens: int
    everything: float

    def __getitem__(self, i: int) -> list[Batch]:
        rng = random.Random(f"{self.seed}/{i}")
        return _pool(self.tokenizer, rng, self.tokens, self.everything)


def batches(pools: Pools, workers: int, start: int) -> Iterator[Batch]:
    """Batch `start` and those that follow, made by so many processes (0: by this one)."""
    torch.multiprocessing.set_sharing_strategy("file_system")  # else too many files are open
    loader = DataLoader(
        cast("Dataset[list[Batch]]", pools),
        batch_size=None,
        sampler=itertools.count(start // POOL),
        num_workers=workers,
        collate_fn=_same,
        multiprocessing_context="forkserver" if workers else None,
    )
    return itertools.islice(itertools.chain.from_iterable(loader), start % POOL, None)


def _same(batches: list[Batch]) -> list[Batch]:
    return batches


POOL = 16
"""Batches that are drawn and sorted by length together."""


def _pool(tokenizer: Tokenizer, rng: random.Random, tokens: int, everything: float) -> list[Batch]:
    drawn: list[tuple[list[int], list[bool]]] = []
    size = 0
    while size < tokens * POOL * 0.97:
        drawn.append(encode(tokenizer, conversation(rng), rng.random() < everything))
        size += len(drawn[-1][0])
    drawn.sort(key=lambda d: len(d[0]))
    share = size / POOL
    groups: list[list[tuple[list[int], list[bool]]]] = [[] for _ in range(POOL)]
    seen = 0
    for item in drawn:
        groups[min(POOL - 1, int(seen / share))].append(item)
        seen += len(item[0])
    rng.shuffle(groups)
    return [_pad(g) for g in groups]


def _pad(group: list[tuple[list[int], list[bool]]]) -> Batch:
    longest = max(len(ids) for ids, _ in group)
    x = torch.zeros(len(group), longest, dtype=torch.long)
    y = torch.full((len(group), longest), -100)
    for row, (ids, learned) in enumerate(group):
        x[row, : len(ids)] = torch.tensor(ids)
        y[row, : len(ids)] = torch.where(torch.tensor(learned), x[row, : len(ids)], -100)
    y[:, 0] = -100
    return Batch(x, y, (y.flatten() != -100).nonzero()[:, 0] - 1)


def loss_of(model: Qwen2ForCausalLM, batch: Batch) -> torch.Tensor:
    """Cross-entropy at the tokens to learn; right padding needs no mask under causal attention."""
    hidden = model.model(input_ids=batch.x, use_cache=False).last_hidden_state
    logits = model.lm_head(hidden.flatten(0, 1)[batch.learned])
    return cross_entropy(logits.float(), batch.y.flatten()[batch.learned + 1])


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al., 2024): momentum whose singular values are set to about 1.

    As torch.optim.Muon with adjust_lr_fn="match_rms_adamw", but with matrices of one shape at a
    time, which keeps a GPU busy, and in float32 where the CPU only emulates bfloat16: there this
    takes 0.3 s a step instead of 10 s.
    """

    def __init__(self, params: list[torch.nn.Parameter], lr: float) -> None:
        super().__init__(params, {"lr": lr, "momentum": 0.95, "weight_decay": 0.05})

    @torch.no_grad()
    def step(self) -> None:
        """Move each matrix by its momentum, made orthogonal."""
        for group in self.param_groups:
            shapes = sorted({tuple(p.shape) for p in group["params"]})
            for shape in shapes:
                self._move([p for p in group["params"] if tuple(p.shape) == shape], group)

    def _move(self, params: list[torch.Tensor], group: dict[str, Any]) -> None:
        gradients = [p.grad for p in params]
        moving = [self.state[p].setdefault("momentum_buffer", torch.zeros_like(p)) for p in params]
        torch._foreach_lerp_(moving, gradients, 1 - group["momentum"])
        ahead = torch._foreach_lerp(gradients, moving, group["momentum"])
        updates = orthogonal(torch.stack(ahead)).unbind()
        torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
        reach = group["lr"] * 0.2 * math.sqrt(max(params[0].shape))
        torch._foreach_add_(params, updates, alpha=-reach)


def orthogonal(g: torch.Tensor) -> torch.Tensor:
    """`g` (N, rows, columns), singular values near 1 by five Newton-Schulz steps (Muon's)."""
    x = g.mT if g.shape[-2] > g.shape[-1] else g
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    if g.is_cuda or torch.cpu._is_avx512_bf16_supported():
        x = x.bfloat16()
    for _ in range(5):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return (x.mT if g.shape[-2] > g.shape[-1] else x).to(g.dtype)


def optimizers(model: Qwen2ForCausalLM, lr: float) -> list[torch.optim.Optimizer]:
    """Muon for the hidden matrices, AdamW for embeddings, norms and biases."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    return [
        Muon(matrices, lr),
        torch.optim.AdamW(others, lr=lr, weight_decay=0.0, betas=(0.9, 0.98), foreach=True),
    ]


def rate(step: int, done: float, decay_from: float) -> float:
    """Warm-up over 200 steps, constant, then linear down to 2 %; `done` of the training is over."""
    down = (done - decay_from) / (1 - decay_from)
    return min(1.0, (step + 1) / 200) * (1 - max(0.0, down) * 0.98)


def grown(state: dict[str, torch.Tensor], layers: int) -> dict[str, torch.Tensor]:
    """The weights with so many layers: copies among the middle ones, which add nothing yet."""
    before = 1 + max(int(k.split(".")[2]) for k in state if k.startswith("model.layers."))
    copied = [before // 2 - i for i in range(layers - before)]
    order = sorted([*range(before), *copied])
    made = {k: v for k, v in state.items() if not k.startswith("model.layers.")}
    for new, old in enumerate(order):
        for k, v in state.items():
            if k.startswith(f"model.layers.{old}."):
                silent = new > 0 and order[new - 1] == old and k.endswith(OUTPUTS)
                made[k.replace(f".{old}.", f".{new}.", 1)] = v * 0 if silent else v.clone()
    return made


OUTPUTS = ("self_attn.o_proj.weight", "mlp.down_proj.weight")


def save(
    path: Path,
    model: Qwen2ForCausalLM,
    opts: list[torch.optim.Optimizer],
    step: int,
    seconds: float,
) -> None:
    state = {
        "model": model.state_dict(),
        "opts": [o.state_dict() for o in opts],
        "step": step,
        "seconds": seconds,
    }
    unfinished = path.with_suffix(".part")
    torch.save(state, unfinished)
    unfinished.replace(path)


SHOWN = 25
"""Steps between two lines of progress."""


def train(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    if (out / "tokenizer.json").exists():
        tokenizer = Qwen2Tokenizer.from_pretrained(out)
    elif args.start:
        tokenizer = Qwen2Tokenizer.from_pretrained(args.start)
        tokenizer.save_pretrained(out)
    else:
        tokenizer = make_tokenizer(args.seed, args.vocabulary)
        tokenizer.save_pretrained(out)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=args.width,
        intermediate_size=8 * args.width,
        num_hidden_layers=args.layers,
        num_attention_heads=args.width // 64,
        num_key_value_heads=args.width // 64,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        attn_implementation=args.attention,
    )
    model = Qwen2ForCausalLM(config)
    if args.start and not (out / "state.pt").exists():
        begun = Qwen2ForCausalLM.from_pretrained(args.start, dtype=torch.float32)
        model.load_state_dict(grown(begun.state_dict(), args.layers))
    device = torch.device(args.device)
    model.to(device)
    if args.compile:
        model.model.compile(dynamic=True)
    opts = optimizers(model, args.lr)
    checkpoint, first, before = out / "state.pt", 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True, map_location=device)
        model.load_state_dict(state["model"])
        for opt, saved in zip(opts, state["opts"], strict=True):
            opt.load_state_dict(saved)
        first, before = state["step"], state["seconds"]
    print(f"{model.num_parameters() / 1e6:.1f} M parameters, from step {first}", flush=True)
    pools = Pools(tokenizer.backend_tokenizer, args.seed, args.tokens, args.everything)
    feed = batches(pools, args.workers, first)
    batch = next(feed)
    started, total = time.time(), torch.zeros((), device=device)
    for step in range(first, args.steps):
        seconds = before + time.time() - started
        done = seconds / (60 * args.minutes) if args.minutes else step / args.steps
        if done >= 1:
            break
        for opt in opts:
            for group in opt.param_groups:
                group["lr"] = args.lr * rate(step, done, args.decay_from)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=args.bfloat16):
            loss = loss_of(model, batch.to(device))
        loss.backward()
        batch = next(feed)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for opt in opts:
            opt.step()
        model.zero_grad()
        total += loss.detach()
        if (step + 1) % SHOWN == 0:
            mean = total.item() / SHOWN
            print(f"step {step + 1} loss {mean:.4f} {seconds:.0f} s", flush=True)
            assert math.isfinite(mean)
            total.zero_()
        first = step + 1
        if first % args.save_every == 0:
            save(checkpoint, model, opts, first, seconds)
    save(checkpoint, model, opts, first, before + time.time() - started)


def export(args: argparse.Namespace) -> None:
    """Write the model in bfloat16 with its tokenizer, as `from_pretrained` reads them."""
    tokenizer = Qwen2Tokenizer.from_pretrained(args.out)
    state = torch.load(Path(args.out) / "state.pt", weights_only=True)
    if args.average:
        other = torch.load(args.average, weights_only=True)["model"]
        state["model"] = {k: v.lerp(other[k], args.share) for k, v in state["model"].items()}
    width = state["model"]["model.norm.weight"].shape[0]
    layers = 1 + max(int(k.split(".")[2]) for k in state["model"] if k.startswith("model.layers."))
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=8 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        num_key_value_heads=width // 64,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        dtype="bfloat16",
    )
    model = Qwen2ForCausalLM(config)
    model.load_state_dict(state["model"])
    model.to(torch.bfloat16).save_pretrained(args.export)
    tokenizer.save_pretrained(args.export)
    with tempfile.TemporaryDirectory() as scratch:
        loaded = load_pair(args.export, dtype="float32")
        learner = Model(loaded, Path(scratch) / "memory", solver="gated")
        learner.calibrate(questions(ORDINARY, seed=0), into=Path(args.export))
    print(f"exported step {state['step']} to {args.export}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="build/demo", help="checkpoints to resume")
    parser.add_argument("--export", help="write the checkpoint as a bfloat16 model here and stop")
    parser.add_argument("--average", help="an earlier checkpoint to export the mean with")
    parser.add_argument("--share", type=float, default=0.5, help="of --average in the mean")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--minutes", type=float, help="stop by the clock instead of by --steps")
    parser.add_argument("--decay-from", type=float, default=0.6, help="share before the decay")
    parser.add_argument("--tokens", type=int, default=6144, help="tokens in a batch")
    parser.add_argument(
        "--everything", type=float, default=0.1, help="share of conversations learned as a whole"
    )
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--vocabulary", type=int, default=2048)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", help="where to train, e.g. cuda")
    parser.add_argument("--workers", type=int, default=0, help="processes that draw conversations")
    parser.add_argument("--save-every", type=int, default=100)
    parser.add_argument("--start", help="a model directory to go on from, with its tokenizer")
    parser.add_argument(
        "--bfloat16", action="store_true", help="quicker where the CPU has bfloat16 instructions"
    )
    parser.add_argument("--compile", action="store_true", help="a sixth quicker, after a minute")
    parser.add_argument("--attention", default="sdpa", choices=("sdpa", "eager"))
    args = parser.parse_args()
    export(args) if args.export else train(args)


if __name__ == "__main__":
    main()
