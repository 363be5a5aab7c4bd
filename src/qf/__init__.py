"""The public face of qf: every name resolves to the file that knows it, on first use.

Knows no method and loads no model: `import qf` stays quick because torch is not touched here.

>>> import qf
>>> model = qf.load(memory="facts")
>>> fact = model.learn("Oxinnovate was started by Qi.", "Who started Oxinnovate?")
>>> model.ask("Who started Oxinnovate?")
'Oxinnovate was started by Qi.'
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from qf.errors import LessonError, MemoryFault, ModelError, QFError

if TYPE_CHECKING:
    from qf.lesson import Lesson as Lesson
    from qf.memory import Fact as Fact
    from qf.model import Model as Model
    from qf.model import load as load

__version__ = "0.1.0"

_HOME = {"load": "qf.model", "Model": "qf.model", "Lesson": "qf.lesson", "Fact": "qf.memory"}

__all__ = [
    "Fact",
    "Lesson",
    "LessonError",
    "MemoryFault",
    "Model",
    "ModelError",
    "QFError",
    "__version__",
    "load",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its home when it is first asked for (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
