"""Gemma, the first: its norms multiply by 1 + g and its embeddings are scaled, in front of v."""

from qf.families.base import Family

FAMILY = Family("gemma", ("google/gemma-1.1-2b-it", "google/gemma-1.1-7b-it"))
