"""How well facts are learned: published data to teach from, and the figures others report.

`datasets` reads files of knowledge editing, `metrics` turns answers and probabilities into
figures. Neither knows a model.
"""
