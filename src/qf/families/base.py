"""Where a decoder layer of the form y = W u + v keeps its parts. Knows modules, no lessons.

    u  (T, D)  the MLP's inner activations: the input of its output projection
    W  (N, D)  the weight of that projection
    z  (T, N)  what it gives: W u, and its bias b where it has one
    v  (T, N)  all that the layer adds to z: the residual in front of the MLP, and the attention's
               output where attention and MLP stand side by side
    y  (T, N)  the layer's output, z + v

A family whose layers multiply z by a number s has y and v divided by it, which leaves W u alone:
y / s = z + v / s. One whose layers do other things to z says so in `output` and `missing`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers.pytorch_utils import Conv1D

from qf.errors import ModelError
from qf.families.placement import at_hand, quantised, unwritable, values, whole


@dataclass(frozen=True)
class Family:
    """One model type and its places; what is not given is that of the Llama group.

    A projection with a bias b changes nothing for the method: b cancels in y - y', so W alone is
    read and written. `stack`, `W` and `v` name, within the decoder and within a layer, where the
    layers are, the module that holds W, and the one whose input is v.

    `packed`: whether several sequences can lie in one row, told apart by positions that start
    again; else each runs alone. `limits`: what keeps W from giving any output y, for people to
    read; empty where nothing does. `examples` are names on the Hugging Face hub. `by_parameter`:
    whether an adapter for PEFT has to name W as a parameter, and not the module that holds it.
    """

    name: str
    examples: tuple[str, ...] = ()
    stack: str = "layers"
    W: str = "mlp.down_proj"
    v: str = "post_attention_layernorm"
    packed: bool = True
    limits: str = ""
    by_parameter: bool = False

    def unfit(self, config: Any) -> str:
        """Why a model of this type is not of this form after all; empty where it is."""
        return ""

    def decoder(self, model: Any) -> Any:
        """Return the text model without its vocabulary head: embeddings, layers, last norm."""
        return model.get_decoder()

    def layers(self, model: Any) -> nn.ModuleList:
        """Return the decoder layers, lowest first."""
        layers = getattr(self.decoder(model), self.stack)
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

    def taught(self, model: Any, index: int) -> nn.Module:
        """Return decoder layer `index`, once it is seen that it can be taught.

        All layers are looked at, so this is for the choice of a layer and not for its passes.

        Raises ModelError as `layer` does, and when its projection is another layer's too.
        """
        layer = self.layer(model, index)
        if others := self.sharing(model, index):
            raise ModelError(
                f"Layer {index} has its output projection in common with layer {others[0]}, so that"
                " neither can be taught alone: choose another layer (--layer)."
            )
        return layer

    def sharing(self, model: Any, index: int) -> list[int]:
        """Return the other layers whose projection is the very module of layer `index`."""
        layers = self.layers(model)
        W = self.projection(layers[index])
        shared = (i for i, layer in enumerate(layers) if any(m is W for m in layer.modules()))
        return [i for i in shared if i != index]

    def projection(self, layer: nn.Module) -> nn.Module:
        """Return the module that holds W: its input is u, its output z.

        Raises ModelError when it is no linear layer, or one with an adapter around it.
        """
        module: Any = layer.get_submodule(self.W)
        linear = isinstance(module, _LINEAR) or hasattr(module, "in_features")
        if not linear or hasattr(module, "base_layer") or not hasattr(module, "weight"):
            raise ModelError(
                f"The MLP's output projection is a {type(module).__name__} and not a linear layer:"
                " load the model without adapters."
            )
        return module

    def shape(self, projection: nn.Module) -> tuple[int, int]:
        """Return (N, D), the shape of W."""
        module: Any = projection
        if isinstance(module, Conv1D):
            return module.nf, module.nx
        return module.out_features, module.in_features

    def unwritable(self, model: Any, projection: nn.Module) -> str:
        """Why no other W can be put into a projection of a model; empty where one can."""
        for index, layer in enumerate(self.layers(model)):
            others = (m for m in layer.modules() if m is not projection)
            if any(p is projection.weight for m in others for p in m.parameters(recurse=False)):
                return f"shared with layer {index}"
        return unwritable(projection, _kind(projection))

    def weight(self, projection: nn.Module) -> Tensor:
        """Return the values of W, (N, D), that a projection has now: a view of them.

        Of a sharded W they are a copy; of one that is offloaded or quantised there are none.
        """
        W = values(_parameter(projection))
        return W.T if isinstance(projection, Conv1D) else W

    @contextmanager
    def at_hand(self, projection: nn.Module) -> Iterator[Tensor | None]:
        """Give W (N, D) inside the block, wherever it is kept; None where it is quantised."""
        with at_hand(projection):
            packed = quantised(projection, _kind(projection))
            yield None if packed else self.weight(projection)

    def put(self, projection: nn.Module, W: Tensor) -> None:
        """Let W, (N, D), be the projection's; it is not copied. It must be writable."""
        _parameter(projection).data = W.T if isinstance(projection, Conv1D) else W

    def inputs(self, projection: nn.Module, x: Tensor) -> Tensor:
        """Return u (..., D) from what a process gives the projection: all of u, or its part."""
        return whole(projection, x, self.shape(projection)[1])

    def on_residual(
        self, layer: nn.Module, keep: Callable[[Tensor], None]
    ) -> list[RemovableHandle]:
        """Have `keep` called with v in each pass of the layer; return the hooks."""
        s = self.scale(layer)

        def at_point(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            keep(inputs[0] if s == 1 else inputs[0].float() / s)

        return [layer.get_submodule(self.v).register_forward_pre_hook(at_point)]

    def output(self, layer: nn.Module, z: Tensor, v: Tensor) -> Tensor:
        """Return y: (T, N) from z and v."""
        return z + v

    def missing(self, layer: nn.Module, z: Tensor, v: Tensor, y: Tensor) -> Tensor:
        """Return what has to be added to z, (T, N), for the layer's output to be y."""
        return y - self.output(layer, z, v)

    def scale(self, layer: nn.Module) -> float:
        """Return s, which y and v are divided by."""
        return 1.0

    def inner(self, layer: nn.Module) -> nn.Module:
        """Return a linear module that no teaching changes: a model is told by it."""
        W = self.projection(layer)
        linear = (m for m in layer.modules() if isinstance(m, _LINEAR))
        return next(m for m in linear if m is not W)

    def logits(self, model: Any, states: Tensor) -> Tensor:
        """Return (..., vocabulary) from the decoder's states (..., N), as the model does."""
        return model.get_output_embeddings()(states)


_LINEAR = (nn.Linear, Conv1D)  # a Conv1D stores W transposed, (D, N)


def _kind(projection: nn.Module) -> type[nn.Module]:
    """The type of a projection that computes nothing but W u."""
    return Conv1D if isinstance(projection, Conv1D) else nn.Linear


def _parameter(projection: nn.Module) -> nn.Parameter:
    weight = projection.weight
    assert isinstance(weight, nn.Parameter)
    return weight
