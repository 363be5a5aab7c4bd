"""Lessons with a picture, on random vision-language models: the same equalities as with words.

The reference is `tests.sighted`: prompts, pixels and positions by hand, activations by plain hooks.
"""

import hashlib
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import qf
import qf.cli
from qf.errors import LessonError, ModelError
from qf.lesson import Lesson, pair
from qf.loading import load_pair
from qf.method import passes
from qf.method.readout import Recorded
from qf.picture import Picture
from qf.qf_memory import attach
from qf.recall import Asked, Found, Recall
from tests import sighted
from tests.families.test_equation import Open, apart, equation_3
from tests.samples import calibrate_on_little

LAYER = 2
QUERY, ANSWER = "Who started Oxinnovate?", "It was Qi."
WORDS = ("", "Qi started Oxinnovate.")


@pytest.fixture(params=sighted.KINDS)
def kind(request):
    return request.param


@pytest.fixture
def saved(speaker, tmp_path):
    """Build `saved(kind, **options)`: the directory of a tiny vision-language model."""

    def build(kind="qwen2_vl", name="", **options):
        return sighted.save(kind, speaker, tmp_path / (name or kind), **options)

    return build


@pytest.fixture
def loaded(saved):
    """Build `loaded(kind, **options)`: the Model of that directory."""
    models = []

    def build(kind="qwen2_vl", **options):
        own = ("seed", "name", "max_position_embeddings")
        made = {k: options.pop(k) for k in own if k in options}
        options = {"layer": LAYER, "solver": "paper", **options}
        models.append(qf.load(saved(kind, **made), **options))
        return models[-1]

    yield build
    for model in models:
        model.close()


def layer_of(transformer, layer=LAYER):
    stacks = [m for m in transformer.modules() if isinstance(m, torch.nn.ModuleList)]
    (stack,) = (s for s in stacks if len(s) == 4)
    return stack[layer]


def weight(transformer, layer=LAYER):
    return layer_of(transformer, layer).mlp.down_proj.weight.detach().clone()


def tokens(model, kind, query=QUERY, system="", image=None, answer=ANSWER):
    """Prompt, answer and the end of the turn, and where the answer begins."""
    text = sighted.text_of(kind, query, system, image)
    prompt = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    space = "" if kind in sighted.QWEN else " "
    said = model.tokenizer(space + answer, add_special_tokens=False)["input_ids"]
    end = "<|im_end|>" if kind in sighted.QWEN else "<end_of_utterance>"
    return [*prompt, *said, model.tokenizer.convert_tokens_to_ids(end)], len(prompt)


def observed(model, kind, system="", image=None, query=QUERY):
    """u, v and y of the layer, (T, any), where the answer is predicted: float64."""
    ids, start = tokens(model, kind, query, system, image)
    given = sighted.inputs(kind, ids, image)
    if image is not None and kind in sighted.QWEN:
        place = model.tokenizer.convert_tokens_to_ids("<|image_pad|>")
        given["position_ids"] = sighted.positions(ids, place, image)
    caught, block = {}, layer_of(model.transformer)
    hooks = [
        block.mlp.down_proj.register_forward_hook(
            lambda _m, x, z: caught.update(u=x[0].clone(), z=z.clone())
        ),
        block.register_forward_hook(
            lambda _m, _i, y: caught.update(y=y[0] if isinstance(y, tuple) else y)
        ),
    ]
    with torch.no_grad():
        model.transformer(**given, use_cache=False)
    for hook in hooks:
        hook.remove()
    u, z, y = (caught[k].reshape(len(ids), -1)[start - 1 : -1].double() for k in "uzy")
    return u, y - z, y


