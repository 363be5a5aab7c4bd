"""The public face: which names it offers, and what `import qf` does not load."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import qf

NAMES = {
    "load",
    "Model",
    "Lesson",
    "Fact",
    "QFError",
    "LessonError",
    "ModelError",
    "MemoryFault",
    "__version__",
}


def modules_after(statement: str) -> set[str]:
    """The names of all modules that a new Python process holds after `statement`."""
    script = f"{statement}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


HEAVY = {"torch", "transformers", "numpy", "matplotlib", "typer", "rich", "tokenizers"}


def test_importing_qf_loads_nothing_heavy():
    assert not modules_after("import qf; from qf import QFError; dir(qf)") & HEAVY


def test_the_probe_sees_a_heavy_import():
    assert "numpy" in modules_after("import qf, numpy")


def test_the_public_names_are_listed():
    assert set(qf.__all__) == NAMES
    assert set(dir(qf)) >= NAMES


@pytest.mark.parametrize("name", sorted(NAMES))
def test_each_public_name_is_what_its_home_defines(name):
    value = getattr(qf, name)
    if name != "__version__":
        assert value.__name__ == name
        assert value is getattr(sys.modules[value.__module__], name)
    assert name in vars(qf), "a name is looked up once"


def test_the_errors_share_one_parent():
    for child in (qf.LessonError, qf.ModelError, qf.MemoryFault):
        assert issubclass(child, qf.QFError)


def test_an_unknown_name_is_an_attribute_error_that_names_it():
    with pytest.raises(AttributeError, match="'qf' has no attribute 'teach'"):
        _ = qf.teach
    assert not hasattr(qf, "teach")


def test_the_constraints_pin_exact_versions_and_no_local_builds():
    root = Path(__file__).parent.parent
    lines = (root / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    assert not [pin for pin in pins.items() if set("+@/ ") & set("".join(pin))]

    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["dev"]
    named = {line.split(">=")[0].lower() for line in wanted}
    assert named <= {name.lower() for name in pins}
