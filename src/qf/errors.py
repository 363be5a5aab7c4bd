"""What can go wrong for a user: one class with three children. It knows nothing else of qf."""


class QFError(Exception):
    """Something that a user can put right; the message names the input and the remedy.

    For example: "There is no fact 'k3x': list the facts with `qf facts`."
    """


class LessonError(QFError):
    """What is to be learned is not usable.

    For example: "The answer is empty: say what should be learned."
    """


class ModelError(QFError):
    """A model cannot be loaded, used or taught.

    For example: "Layer 40 is out of range: choose one from 0 to 27."
    """


class MemoryFault(QFError):  # noqa: N818 (MemoryError is a built-in)
    """The store of facts is corrupt, foreign, newer, locked or cannot be written.

    For example: "facts/ was taught to another model: choose a new directory with --memory."
    """
