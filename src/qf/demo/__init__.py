"""The embedded model and the small world that it was trained on.

`names`, `relations` and `curriculum` generate that world from a seed; `facts.csv` holds what the
model knows; `model/` holds the weights and their card. Nothing here knows how learning works.
"""
