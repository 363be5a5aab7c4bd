"""SmolLM3: some layers leave out the rotation of queries and keys, which changes no place."""

from qf.families.base import Family

FAMILY = Family("smollm3", ("HuggingFaceTB/SmolLM3-3B",))
