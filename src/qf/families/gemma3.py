"""Gemma 3, the text part of those that see as well: built like Gemma 2."""

from qf.families.gemma2 import Gemma2

FAMILY = Gemma2("gemma3_text", ("google/gemma-3-1b-it", "google/gemma-3-4b-it"))
