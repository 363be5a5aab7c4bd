"""Where the weights of a module are, and whether they can be written.

Knows modules of torch, and what others do to them: Accelerate brings offloaded weights for the time
of a pass (its hook is the module's `_hf_hook`), tensor parallelism makes them DTensors, and
quantisation packs them in types of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

PLAIN = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def unwritable(module: nn.Module, kind: type[nn.Module]) -> str:
    """Why the weight of a linear module cannot be replaced by another; empty where it can.

    `kind` is the type of a module that computes nothing but its weight times its input.
    """
    weight: Any = module.weight
    if sharded(module):
        return "sharded over processes"
    if isinstance(weight, Tensor) and weight.is_meta:
        return "offloaded"
    return f"quantised, {_form(module)}" if quantised(module, kind) else ""


def quantised(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether the weight of a linear module is no matrix of plain numbers."""
    weight: Any = module.weight
    data = weight.to_local() if sharded(module) else getattr(weight, "data", None)
    of_kind = type(module) is kind or (
        isinstance(module, kind) and type(module).__module__.startswith("transformers.models.")
    )
    return not of_kind or type(data) is not Tensor or data.dtype not in PLAIN


def sharded(module: nn.Module) -> bool:
    """Whether each process has a part of the weight."""
    return hasattr(getattr(module, "weight", None), "full_tensor")


def device_of(module: nn.Module) -> torch.device:
    """The device that a module computes on, wherever its weights are in the meantime."""
    for hook in _hooks(module):
        if (device := getattr(hook, "execution_device", None)) is not None:
            return torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
    return next(p.device for p in module.parameters())


@contextmanager
def at_hand(*modules: nn.Module) -> Iterator[None]:
    """Let offloaded weights be where their modules compute, inside the block."""
    with ExitStack() as stack:
        for module in modules:
            if any(p.is_meta for p in module.parameters(recurse=False)) and _hooks(module):
                hook: Any = module._hf_hook
                hook.pre_forward(module)
                stack.callback(hook.post_forward, module, None)
        yield


def whole(module: nn.Module, x: Tensor, width: int) -> Tensor:
    """Return the input of a linear module, (..., width), its parts gathered from all processes."""
    if hasattr(x, "full_tensor"):
        return x.full_tensor()
    if x.shape[-1] == width:
        return x
    from torch.distributed.tensor import DTensor, Shard

    shape = (*x.shape[:-1], width)
    stride = torch.empty(shape, device="meta").stride()
    weight: Any = module.weight
    return DTensor.from_local(
        x.contiguous(),
        weight.device_mesh,
        [Shard(-1)],
        run_check=False,
        shape=torch.Size(shape),
        stride=stride,
    ).full_tensor()


def values(weight: Any) -> Tensor:
    """Return the values of a weight: those of all processes where each has a part."""
    if hasattr(weight, "full_tensor"):
        return weight.detach().full_tensor()
    return weight.data


def state_of(block: nn.Module) -> dict[str, Tensor]:
    """The state of a module with all below it, in plain tensors, the same wherever it is placed."""
    with at_hand(*block.modules()), torch.no_grad():
        return {
            name: x
            for key, value in block.state_dict().items()
            if isinstance(value, Tensor)
            for name, x in _parts(key, value)
        }


def _parts(name: str, x: Any) -> Iterator[tuple[str, Tensor]]:
    """The plain tensors that a tensor is made of."""
    if hasattr(x, "full_tensor"):
        yield from _parts(name, x.full_tensor())
    elif hasattr(x, "__tensor_flatten__"):
        for part in x.__tensor_flatten__()[0]:
            yield from _parts(f"{name}.{part}", getattr(x, part))
    else:
        yield name, x


def _hooks(module: nn.Module) -> list[Any]:
    hook = getattr(module, "_hf_hook", None)
    return [] if hook is None else [hook, *getattr(hook, "hooks", ())]


def _form(module: nn.Module) -> str:
    weight: Any = module.weight
    kind = type(getattr(weight, "data", weight))
    told = str(weight.dtype).removeprefix("torch.") if kind is Tensor else kind.__name__
    return f"{type(module).__name__} of {told}"
