"""Phi-3, Phi-3.5 and Phi-4; gate and up projection are one matrix, the output projection is W."""

from qf.families.base import Family

FAMILY = Family("phi3", ("microsoft/Phi-3.5-mini-instruct", "microsoft/phi-4"))