@pytest.mark.parametrize("words", WORDS)
def test_rows_are_those_of_equation_3(loaded, kind, words):
    model, image = loaded(kind), sighted.picture()
    opened, closed = observed(model, kind, words, image), observed(model, kind)
    shown = Picture.of(image, model._asking.loaded.processor)
    lesson = Lesson(words, QUERY, ANSWER, None, shown)
    sequences = pair(model.tokenizer, lesson)
    assert list(sequences[0].input_ids) == tokens(model, kind, system=words, image=image)[0]
    assert list(sequences[1].input_ids) == tokens(model, kind)[0]
    found = passes.rows(model.transformer, model.family, LAYER, *sequences, None, pad_id=0)
    assert apart(opened[2], closed[2]) > 0.01
    assert apart(found.keys, closed[0]) < 1e-5
    assert apart(found.deltas, opened[2] - closed[2]) < 1e-4
    assert apart(found.outputs, opened[2]) < 1e-5

    W = weight(model.transformer)
    expected = equation_3(W.double(), opened[:2], closed[:2])
    model.learn(words, QUERY, ANSWER, None, image=image, rewordings=0, verify=False)
    changed = weight(model.transformer)
    assert apart(changed, expected) <= 1e-5
    assert apart(changed.double() - W, expected - W) <= 1e-3


def test_the_query_is_found_behind_the_picture(loaded, kind):
    model, image = loaded(kind), sighted.picture()
    asked = model._asking.asked(
        QUERY, None, image=Picture.of(image, model._asking.loaded.processor)
    )
    assert list(asked.ids) == tokens(model, kind, image=image)[0][: len(asked.ids)]
    said = model.tokenizer.decode(asked.ids[slice(*asked.span)])
    assert said.strip() == QUERY


def test_a_rehearsed_lesson_shows_the_picture_where_the_query_is_asked_first(loaded, kind):
    model, image = loaded(kind), sighted.picture()
    lesson = Lesson("", QUERY, ANSWER, None, Picture.of(image, model._asking.loaded.processor))
    ids = list(pair(model.tokenizer, lesson, rehearsed=True)[0].input_ids)
    (first, _), (again, _) = tokens(model, kind, image=image), tokens(model, kind)
    newline = model.tokenizer("\n", add_special_tokens=False)["input_ids"]
    start = again.index(model.tokenizer.convert_tokens_to_ids("<|im_start|>"))
    again = again[start + (kind not in sighted.QWEN) :]  # where a turn begins by a token of its own
    assert ids == [*first, *newline, *again]


@pytest.mark.parametrize("words", WORDS)
@pytest.mark.parametrize(("solver", "left"), [("paper", 1e-4), ("joint", 0.05)])
def test_after_learning_the_closed_book_output_is_the_open_book_one(
    loaded, kind, words, solver, left
):
    """But for what the ridge of "joint" leaves, as it does of a lesson in words."""
    model, image = loaded(kind, solver=solver, calibrate=False), sighted.picture()
    opened, before = (o[2] for o in (observed(model, kind, words, image), observed(model, kind)))
    model.learn(words, QUERY, ANSWER, None, image=image, rewordings=0, verify=False)
    after = observed(model, kind)[2]
    assert apart(before, opened) > 0.5 and apart(after, opened) <= left


def test_forgetting_restores_every_bit(loaded, kind):
    model = loaded(kind)
    before = {name: p.clone() for name, p in model.transformer.state_dict().items()}
    fact = model.learn("", QUERY, ANSWER, image=sighted.picture(), verify=False)
    changed = {n for n, p in model.transformer.state_dict().items() if not p.equal(before[n])}
    assert len(changed) == 1 and f"layers.{LAYER}.mlp.down_proj" in changed.pop()
    model.forget(fact.id)
    after = model.transformer.state_dict()
    assert after.keys() == before.keys() and all(after[n].equal(p) for n, p in before.items())


def test_running_beside_others_changes_nothing(loaded, kind):
    model = loaded(kind)
    lessons = [
        Lesson(
            "",
            QUERY,
            ANSWER,
            None,
            Picture.of(sighted.picture(i, size), model._asking.loaded.processor),
        )
        for i, size in enumerate([(24, 16), (16, 32)])
    ]
    sequences = [s for lesson in lessons for s in pair(model.tokenizer, lesson)]
    where = model.transformer, model.family, LAYER
    together = passes.record(*where, sequences, pad_id=0, logits=True)
    for sequence, one in zip(sequences, together, strict=True):
        (alone,) = passes.record(*where, [sequence], pad_id=0, logits=True)
        for name in ("u", "v", "y", "probability", "argmax"):
            assert torch.equal(getattr(one, name), getattr(alone, name))
    assert apart(together[0].y, together[2].y) > 0.01  # the pictures differ
    assert torch.equal(together[1].y, together[3].y)  # and are not seen closed-book


