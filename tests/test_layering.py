"""Who may import whom, and who may speak to the user: read off the source of src/qf.

The tables are the architecture. A file takes the longest entry that its name starts with; a file
without an entry fails, so that each new one gets its place here.
"""

import ast
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "qf"

# module: the modules of qf that it may import, each with all that lies below it in the package.
# "qf" alone is the public face, which the parts above `model` may use.
METHOD = ["qf.method", "qf.families", "qf.lesson", "qf.chat", "qf.errors"]
STORES = [
    "qf.memory",
    "qf.database",
    "qf.digest",
    "qf.calibration",
    "qf.calibrator",
    "qf.cues",
    "qf.export",
    "qf.qf_memory",
    "qf.paraphrases",
    "qf.recall",
    "qf.records",
    "qf.study",
    "qf.tasks",
    *METHOD,
]
MODEL = [
    "qf.model",
    "qf.loading",
    "qf.generate",
    "qf.picture",
    "qf.processes",
    "qf.room",
    *STORES,
]
# What `qf.model` is made of, each of what comes before it; those above know the model alone.
PARTS = [
    "qf.acting",
    "qf.remembered",
    "qf.binding",
    "qf.asking",
    "qf.solving",
    "qf.recording",
    "qf.remembering",
    "qf.learning",
    "qf.balancing",
    "qf.consolidate",
    "qf.transfer",
]
BELOW = [m for m in MODEL if m != "qf.model"]
ABOVE = ["qf.evaluate", "qf.bulk", "qf.demo"]
SHARED = ["qf.cli.opening", "qf.cli.options", "qf.cli.say"]
COMMANDS = ["qf", "qf.plot", "qf.doctor", *SHARED, *ABOVE, *MODEL]
MAY_IMPORT = {
    "qf.cli": ["qf.cli", "qf.serve.commands", "qf.errors"],
    "qf.cli.opening": ["qf.cli.options", "qf.cli.say", "qf.model", "qf.errors"],
    "qf.cli.options": ["qf.errors"],
    "qf.cli.say": ["qf.memory"],
    "qf.cli.asking": COMMANDS,
    "qf.cli.checking": COMMANDS,
    "qf.cli.demo": COMMANDS,
    "qf.cli.evaluating": COMMANDS,
    "qf.cli.leaving": COMMANDS,
    "qf.cli.measuring": COMMANDS,
    "qf.cli.remembering": COMMANDS,
    "qf.cli.teaching": COMMANDS,
    "qf.serve": ["qf", "qf.serve", *MODEL],
    "qf.serve.commands": [*SHARED, "qf.serve", "qf.errors"],
    "qf.doctor": ["qf", *MODEL],
    "qf.evaluate": ["qf", "qf.evaluate", *MODEL],
    "qf.evaluate.datasets": ["qf.errors"],
    "qf.evaluate.journal": ["qf.errors"],
    "qf.evaluate.material": ["qf.evaluate", "qf.demo", *MODEL],
    "qf.evaluate.metrics": [],
    "qf.evaluate.peak": [],
    "qf.evaluate.published": ["qf.evaluate", *MODEL],
    "qf.evaluate.run": ["qf", "qf.evaluate", *MODEL],
    "qf.bulk": ["qf", "qf.bulk", *MODEL],
    "qf.model": ["qf.demo", *PARTS, *MODEL],
    **{part: [*PARTS[:i], *BELOW] for i, part in enumerate(PARTS)},
    "qf.loading": ["qf.chat", "qf.picture", "qf.room", "qf.errors"],
    "qf.processes": [],
    "qf.room": ["qf.errors"],
    "qf.picture": ["qf.errors"],
    "qf.generate": ["qf.families", "qf.chat", "qf.errors"],
    "qf.plot": ["qf.method", "qf.errors"],
    "qf.memory": STORES,
    "qf.export": STORES,
    "qf.qf_memory": [],
    "qf.study": STORES,
    "qf.calibration": ["qf.method", "qf.errors"],
    "qf.calibrator": ["qf.calibration", "qf.paraphrases", *METHOD],
    "qf.cues": ["qf.demo.worded"],
    "qf.paraphrases": ["qf.demo"],
    "qf.recall": ["qf.cues", *METHOD],
    "qf.records": ["qf.memory"],
    "qf.database": ["qf.errors"],
    "qf.digest": ["qf.errors"],
    "qf.tasks": [],
    "qf.method": METHOD,
    "qf.method.solve": ["qf.errors"],
    "qf.families": ["qf.families", "qf.errors"],
    "qf.lesson": ["qf.chat", "qf.errors"],
    "qf.chat": ["qf.errors"],
    "qf.errors": [],
    "qf.demo": ["qf.demo", "qf.tasks", "qf.errors"],
    "qf.demo.table": ["qf", "qf.demo", "qf.evaluate", *MODEL],
    "qf.demo.measure": ["qf", "qf.demo", "qf.evaluate", *MODEL],
    "qf": ["qf.model", "qf.memory", "qf.lesson", "qf.errors"],
}

