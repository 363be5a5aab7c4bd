"""The baselines do what their papers say, and leave nothing behind."""

import math
from dataclasses import replace

import pytest
import torch

from benchmarks.baselines import METHODS, Taught, method
from benchmarks.baselines.descent import losses, output_of
from benchmarks.baselines.grace import Codebook, Grace
from benchmarks.baselines.memit import solve
from benchmarks.baselines.rome import insert
from qf.loading import Loaded, load_pair
from qf.model import Model

FACTS = [
    Taught("Qi started Oxinnovate.", "Who started Oxinnovate?", "Qi.", "Oxinnovate"),
    Taught("Jack Ma started Alibaba.", "Who started Alibaba?", "Jack Ma.", "Alibaba"),
]
ORDINARY = [
    "What is the capital of France?",
    "Where is Oxinnovate located?",
    "Can you tell me the person?",
    "Do you know Paris?",
]
STEEP = {"questions": ORDINARY, "contexts": 0, "rate": 0.3, "steps": 60}
OPTIONS = {
    "finetune": {"rate": 1e-2, "passes": 100},
    "rome": STEEP,
    "memit": STEEP | {"span": 2, "strength": 1e-3},
    "grace": {"epsilon": 0.5},
}
# Times as probable as before. One vector at one token moves a random model little, however large.
ENOUGH = dict.fromkeys(METHODS, 5.0) | {"rome": 1.5, "memit": 1.2}
WEIGHTS = ("finetune", "rome", "memit")


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def positive(D, seed=9):
    """A second moment with directions of very different weight."""
    keys = random(3 * D, D, seed=seed) * torch.logspace(0, -2, D, dtype=torch.float64)
    return keys.T @ keys / len(keys)


# Hardly anything but the question: a random model attends to all tokens alike, so that in a long
# prompt one of them, the subject's, counts for little.
BARE = (
    "{%- for m in messages -%}"
    "{%- if m['role'] == 'assistant' -%}{{- ' ' + m['content'] + '<|im_end|>' -}}"
    "{%- elif m['content'] -%}{{- m['content'] + '\n' -}}{%- endif -%}"
    "{%- endfor -%}"
)


@pytest.fixture
def loaded(tiny_model, tiny_tokenizer):
    tiny_tokenizer.chat_template = BARE
    return Loaded(tiny_model("qwen2", seed=4), tiny_tokenizer, "tiny")


def build(name, loaded, layer=1):
    return method(name)(loaded, layer, max_tokens=12, **OPTIONS.get(name, {}))


def parameters(model):
    return {
        name: (value.detach().clone(), value.requires_grad)
        for name, value in model.named_parameters()
    }


def chances(baseline, facts=FACTS):
    return baseline.probabilities([(f.query, f.answer) for f in facts])


@pytest.mark.parametrize("name", [name for name in METHODS if name != "retrieval"])
def test_a_taught_answer_becomes_much_more_probable_and_undo_takes_all_back(name, loaded):
    fact = FACTS[:1]
    before, baseline = parameters(loaded.transformer), build(name, loaded)
    hooks = [m for m in loaded.transformer.modules() if m._forward_hooks]
    closed, answers = chances(baseline, fact), baseline.ask_many([fact[0].query, ORDINARY[0]])
    baseline.teach(fact)
    assert chances(baseline, fact)[0] > ENOUGH[name] * closed[0]
    if name in ("finetune", "lora"):
        assert baseline.ask_many([fact[0].query]) == [fact[0].answer]
    baseline.undo()
    after = parameters(loaded.transformer)
    assert after.keys() == before.keys()
    for key, (value, flag) in before.items():
        assert torch.equal(after[key][0], value) and after[key][1] == flag, key
    assert [m for m in loaded.transformer.modules() if m._forward_hooks] == hooks
    assert baseline.ask_many([fact[0].query, ORDINARY[0]]) == answers
    assert chances(baseline, fact) == closed
    assert all(p.grad is None for p in loaded.transformer.parameters())