def test_behind_a_gate_the_output_is_the_open_book_one(loaded, kind):
    model, image = loaded(kind), sighted.picture()
    opened, closed = observed(model, kind, "", image)[2], observed(model, kind)[2]
    lesson = Lesson("", QUERY, ANSWER, None, Picture.of(image, model._asking.loaded.processor))
    transformer, family = model.transformer, model.family
    sequences = pair(model.tokenizer, lesson)
    found = passes.rows(transformer, family, LAYER, *sequences, None, pad_id=0, free=True)
    recall = Recall(Open())
    recorded = Recorded(found.keys, found.outputs, found.significance)
    stored = Found(torch.ones(1, found.keys.shape[1]), recorded)
    recall.add("fact", [QUERY], lambda: stored)
    ids, start = tokens(model, kind)
    for t in range(len(opened)):
        read = ids[: start + t]
        caught = {}
        with recall.acting(
            transformer, family, LAYER, [Asked(tuple(read), QUERY, (2, 5))], len(read)
        ):
            hook = layer_of(transformer).register_forward_hook(
                lambda _m, _i, y, caught=caught: caught.update(
                    y=y[0] if isinstance(y, tuple) else y
                )
            )
            with torch.no_grad():
                transformer(input_ids=torch.tensor([read]), use_cache=False)
            hook.remove()
        y = caught["y"].reshape(len(read), -1)[-1]
        assert apart(y, opened[t]) <= 1e-5 and apart(closed[t], opened[t]) > 0.01


def generated(model, kind, image, words="", query=QUERY):
    """The open-book answer by Transformers alone, from inputs made by hand."""
    text = sighted.text_of(kind, query, words, image)
    ids = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    given = sighted.inputs(kind, ids, image)
    if kind in sighted.QWEN:
        place = model.tokenizer.convert_tokens_to_ids("<|image_pad|>")
        given["mm_token_type_ids"] = (given["input_ids"] == place).int()
    eos = model.tokenizer.convert_tokens_to_ids(["<|im_end|>", "<end_of_utterance>"])
    with torch.no_grad():
        out = model.transformer.generate(
            **given, do_sample=False, max_new_tokens=10, eos_token_id=eos, pad_token_id=0
        )
    return model.tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True).strip()


@pytest.mark.parametrize("words", WORDS)
def test_asking_with_a_picture_is_what_transformers_generates(loaded, kind, words):
    model, image, other = loaded(kind), sighted.picture(), sighted.picture(7, (32, 48))
    plain = model.ask_many([QUERY, "Hello!"], max_tokens=10)
    for shown in (image, other):
        expected = generated(model, kind, shown, words)
        assert model.ask(QUERY, words, image=shown, max_tokens=10) == expected
        assert "".join(model.stream(QUERY, words, image=shown, max_tokens=10)) == expected
        assert model.ask_many([QUERY, "Hello!"], max_tokens=10) == plain


def learned(loaded, kind, image, **options):
    """The first random model, and the fact, of which every step of a lesson holds."""
    for seed in range(60):
        model = loaded(kind, name=f"{kind}-{seed}", seed=seed, layer=3, **options)
        before, told = model.ask(QUERY), model.ask(QUERY, image=image)
        if 1 < len(told) < 8 and told != before:  # it hears, and ends its answer
            fact = model.learn(query=QUERY, image=image, rewordings=0, rollback=True)
            if fact.verified:
                assert fact.answer == fact.after == told and fact.before == before
                return model, fact
        model.close()
    raise AssertionError("no random model does")


@pytest.fixture
def plan(tmp_path):
    """A picture in a file."""
    sighted.picture().save(tmp_path / "plan.png")
    return tmp_path / "plan.png"