# Exceptions to the table above.
MAY_NOT_IMPORT = {
    "qf.memory": ["qf.method.passes"],
    "qf.demo": ["qf.demo.table", "qf.demo.measure"],
    "qf.model": ["qf.demo.table", "qf.demo.measure"],
}

# module: what it may import from outside of qf and of Python's library; None or no entry: anything.
MAY_INSTALL: dict[str, list[str] | None] = {
    "qf": [],
    "qf.errors": [],
    "qf.tasks": [],
    "qf.evaluate.datasets": [],
    "qf.evaluate.journal": [],
    "qf.evaluate.metrics": [],
    "qf.evaluate.peak": ["torch"],
    "qf.method.solve": ["torch"],
    "qf.qf_memory": ["torch", "safetensors"],
    "qf.demo": [],
    "qf.demo.table": None,
    "qf.demo.measure": None,
    "qf.demo.wider": None,
}

# The files that print and exit: the command line, and the commands that it takes from elsewhere.
SPEAKER = "qf.cli"
SPEAKERS = (SPEAKER, "qf.serve.commands")
SPEECH = {"print", "exit", "quit", "SystemExit", "Console"}
SPEECH_OF_MODULES = {
    "sys": {"exit", "stdout", "stderr"},
    "os": {"_exit", "abort"},
    "rich": {"print", "get_console"},
    "rich.console": {"Console"},
}


@dataclass(frozen=True)
class Import:
    """`from module import name`, or `import module` where the name is empty."""

    module: str
    name: str
    line: int


def entry(table: Mapping[str, Any], module: str) -> str:
    """The longest key of `table` that is `module` or a package around it, or ""."""
    if module in table or not module:
        return module
    above = module.rpartition(".")[0]
    return "" if above == "qf" else entry(table, above)


def lies_in(module: str, package: str) -> bool:
    return module == package or (package != "qf" and module.startswith(package + "."))


def speaks(module: str) -> bool:
    return any(lies_in(module, speaker) for speaker in SPEAKERS)


def modules(source: Path) -> dict[str, Path]:
    """The name of each module below `source`, a package called qf, and its file."""
    names = {}
    for file in sorted(source.rglob("*.py")):
        parts = file.relative_to(source).with_suffix("").parts
        names[".".join(["qf", *(p for p in parts if p != "__init__")])] = file
    return names


