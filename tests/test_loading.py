"""From names to models: what loads, and one clear sentence for what does not."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import qf
from qf.chat import PLAIN_TEMPLATE
from qf.errors import ModelError
from qf.loading import EMBEDDED, embedded_path, load_pair


@pytest.fixture
def saved(speaker: Any, tmp_path: Path) -> Path:
    """The directory of a saved model."""
    for part in speaker():
        part.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def refusal(load: Callable[[], object]) -> str:
    """The message of the ModelError: one line, one sentence."""
    with pytest.raises(ModelError) as caught:
        load()
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".") and ".." not in message.split("'")[-1]
    return message


def test_a_directory_loads_as_it_was_saved(saved: Path, speaker: Any) -> None:
    loaded = load_pair(str(saved))
    original, tokenizer = speaker()
    assert loaded.name == str(saved) and not loaded.transformer.training
    assert loaded.tokenizer.chat_template == tokenizer.chat_template
    for name, tensor in original.state_dict().items():
        assert torch.equal(loaded.transformer.state_dict()[name], tensor), name
    assert load_pair(saved).name == str(saved)


def test_a_pair_is_taken_as_it_is(speaker: Any) -> None:
    transformer, tokenizer = speaker()
    loaded = load_pair((transformer.train(), tokenizer))
    assert loaded.transformer is transformer and loaded.tokenizer is tokenizer
    assert not transformer.training and loaded.name


def test_the_environment_names_the_model(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QF_MODEL", str(saved))
    assert load_pair().name == str(saved)


def test_the_embedded_model_is_part_of_the_package() -> None:
    assert embedded_path().parent.parent == Path(qf.__file__).parent
    assert (embedded_path() / "config.json").is_file()
    assert load_pair().name == EMBEDDED


def test_the_precision_is_the_checkpoints_own_or_what_is_asked_for(saved: Path) -> None:
    assert load_pair(saved).transformer.dtype == torch.float32
    assert load_pair(saved, dtype="bfloat16").transformer.dtype == torch.bfloat16
    load_pair(saved, dtype="bfloat16").transformer.save_pretrained(saved)
    assert load_pair(saved).transformer.dtype == torch.bfloat16


def test_an_unknown_precision_or_device_is_refused(saved: Path) -> None:
    said = refusal(lambda: load_pair(saved, dtype="int4"))
    assert "'int4' is unknown" in said and "bfloat16" in said
    said = refusal(lambda: load_pair(saved, device="abacus"))
    assert "'abacus' cannot be used" in said and "--device cpu" in said


@pytest.mark.parametrize("name", ["./nothing", "/nothing/at/all", "~/nothing", "a/b/c"])
def test_a_missing_directory_is_refused(name: str) -> None:
    said = refusal(lambda: load_pair(name))
    assert repr(name) in said and "directory" in said and "hub" in said


@pytest.mark.parametrize("name", ["nobody/nothing", "nothing"])
def test_a_hub_name_that_cannot_be_reached_is_refused(name: str) -> None:
    said = refusal(lambda: load_pair(name))
    assert repr(name) in said and "hub cannot be reached" in said and "check the name" in said


def test_a_directory_without_a_model_is_refused(tmp_path: Path) -> None:
    said = refusal(lambda: load_pair(tmp_path))
    assert "no model in" in said and "config.json" in said
    file = tmp_path / "weights.bin"
    file.write_bytes(b"")
    assert "no model in" in refusal(lambda: load_pair(file))


@pytest.mark.parametrize(
    "file", ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
)
@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00garbage"])
def test_broken_files_are_refused(saved: Path, file: str, content: bytes) -> None:
    (saved / file).write_bytes(content)
    said = refusal(lambda: load_pair(saved))
    assert str(saved) in said and "huggingface.co" not in said


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.json"])
def test_missing_files_are_refused(saved: Path, file: str) -> None:
    (saved / file).unlink()
    said = refusal(lambda: load_pair(saved))
    assert str(saved) in said and "huggingface.co" not in said


def test_code_of_a_models_own_is_run_only_on_demand(saved: Path) -> None:
    config = json.loads((saved / "config.json").read_text())
    config |= {"model_type": "homemade", "auto_map": {"AutoConfig": "own.OwnConfig"}}
    (saved / "config.json").write_text(json.dumps(config))
    (saved / "own.py").write_text("raise SystemExit('was run')")
    assert "pass --trust-remote-code" in refusal(lambda: load_pair(saved))


def test_a_template_replaces_the_models_own(saved: Path, tmp_path: Path) -> None:
    assert load_pair(saved, template="plain").tokenizer.chat_template == PLAIN_TEMPLATE
    text = "{% for m in messages %}{{ m['content'] }} é{% endfor %}"
    assert load_pair(saved, template=text).tokenizer.chat_template == text
    (tmp_path / "own.jinja").write_text(text, encoding="utf-8")
    path = str(tmp_path / "own.jinja")
    assert load_pair(saved, template=path).tokenizer.chat_template == text


def test_a_template_that_cannot_be_read_is_refused(saved: Path, tmp_path: Path) -> None:
    said = refusal(lambda: load_pair(saved, template="nothing.jinja"))
    assert "'nothing.jinja' cannot be read" in said and "plain" in said
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "binary", tmp_path):
        said = refusal(lambda path=path: load_pair(saved, template=str(path)))
        assert re.search("cannot be read .*'plain'", said)
