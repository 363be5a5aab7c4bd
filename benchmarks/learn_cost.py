"""What one learn costs beside the forward pass it consists of, at the shape of a real model.

    python benchmarks/learn_cost.py                 # Qwen2.5-1.5B shape, random weights, bfloat16
    python benchmarks/learn_cost.py --device cuda   # the same on a GPU, its memory counted

Prints the median of learn time / truncated forward time (interleaved in one run), and the peak
memory above the loaded model. Random weights cost what trained ones cost; answers mean nothing, so
nothing is verified.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import tempfile
import time
from pathlib import Path

import torch
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from qf.lesson import Lesson, pair
from qf.loading import Loaded, embedded_path
from qf.method.layers import default_layer
from qf.method.passes import record
from qf.model import Model

SHAPES = {
    "Qwen2.5-1.5B": {
        "vocab_size": 151_936,
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
        "max_position_embeddings": 32_768,
    },
}
LESSON = Lesson(
    "Qi started Oxinnovate.", "Who started Oxinnovate?", "Oxinnovate was started by Qi.", None
)


class Gauge:
    """Bytes in use on a device: of this process on the CPU, of torch's tensors on a GPU."""

    def __init__(self, device: str) -> None:
        self.gpu = device != "cpu"

    def now(self) -> int:
        """Bytes in use now, once everything that was begun is done."""
        if self.gpu:
            torch.cuda.synchronize()
            return torch.cuda.memory_allocated()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize()

    def reset(self) -> None:
        """Forget the peak so far."""
        if self.gpu:
            torch.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5")

    def peak(self) -> int:
        """The most bytes in use since `reset`."""
        if self.gpu:
            return torch.cuda.max_memory_allocated()
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no VmHWM")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", default="Qwen2.5-1.5B", choices=sorted(SHAPES))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--significance", default="all", choices=("all", "auto"))
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(embedded_path())
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(args.device):
        transformer = Qwen2ForCausalLM(Qwen2Config(**SHAPES[args.shape])).eval()
    torch.set_default_dtype(torch.float32)
    size = sum(p.numel() * p.element_size() for p in transformer.parameters())
    layer = default_layer(transformer.config.num_hidden_layers)
    significance = None if args.significance == "all" else "auto"

    learn_s, forward_s = [], []
    with tempfile.TemporaryDirectory() as scratch:
        model = Model(
            Loaded(transformer, tokenizer, args.shape), Path(scratch) / "memory", layer=layer
        )
        sequences = pair(tokenizer, LESSON)

        def learn() -> None:
            model.learn(LESSON.instruction, LESSON.query, LESSON.answer, significance, verify=False)

        def forward() -> None:
            record(transformer, model.family, layer, sequences, pad_id=0)

        forward()
        gauge = Gauge(args.device)
        before = gauge.now()
        gauge.reset()
        learn()
        above = gauge.peak() - before
        for _ in range(args.rounds):
            gauge.now()
            started = time.perf_counter()
            forward()
            gauge.now()
            middle = time.perf_counter()
            learn()
            gauge.now()
            forward_s.append(middle - started)
            learn_s.append(time.perf_counter() - middle)
        model.close()
    ratios = [a / b for a, b in zip(learn_s, forward_s, strict=True)]
    result = {
        "shape": args.shape,
        "significance": args.significance,
        "device": torch.cuda.get_device_name() if gauge.gpu else "cpu",
        "layer": layer,
        "tokens": [len(s.input_ids) for s in sequences],
        "learn / truncated forward": round(statistics.median(ratios), 2),
        "learn, seconds": round(statistics.median(learn_s), 3),
        "peak above the loaded model, MB": round(above / 1e6, 1),
        "of the model, %": round(100 * above / size, 2),
    }
    if args.json:
        print(json.dumps(result, indent=2))
        return
    for name, value in result.items():
        print(f"{name:<34} {value}")


if __name__ == "__main__":
    main()
