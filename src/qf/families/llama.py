"""Llama 2 and 3 and what is built like them; the only one here whose W may come with a bias."""

from qf.families.base import Family

FAMILY = Family("llama")