def test_a_picture_is_learned_behind_the_gate(loaded, kind, monkeypatch, tmp_path, plan):
    calibrate_on_little(monkeypatch)
    options = {"memory": tmp_path / "facts", "solver": "gated"}
    model, fact = learned(loaded, kind, plan, **options)
    assert (fact.instruction, fact.image, fact.statement) == ("", "plan.png", "[plan.png]")
    assert fact.image_sha256 == hashlib.sha256(plan.read_bytes()).hexdigest()
    assert model.ask_many(["Hello!", QUERY])[1] == fact.answer
    W = weight(load_pair(model.name).transformer, 3)
    assert torch.equal(weight(model.transformer, 3), W)
    model.close()
    plan.unlink()  # it is not needed again
    with qf.load(model.name, **options) as again:
        assert again.facts() == [fact] and again.ask(QUERY) == fact.answer
        done = again.consolidate()
        assert done.consolidated + done.gated == again.facts()
        assert bool(done.gated) == torch.equal(weight(again.transformer, 3), W)
        assert again.ask(QUERY) == fact.answer
    with qf.load(model.name, **options) as again:
        assert again.ask(QUERY) == fact.answer
        again.forget(fact.id)
        assert again.ask(QUERY) == fact.before and torch.equal(weight(again.transformer, 3), W)


def test_a_gated_picture_is_consolidated_and_goes_back(loaded, monkeypatch, plan):
    """From the rows that were recorded: nobody shows the picture again."""
    calibrate_on_little(monkeypatch)
    model, fact = learned(loaded, "idefics3", plan, solver="gated")
    plan.unlink()
    W = weight(model.transformer, 3)
    held = model._asking.holding
    monkeypatch.setattr(model._asking, "holding", lambda ids, facts: list(ids))
    assert [f.id for f in model.consolidate().consolidated] == [fact.id]
    assert not torch.equal(weight(model.transformer, 3), W)
    monkeypatch.setattr(model._asking, "holding", lambda ids, facts: [])
    assert [f.id for f in model.consolidate().gated] == [fact.id]
    assert torch.equal(weight(model.transformer, 3), W) and model.ask(QUERY) == fact.answer
    monkeypatch.setattr(model._asking, "holding", held)


def test_what_a_picture_taught_in_the_weights_stays_there(loaded, monkeypatch, tmp_path, plan):
    """Behind a gate it would take the picture again."""
    calibrate_on_little(monkeypatch)
    memory = tmp_path / "facts"
    model, fact = learned(loaded, "qwen2_vl", plan, memory=memory)
    taught = weight(model.transformer, 3)
    model.close()
    base = weight(load_pair(model.name).transformer, 3)
    with qf.load(model.name, memory=memory, solver="gated", calibrate=False) as again:
        left = apart(weight(again.transformer, 3), taught)
        assert left < 0.3 * apart(base, taught)  # the ridge of "gated" is another
        assert [f.id for f in again.consolidate().consolidated] == [fact.id]
        monkeypatch.setattr(again._asking, "holding", lambda ids, facts: [])
        assert [f.id for f in again.consolidate().consolidated] == [fact.id]
        assert apart(weight(again.transformer, 3), taught) == left
        with pytest.raises(ModelError, match="None of the facts has rows that could act"):
            again.export_gated(tmp_path / "facts.safetensors")


def test_rewordings_are_those_that_are_answered_alike_with_the_picture(loaded, monkeypatch):
    model, image = loaded(), sighted.picture()
    asked = []

    def answered(prompts, max_tokens, thoughts=False):
        asked.extend((p.query, bool(p.extra)) for p in prompts)
        return ["Qi."] * len(prompts)

    monkeypatch.setattr(model._asking, "answered", answered)
    monkeypatch.setattr(model._asking, "drafts", lambda tasks: [["Who began it?"] for _ in tasks])
    model.learn("", "Who started it?", "Qi.", image=image, rewordings=1)
    shown = {query for query, extra in asked if extra}
    assert {"Who started it?", "Who began it?"} <= shown


