"""Mistral; a sliding attention window changes v and u, not where they are."""

from qf.families.base import Family

FAMILY = Family("mistral", ("mistralai/Mistral-7B-Instruct-v0.3",))