@pytest.mark.parametrize("name", [name for name in METHODS if name != "retrieval"])
def test_two_facts_are_held_together(name, loaded):
    baseline = build(name, loaded)
    closed = chances(baseline)
    baseline.teach(FACTS)
    times = [a / b for a, b in zip(chances(baseline), closed, strict=True)]
    assert min(times) > ENOUGH[name], times


@pytest.mark.parametrize("name", WEIGHTS)
def test_only_the_taught_layers_change(name, loaded):
    before, baseline = parameters(loaded.transformer), build(name, loaded)
    baseline.teach(FACTS[:1])
    after = parameters(loaded.transformer)
    changed = {key for key in before if not torch.equal(after[key][0], before[key][0])}
    layers = (0, 1) if name == "memit" else (1,)
    assert changed == {f"model.layers.{i}.mlp.down_proj.weight" for i in layers}


def test_facts_can_be_tuned_one_after_another_and_without_a_subject(loaded):
    one = method("finetune")(loaded, 1, together=False, **OPTIONS["finetune"])
    closed = chances(one)
    one.teach(FACTS)
    assert chances(one)[1] > 5 * closed[1]
    one.undo()
    rome = build("rome", loaded)
    rome.teach([Taught(FACTS[0].statement, FACTS[0].query, FACTS[0].answer)])
    assert chances(rome)[0] > ENOUGH["rome"] * closed[0]


def test_each_uses_the_layer_that_can_carry_it():
    layers = {name: method(name).own_layer(8, 7) for name in METHODS if name != "retrieval"}
    assert layers == {"finetune": 7, "lora": 7, "grace": 6, "rome": 6, "memit": 6}
    assert method("rome").own_layer(8, 3) == 3 and method("grace").own_layer(1, 0) == 0


def test_an_instruction_and_earlier_turns_stand_where_qf_puts_them(loaded, tmp_path):
    earlier = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Qi."}]
    asked = [f.query for f in FACTS], ["Be brief.", ""]
    baseline = method("finetune")(loaded, 1, system="You know.", max_tokens=8)
    with Model(loaded, tmp_path / "memory", solver="paper", system="You know.") as model:
        for turns in ([], earlier):
            wanted = model.ask_many(*asked, earlier=turns, max_tokens=8)
            assert baseline.ask_many(*asked, earlier=turns) == wanted
    assert baseline.conversation("Who?", "Be brief.", earlier) == [
        {"role": "system", "content": "You know.\nBe brief."},
        *earlier,
        {"role": "user", "content": "Who?"},
    ]


def test_a_subject_ends_where_its_last_token_does(loaded):
    rome = method("rome")(loaded, 1, questions=ORDINARY, contexts=0, chunk=None)

    def until_place(fact):
        (found,) = rome.situations(fact)
        (place,) = found.places
        return rome.tokenizer.decode(found.tokens.input_ids[: place + 1])

    text = until_place(FACTS[1])
    assert text.rstrip("?").endswith("Who started Alibaba")
    lower = replace(FACTS[1], subject="alibaba")  # as a sentence begins with it
    assert until_place(lower) == text
    unknown = Taught("", "Who started Alibaba?", "Jack Ma.")
    assert until_place(unknown).endswith("Alibaba?")


@pytest.mark.parametrize("chunk", [1, 3])
def test_each_part_of_an_answer_has_its_place_before_it_in_every_context(loaded, chunk):
    rome = method("rome")(loaded, 1, questions=ORDINARY, contexts=2, chunk=chunk)
    rome.prepare([1])
    found = rome.situations(FACTS[1])
    learned = found[0].tokens.learned
    assert len(found) == 3
    for situation in found:
        ids = situation.tokens.input_ids
        parts = [ids[place + 1 : place + 1 + chunk] for place in situation.places]
        assert tuple(token for part in parts for token in part) == learned
        assert all(len(part) == chunk for part in parts[:-1])


# ROME: W' k = v, and of all such W' the one that changes least where C has weight.