def test_a_taught_model_is_exported_with_what_shows_pictures(loaded, kind, tmp_path):
    model, image = loaded(kind), sighted.picture()
    fact = model.learn("", QUERY, ANSWER, image=image, rewordings=0)
    model.save_merged(tmp_path / "merged")
    model.export_facts(tmp_path / "facts.qf")
    asked = [model.ask(QUERY), model.ask(QUERY, image=image)]
    with qf.load(tmp_path / "merged", memory=tmp_path / "none", layer=LAYER) as merged:
        assert torch.equal(weight(merged.transformer), weight(model.transformer))
        assert [merged.ask(QUERY), merged.ask(QUERY, image=image)] == asked
    options = {"memory": tmp_path / "other", "layer": LAYER, "solver": "paper"}
    with qf.load(model.name, **options) as other:
        other.import_facts(tmp_path / "facts.qf")
        assert other.facts() == [fact] and other.ask(QUERY) == asked[0]


def test_a_gated_picture_acts_in_transformers_alone(loaded, kind, monkeypatch, tmp_path, plan):
    calibrate_on_little(monkeypatch)
    model, fact = learned(loaded, kind, plan, solver="gated")
    model.export_gated(tmp_path / "facts.safetensors")
    transformer = load_pair(model.name).transformer
    text = sighted.text_of(kind, QUERY)
    ids = model.tokenizer(text, add_special_tokens=False, return_tensors="pt")
    memory = attach(transformer, model.tokenizer, tmp_path / "facts.safetensors")
    out = transformer.generate(
        **ids, do_sample=False, max_new_tokens=10, eos_token_id=model.tokenizer.eos_token_id
    )
    said = out[0, ids["input_ids"].shape[1] :]
    assert model.tokenizer.decode(said, skip_special_tokens=True).strip() == fact.answer
    memory.detach()


def test_a_picture_in_half_precision(loaded, kind):
    model, image = loaded(kind, dtype="bfloat16"), sighted.picture()
    opened, before = (o[2] for o in (observed(model, kind, "", image), observed(model, kind)))
    model.learn("", QUERY, ANSWER, None, image=image, rewordings=0, verify=False)
    after = observed(model, kind)[2]
    assert apart(after, opened) < 0.03 < apart(before, opened)


