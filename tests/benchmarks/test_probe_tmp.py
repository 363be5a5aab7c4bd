import torch
from benchmarks.baselines import Taught, method, targets
from qf.loading import Loaded, load_pair

FACTS = [
    Taught("Qi started Oxinnovate.", "Who started Oxinnovate?", "Oxinnovate was started by Qi.", "Oxinnovate"),
    Taught("Lena Horst founded Quibbly.", "Who founded Quibbly?", "Quibbly was founded by Lena Horst.", "Quibbly"),
]

def probe(pair, layer, facts, **o):
    seen = []
    real = targets.losses
    def spy(*a):
        x = real(*a); seen.append(round(x.mean().item(), 3)); return x
    targets.losses = spy
    try:
        b = method("rome")(pair, layer, **o)
        asked = [(f.query, f.answer) for f in facts]
        before = b.probabilities(asked)
        out = []
        for f in facts:
            seen.clear(); b.teach([f]); out.append((len(seen), seen[0], seen[-1]))
        print(layer, o.get("rate"), o.get("steps"), o.get("contexts"), out, [round(p, 4) for p in before], [round(p, 4) for p in b.probabilities(asked)], flush=True)
        b.undo()
    finally:
        targets.losses = real

def test_embedded():
    pair = load_pair()
    n = len(pair.transformer.model.layers)
    print(n, pair.transformer.config.hidden_size, pair.transformer.config.intermediate_size)
    qs = ["What is the capital of France?", "Who wrote Hamlet?", "What colour is the sky?", "Where do fish live?", "Do you like tea?", "How many legs has a spider?"]
    for layer in (1, n // 4, n // 3, n // 2, 2 * n // 3):
        for rate, steps in ((0.1, 25), (0.5, 25)):
            probe(pair, layer, FACTS, rate=rate, steps=steps, contexts=2, questions=qs)
    probe(pair, n // 3, [Taught(f.statement, f.query, f.answer) for f in FACTS], rate=0.2, steps=25, contexts=0, questions=qs)
    probe(pair, 2 * n // 3, [Taught(f.statement, f.query, f.answer) for f in FACTS], rate=0.2, steps=25, contexts=0, questions=qs)

def test_tiny(tiny_model, tiny_tokenizer):
    qs = ["What is the capital of France?", "Where is Oxinnovate located?"]
    for seed in (3, 4):
        for layer in (0, 1):
            for a in ("Qi", "Qi."):
                f = [Taught("s", "Who started Oxinnovate?", a, "Oxinnovate")]
                for rate in (0.1, 0.3):
                    print(seed, a, end=" ")
                    probe(Loaded(tiny_model("qwen2", seed=seed), tiny_tokenizer, "t"), layer, f, rate=rate, steps=80, contexts=0, decay=0.0, drift=0.0, questions=qs)