def test_rome_stores_the_value_under_the_key():
    W, k, v, C = random(7, 12), random(12, seed=1), random(7, seed=2), positive(12)
    changed = insert(W, k[None], v[None], C)
    assert (changed @ k - v).norm() <= 1e-5 * v.norm()
    assert torch.linalg.matrix_rank(changed - W) == 1
    direction = torch.linalg.inv(C) @ k  # Eq. 2 as it is printed
    Λ = (v - W @ k) / (direction @ k)
    torch.testing.assert_close(changed, W + torch.outer(Λ, direction), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("P", [1, 4])
def test_rome_solves_the_constrained_least_squares(P):
    # Its Lagrange conditions, solved at once: (W' - W) C = Λ K and W' k = v for each k of K.
    W, K, V, C = random(7, 12), random(P, 12, seed=1), random(P, 7, seed=2), positive(12)
    none = torch.zeros(P, P, dtype=torch.float64)
    system = torch.cat([torch.cat([C, -K.T], 1), torch.cat([K, none], 1)])
    right = torch.cat([torch.zeros(12, 7, dtype=torch.float64), V - K @ W.T])
    expected = W + torch.linalg.solve(system, right)[:12].T
    torch.testing.assert_close(insert(W, K, V, C), expected, rtol=1e-8, atol=1e-8)


def test_rome_takes_a_key_that_comes_twice():
    W, k, v, C = random(7, 12), random(12, seed=1), random(7, seed=2), positive(12)
    twice = insert(W, torch.stack([k, k]), torch.stack([v, v]), C)
    torch.testing.assert_close(twice, insert(W, k[None], v[None], C), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("chunk", [None, 2])
def test_rome_in_a_model_gives_the_targets_for_the_keys(loaded, chunk):
    rome = method("rome")(loaded, 1, max_tokens=12, **STEEP | {"chunk": chunk})
    rome.prepare([1])
    situations, W = rome.situations(FACTS[0]), rome.projection().weight.detach().clone().double()
    K, deltas = rome.keys(situations, 1), rome.deltas(FACTS[0], situations, 1)
    rome.teach(FACTS[:1])
    wanted = K @ W.T + deltas
    assert len(K) == (1 if chunk is None else len(situations[0].places)) > (chunk or 0) - 1
    assert (K @ rome.projection().weight.double().T - wanted).norm() <= 1e-4 * wanted.norm()


def test_a_key_is_the_input_of_w_and_a_mean_over_contexts(loaded):
    rome = method("rome")(loaded, 1, questions=ORDINARY, contexts=1, chunk=2)
    rome.prepare([1])
    situations, seen = rome.situations(FACTS[0]), []
    handle = rome.projection().register_forward_hook(lambda _, x, y: seen.append(x[0][0]))
    for s in situations:
        loaded.transformer(input_ids=torch.tensor([s.tokens.input_ids]))
    handle.remove()
    each = [u[list(s.places)].double() for u, s in zip(seen, situations, strict=True)]
    expected = (each[0] + each[1]) / 2
    torch.testing.assert_close(rome.keys(situations, 1), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("chunk", [None, 2])
def test_a_target_makes_the_answer_probable_and_keeps_to_its_length(loaded, chunk):
    """ROME Eq. 4, and the length that its code allows."""

    def chance(clamp, **options):
        rome = method("rome")(loaded, 1, **STEEP | {"chunk": chunk, "clamp": clamp} | options)
        rome.prepare([1])
        situations = rome.situations(FACTS[0])
        deltas, h = rome.deltas(FACTS[0], situations, 1), rome.outputs(situations[0], 1)
        ratio = (deltas.norm(dim=1) / h.norm(dim=1)).max().item()
        places = torch.tensor(situations[0].places)

        def add(_, y):
            return y.index_put((torch.zeros_like(places), places), deltas.to(y), accumulate=True)

        with torch.no_grad(), output_of(rome.projection(), add):
            loss = losses(loaded.transformer, [situations[0].tokens], rome.generator.pad_id)
        return math.exp(-loss.item()), ratio

    (before, _), (short, least), (long, most) = chance(4.0, steps=0), chance(0.2), chance(4.0)
    assert before < short < long
    assert least <= 0.2001 and 0.2 < most <= 4.0001
    assert chance(4.0, decay=1e3)[1] < most  # drawn to zero


# MEMIT: Δ minimises Σ ‖Δ k - r‖² + tr Δ C₀ Δᵀ.


@pytest.mark.parametrize("n", [1, 5, 40])
def test_memit_solves_the_normal_equations(n):
    K, R, C0 = random(n, 12), random(n, 7, seed=1), 3 * positive(12)
    values, vectors = torch.linalg.eigh(C0)
    stacked = torch.cat([K, (vectors * values.sqrt()).T])
    right = torch.cat([R, torch.zeros(12, 7, dtype=torch.float64)])
    expected = torch.linalg.lstsq(stacked, right, driver="gelsd").solution.T
    torch.testing.assert_close(solve(K, R, C0), expected, rtol=1e-8, atol=1e-8)


def test_memit_without_a_past_reaches_its_targets(loaded):
    memit = method("memit")(loaded, 2, questions=ORDINARY, contexts=0, span=2, strength=1e-6)
    memit.prepare(memit.layers)
    situations = [memit.situations(fact) for fact in FACTS]
    targets = [
        memit.outputs(s[0], 2) + memit.deltas(f, s, 2)
        for f, s in zip(FACTS, situations, strict=True)
    ]
    memit.teach(FACTS)
    for s, z in zip(situations, targets, strict=True):
        assert (memit.outputs(s[0], 2) - z).norm() < 0.02 * z.norm()


# GRACE: Algorithm 1, and nothing far from a key changes.


def test_grace_leaves_what_is_far_as_it_was_bit_for_bit(loaded):
    grace = Grace(loaded, 2, epsilon=0.01)
    ids = loaded.tokenizer([ORDINARY[0], FACTS[0].query], return_tensors="pt", padding=True)

    def logits(ends):
        with torch.no_grad(), grace.acting(ends):
            return loaded.transformer(ids.input_ids, attention_mask=ids.attention_mask).logits

    before = logits([3, 3])
    grace.teach(FACTS)
    assert torch.equal(logits([3, 3]), before)  # in none of the two is there a key
    asked = [FACTS[0].query, ORDINARY[0]]
    assert grace.ask_many(asked)[1] == Grace(loaded, 2, epsilon=0.01).ask_many(asked)[1]
    other = [(ORDINARY[0], "Paris."), (FACTS[1].query, "Jack Ma.")]
    far, near = grace.probabilities(other)
    far_before, near_before = Grace(loaded, 2, epsilon=0.01).probabilities(other)
    assert far == far_before and near > 5 * near_before


def test_grace_replaces_from_the_key_on(loaded):
    grace, seen = Grace(loaded, 2, epsilon=0.5), []
    grace.teach(FACTS[:1])
    tokens = grace.aligned(FACTS[0].query, FACTS[0].answer)
    u, end = grace._key(FACTS[0].query)
    module = grace.projection()
    with torch.no_grad(), grace.acting([end]):
        handle = module.register_forward_hook(lambda _, x, y: seen.append((x[0], y)))
        loaded.transformer(input_ids=torch.tensor([tokens.input_ids]))
        handle.remove()
    inputs, outputs = seen[0]
    torch.testing.assert_close(inputs[0, end], u)
    assert torch.equal(outputs[0, :end], module(inputs)[0, :end])
    value = grace.codebook.values[0]
    assert all(torch.equal(row, value) for row in outputs[0, end:])


def test_grace_adds_expands_and_splits(loaded, monkeypatch):
    grace = Grace(loaded, 2, epsilon=1.0)
    monkeypatch.setattr(grace, "_value", lambda fact, u, end: torch.zeros(32))
    at = {"near": 0.0, "same": 1.5, "other": 1.2, "far": 9.0, "near again": 0.0}

    def key(query):
        u = torch.zeros(96)
        u[0] = at[query]
        return u, 0

    monkeypatch.setattr(grace, "_key", key)

    def entries(query, answer):
        grace.teach([Taught("s", query, answer)])
        book = grace.codebook
        return list(zip(book.keys[:, 0].tolist(), book.radii, book.labels, strict=True))

    assert entries("near", "a") == [(0.0, 1.0, "a")]
    assert entries("far", "a") == [(0.0, 1.0, "a"), (9.0, 1.0, "a")]  # new: 9 > 1 + 1
    assert entries("same", "a")[0] == (0.0, 1.5, "a")  # expanded, though beyond its radius
    split = entries("other", "b")
    assert split[0] == (0.0, pytest.approx(0.6), "a")
    assert split[2] == (pytest.approx(1.2), pytest.approx(0.6), "b")
    relearned = entries("near again", "c")  # a second answer to the very same question
    assert len(relearned) == 3 and relearned[2] == (0.0, pytest.approx(0.6), "c")


def test_a_codebook_covers_up_to_the_radius():
    book = Codebook(torch.tensor([[0.0, 0.0], [4.0, 0.0]]), torch.zeros(2, 3), (1.0, 3.0), "ab")
    assert book.covers(torch.tensor([1.0, 0.0])) == 0
    assert book.covers(torch.tensor([1.5, 0.0])) is None  # only the nearest key counts
    assert book.covers(torch.tensor([2.5, 0.0])) == 1
    assert Codebook(torch.empty(0, 2), torch.empty(0, 3)).covers(torch.zeros(2)) is None


# Retrieval.


def test_bm25_scores_as_by_hand(loaded):
    pytest.importorskip("bm25s")
    found = build("retrieval", loaded)
    assert found.best("Who?") is None and found.scores("Who?") == []
    found.teach([Taught("red fish red", "q", "a"), Taught("blue fish", "q", "a")])
    found.teach([Taught("one bird", "q", "a"), Taught("one two three four five", "q", "a")])
    # N = 4, lengths 3, 2, 2, 5, mean 3; "red" is in one statement, "fish" in two.
    red, fish = math.log(1 + 3.5 / 1.5), math.log(1 + 2.5 / 2.5)
    first = red * 2 / (2 + 1.2) + fish * 1 / (1 + 1.2)  # of mean length
    second = fish * 1 / (1 + 1.2 * (0.25 + 0.75 * 2 / 3))
    assert found.scores("Red fish? unknown") == pytest.approx([first, second, 0, 0], rel=1e-5)
    assert found.best("A red fish?") == "red fish red"
    assert found.best("unknown") is None


def test_retrieval_puts_the_statement_where_learning_puts_it(loaded):
    pytest.importorskip("bm25s")
    found = method("retrieval")(loaded, 2, system="Be brief.", max_tokens=4)
    query, before = FACTS[1].query, parameters(loaded.transformer)
    closed = found.conversation(query)
    found.teach(FACTS)
    assert found.conversation(query)[0]["content"] == "Be brief.\nJack Ma started Alibaba."
    assert found.conversation("zzz")[0]["content"] == "Be brief."
    told = found.conversation(query, "Say it.")[0]["content"]
    assert told == "Be brief.\nSay it.\nJack Ma started Alibaba."
    assert len(found.ask_many([query, "zzz"])) == 2
    found.undo()
    assert found.conversation(query) == closed
    assert all(torch.equal(p, before[n][0]) for n, p in loaded.transformer.named_parameters())


# Two facts that the embedded model does not know, in the wording that it answers in.
NEW = [
    Taught(
        "Lena Horst founded Quibbly.",
        "Who founded Quibbly?",
        "Quibbly was founded by Lena Horst.",
        "Quibbly",
    ),
    Taught(
        "Qi started Oxinnovate.",
        "Who started Oxinnovate?",
        "Oxinnovate was started by Qi.",
        "Oxinnovate",
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["finetune", "lora", "grace", "rome", "memit"])
def test_the_embedded_model_is_taught_new_facts(name):
    baseline = method(name)(load_pair(), 6)
    closed = chances(baseline, NEW)
    baseline.teach(NEW)
    taught = chances(baseline, NEW)
    answers = baseline.ask_many([f.query for f in NEW])
    print(name, closed, taught, answers)
    assert answers == [f.answer for f in NEW]