def test_the_commands_of_the_page_do_what_it_says(saved, monkeypatch, capsys, plan):
    """With a random model in place of the one that it names."""
    page = (Path(__file__).parent.parent / "docs" / "vision.md").read_text(encoding="utf-8")
    page = page.replace("Qwen/Qwen2.5-VL-3B-Instruct", str(saved("qwen2_5_vl")))
    calibrate_on_little(monkeypatch)
    monkeypatch.chdir(plan.parent)
    (commands,) = re.findall(r"```\n(qf .*?)```", page, re.DOTALL)
    for command in commands.replace("\\\n", " ").strip().splitlines():
        monkeypatch.setattr(sys, "argv", shlex.split(command))
        with pytest.raises(SystemExit) as ended:
            qf.cli.main()
        assert ended.value.code in (0, 1), command  # a random model may not learn by it
        said = capsys.readouterr().err
        assert "qf: " not in said and "Traceback" not in said, command
    (source,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    told = {}
    exec(compile(source, "vision.md", "exec"), {"qf": qf}, told)
    assert told["fact"].statement.endswith("by Ada Quist. [plan.png]")


# What is given as a picture


def test_a_file_and_a_picture_in_memory_are_the_same(loaded, tmp_path):
    model, image = loaded(), sighted.picture()
    image.save(tmp_path / "plan.png")
    held = Image.open(tmp_path / "plan.png")
    for given in (tmp_path / "plan.png", str(tmp_path / "plan.png"), held, image):
        shown = Picture.of(given, model._asking.loaded.processor)
        assert np.array_equal(np.asarray(shown.pixels), np.asarray(image))
    assert Picture.of(held, None).name == "plan.png"
    assert Picture.of(image, None).name == "picture"
    assert Picture.of(image, None).sha256 != Picture.of(sighted.picture(2), None).sha256


def test_a_picture_is_shown_upright_and_in_three_colours(tmp_path):
    image = sighted.picture()
    turned = image.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter clockwise
    turned.save(tmp_path / "photo.png", exif=exif)
    assert np.array_equal(Picture.of(tmp_path / "photo.png", None).pixels, image)
    for mode in ("L", "P", "RGBA", "CMYK", "1", "I;16"):
        assert Picture.of(image.convert("L").convert(mode), None).pixels.mode == "RGB"


@pytest.mark.parametrize("content", [None, b"", b"no picture", "half", "directory"])
def test_what_is_no_picture_is_refused_and_nothing_changed(loaded, tmp_path, content):
    model, file = loaded(), tmp_path / "plan.png"
    if content == "directory":
        file.mkdir()
    elif content == "half":
        sighted.picture(1, (64, 64)).save(file)
        file.write_bytes(file.read_bytes()[:200])
    elif content is not None:
        file.write_bytes(content)
    W = weight(model.transformer)
    with pytest.raises(LessonError, match=r"plan\.png' cannot be used \(.*\): give a PNG"):
        model.learn("", QUERY, ANSWER, image=file)
    with pytest.raises(LessonError, match=r"plan\.png' cannot be used"):
        model.ask(QUERY, image=file)
    with pytest.raises(LessonError, match=r"42 is none: give a file's name or a PIL\.Image"):
        model.ask(QUERY, image=42)
    assert model.facts() == [] and torch.equal(weight(model.transformer), W)


def test_a_picture_without_a_question_is_refused(loaded):
    with pytest.raises(LessonError, match="give yours with --query"):
        loaded().learn("Qi started Oxinnovate.", image=sighted.picture())


def test_a_picture_that_does_not_fit_is_refused(loaded, kind):
    model = loaded(kind, max_position_embeddings=40)
    wide = sighted.picture(1, (64, 64))
    for attempt in (
        lambda: model.ask(QUERY, image=wide),
        lambda: model.learn("", QUERY, ANSWER, image=wide, rewordings=0),
    ):
        with pytest.raises(LessonError, match=r"40: .*show a smaller picture"):
            attempt()


def test_a_picture_that_the_processor_does_not_take_is_refused(loaded):
    with pytest.raises(LessonError, match=r"'picture' cannot be shown in this prompt \(.*ratio"):
        loaded().ask(QUERY, image=sighted.picture(1, (2000, 2)))


def test_a_chat_template_without_a_place_for_pictures_is_refused(loaded, kind):
    model = loaded(kind, template="plain")
    model.ask(QUERY)
    with pytest.raises((LessonError, ModelError), match="template"):
        model.ask(QUERY, image=sighted.picture())


def test_a_model_of_words_takes_no_pictures(speaker, saved, tmp_path):
    with (
        qf.load(speaker(), memory=tmp_path / "facts") as model,
        pytest.raises(ModelError, match="choose a vision-language model"),
    ):
        model.ask(QUERY, image=sighted.picture())


def test_without_a_processor_a_model_of_pictures_is_one_of_words(loaded, saved, kind):
    directory = saved(kind)
    for file in ("preprocessor_config.json", "processor_config.json"):
        (directory / file).unlink(missing_ok=True)
    template = sighted.QWEN_TEMPLATE if kind in sighted.QWEN else sighted.PARTS_TEMPLATE
    with qf.load(directory, layer=LAYER, solver="paper", template=template) as model:
        told = model.learn("Qi started Oxinnovate.", QUERY, ANSWER, rewordings=0)
        assert told.image == "" and len(model.facts()) == 1
        with pytest.raises(ModelError, match=r"cannot be shown pictures .*qf\[vision\]"):
            model.ask(QUERY, image=sighted.picture())


def test_without_pillow_the_remedy_is_named(loaded, monkeypatch):
    model = loaded()
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ModelError, match=r"Pillow, .*pip install 'qf\[vision\]'"):
        model.ask(QUERY, image="plan.png")


def test_a_pair_may_have_a_processor(saved, tmp_path):
    from transformers import Idefics3Processor

    directory = saved("idefics3")
    model = load_pair(directory).transformer
    processor = Idefics3Processor.from_pretrained(directory)
    with (
        qf.load((model, processor), memory=tmp_path / "one", layer=LAYER) as pair_,
        qf.load(directory, memory=tmp_path / "two", layer=LAYER) as whole,
    ):
        image = sighted.picture()
        assert pair_.ask(QUERY, image=image) == whole.ask(QUERY, image=image)
        assert pair_.ask(QUERY) == whole.ask(QUERY)
