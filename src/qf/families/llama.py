"""Llama 2 and 3 and what is built like them, such as SmolLM; W may come with a bias.

The decoders of SmolVLM and Idefics 3 are of this type.
"""

from qf.families.base import Family

FAMILY = Family(
    "llama",
    (
        "meta-llama/Llama-3.2-1B-Instruct",
        "HuggingFaceTB/SmolLM2-1.7B-Instruct",
        "HuggingFaceTB/SmolVLM-Instruct",
    ),
)
