"""Granite 4: built like the shared form of Granite 3, with experts or none, Mamba or attention."""

from qf.families.granitemoeshared import GraniteShared

FAMILY = GraniteShared(
    "granitemoehybrid",
    ("ibm-granite/granite-4.0-micro", "ibm-granite/granite-4.0-h-tiny"),
    W="shared_mlp.output_linear",
    experts="block_sparse_moe",
    dense="shared_mlp.output_linear",
    size="shared_intermediate_size",
    packed=False,
    by_parameter=False,
)