def imports(tree: ast.AST, module: str, is_package: bool) -> Iterator[Import]:
    """Every import in the file: at the top, in functions, and for type checkers only."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, "", node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                around = module.split(".")
                kept = around[: len(around) - node.level + is_package]
                base = ".".join([*kept, *([base] if base else [])])
            yield from (Import(base, alias.name, node.lineno) for alias in node.names)


def import_faults(name: str, found: Import, known: dict[str, Path]) -> Iterator[str]:
    inside = f"{found.module}.{found.name}"
    target = inside if inside in known else found.module
    package = target.partition(".")[0]
    if package == "qf":
        if (target, found.name) == ("qf", "__version__"):
            return
        row = entry(MAY_IMPORT, name)
        refused = any(lies_in(target, m) for m in MAY_NOT_IMPORT.get(row, []))
        if refused or not any(lies_in(target, m) for m in MAY_IMPORT[row]):
            yield f"line {found.line}: {name} may not import {target}"
    elif package not in sys.stdlib_module_names:
        allowed = MAY_INSTALL.get(entry(MAY_INSTALL, name))
        if allowed is not None and package not in allowed:
            yield f"line {found.line}: {name} may not import {package}"
        if package == "typer" and not speaks(name):
            yield f"line {found.line}: only {SPEAKER} may import typer"


def speech(tree: ast.AST, found: list[Import]) -> Iterator[str]:
    """Each place where the file prints, asks or exits."""
    for item in found:
        if item.name in SPEECH_OF_MODULES.get(item.module, ()):
            yield f"line {item.line}: {item.module}.{item.name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in SPEECH:
            yield f"line {node.lineno}: {node.id}"
        elif isinstance(node, ast.Attribute):
            owner = ast.unparse(node.value)
            if node.attr in SPEECH_OF_MODULES.get(owner, ()) or node.attr == "Console":
                yield f"line {node.lineno}: {owner}.{node.attr}"


def faults(source: Path) -> list[str]:
    """What breaks the rules of this page in the package at `source`, one sentence each."""
    known, out = modules(source), []
    for name, file in known.items():
        if not entry(MAY_IMPORT, name):
            out.append(f"{name} has no place in MAY_IMPORT: add it to tests/test_layering.py")
            continue
        tree = ast.parse(file.read_text(encoding="utf-8"), str(file))
        found = list(imports(tree, name, file.name == "__init__.py"))
        for item in found:
            out += (f"{name}, {fault}" for fault in import_faults(name, item, known))
        if not speaks(name):
            out += (f"{name}, {f}: only {SPEAKER} prints or exits" for f in speech(tree, found))
    return out


def test_the_package_keeps_its_layers():
    assert modules(SOURCE), "the test must look at the package"
    assert faults(SOURCE) == []


LEGAL = {
    "__init__.py": "from qf.errors import QFError",
    "errors.py": "import enum",
    "lesson.py": "import transformers\nfrom qf.errors import LessonError",
    "families/__init__.py": "from qf.families import qwen2\nfrom . import qwen2",
    "families/qwen2.py": "import torch",
    "method/__init__.py": "from qf.method.solve import solve",
    "method/solve.py": "import math\nimport torch\nfrom torch import Tensor\nfrom qf import errors",
    "method/passes.py": "from .solve import solve\nfrom ..lesson import Lesson\nimport qf.families",
    "memory.py": "import sqlite3\nfrom qf import __version__\nfrom qf.method.solve import solve",
    "model.py": "from qf.memory import Fact\nfrom qf.method import passes\nimport qf.demo",
    "acting.py": "from qf.recall import Recall",
    "recording.py": "from qf.acting import Acting\nfrom qf.memory import FactRows",
    "serve/app.py": "from qf.model import Model\nimport qf",
    "demo/__init__.py": "",
    "demo/world.py": "import random\nfrom qf.demo import names",
    "demo/names.py": "import string",
    "demo/table.py": "from qf.model import Model\nimport rich.table",
    "cli/__init__.py": "import sys\nimport typer\nfrom qf.cli import asking\nsys.exit(2)",
    "cli/asking.py": "import typer\nfrom qf.cli.say import say\nimport qf.model\nprint(1)",
    "cli/say.py": "from rich.console import Console\nprint(1)",
}

ILLEGAL = [
    ("method/solve.py", "import numpy", "qf.method.solve may not import numpy"),
    ("method/solve.py", "from qf.lesson import Lesson", "may not import qf.lesson"),
    ("method/solve.py", "from . import passes", "may not import qf.method.passes"),
    ("method/passes.py", "from qf.memory import Fact", "may not import qf.memory"),
    (
        "method/passes.py",
        "def f():\n    import qf.model",
        "line 2: qf.method.passes may not import",
    ),
    ("method/passes.py", "from qf import load", "qf.method.passes may not import qf"),
    ("families/qwen2.py", "from ..method import solve", "may not import qf.method.solve"),
    ("lesson.py", "from qf.families import qwen2", "may not import qf.families.qwen2"),
    ("errors.py", "import torch", "qf.errors may not import torch"),
    ("__init__.py", "import torch", "qf may not import torch"),
    ("memory.py", "from qf.method import passes", "may not import qf.method.passes"),
    ("memory.py", "from .model import Model", "may not import qf.model"),
    ("model.py", "from qf import cli", "may not import qf.cli"),
    ("acting.py", "from qf.model import Model", "may not import qf.model"),
    ("recording.py", "from qf.learning import Learning", "may not import qf.learning"),
    ("serve/app.py", "from qf.learning import Learning", "may not import qf.learning"),
    ("model.py", "from qf.demo import table", "may not import qf.demo.table"),
    ("serve/app.py", "import qf.cli", "may not import qf.cli"),
    ("cli/say.py", "from qf.cli import asking", "qf.cli.say may not import qf.cli.asking"),
    ("cli/teaching.py", "from .asking import ask", "may not import qf.cli.asking"),
    ("demo/world.py", "import torch", "qf.demo.world may not import torch"),
    ("demo/names.py", "from qf.lesson import Lesson", "may not import qf.lesson"),
    ("demo/world.py", "from . import table", "may not import qf.demo.table"),
    ("demo/table.py", "from qf.cli import main", "may not import qf.cli"),
    ("model.py", "if True:\n    print('x')", "qf.model, line 2: print: only qf.cli"),
    ("model.py", "say = print", "line 1: print: only qf.cli"),
    ("model.py", "import sys\nsys.exit(1)", "sys.exit: only qf.cli"),
    ("model.py", "from sys import exit as leave", "sys.exit: only qf.cli"),
    ("model.py", "raise SystemExit(1)", "SystemExit: only qf.cli"),
    ("model.py", "import typer\nraise typer.Exit(1)", "only qf.cli may import typer"),
    ("demo/table.py", "from rich.console import Console", "rich.console.Console: only qf.cli"),
    ("demo/table.py", "import rich.console as c\nc.Console()", "c.Console: only qf.cli"),
    ("helpers.py", "", "qf.helpers has no place in MAY_IMPORT"),
]


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A small package that keeps the rules, with some files of the real one missing."""
    for name, text in LEGAL.items():
        file = tmp_path / "qf" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return tmp_path / "qf"


def test_a_package_that_keeps_the_rules_passes(package):
    assert faults(package) == []


@pytest.mark.parametrize(("name", "text", "expected"), ILLEGAL)
def test_a_violation_is_named(package, name, text, expected):
    (package / name).write_text(text)
    found = faults(package)
    assert any(expected in fault for fault in found), found
