"""Where a decoder layer of the form y = W u + v keeps its parts. Knows modules, no mathematics.

    v  (T, N)  the residual that enters the MLP: the input of the norm in front of it
    u  (T, D)  the MLP's inner activations: the input of its output projection
    W  (N, D)  the weight of that projection; y, the layer's output, is W u + v

This holds wherever the projection's output is added to the residual as it is (pre-norm).
"""

from dataclasses import dataclass
from typing import Any

from torch import nn

from qf.errors import ModelError


@dataclass(frozen=True)
class Family:
    """The rule of the Llama group of architectures; `name` is the model type it is used for.

    A projection with a bias b changes nothing for the method: y = W u + b + v, and b cancels in
    y - y', so W alone is read and written.
    """

    name: str

    def decoder(self, model: Any) -> Any:
        """Return the text model without its vocabulary head: embeddings, layers, last norm."""
        return model.get_decoder()

    def layers(self, model: Any) -> nn.ModuleList:
        """Return the decoder layers, lowest first."""
        layers = self.decoder(model).layers
        assert isinstance(layers, nn.ModuleList)
        return layers

    def layer(self, model: Any, index: int) -> nn.Module:
        """Return decoder layer `index`; raises ModelError when there is none of that number."""
        layers = self.layers(model)
        if not 0 <= index < len(layers):
            raise ModelError(
                f"Layer {index} is out of range: choose one from 0 to {len(layers) - 1}."
            )
        return layers[index]

    def projection(self, layer: nn.Module) -> nn.Linear:
        """Return the module that holds W: its input is u.

        Raises ModelError when it is no plain linear layer: W must be readable and writable.
        """
        mlp: Any = layer.mlp
        module = mlp.down_proj
        if not isinstance(module, nn.Linear) or not module.weight.is_floating_point():
            raise ModelError(
                f"The MLP's output projection is a {type(module).__name__} and not a plain linear"
                " layer: load the model unquantised and without adapters."
            )
        return module

    def residual_point(self, layer: nn.Module) -> nn.Module:
        """Return the module whose input is v."""
        module = layer.post_attention_layernorm
        assert isinstance(module, nn.Module)
        return module

    def inner(self, layer: nn.Module) -> nn.Module:
        """Return a module of the MLP below u, which no teaching changes: a model is told by it."""
        mlp: Any = layer.mlp
        assert isinstance(mlp.up_proj, nn.Module)
        return mlp.up_proj
