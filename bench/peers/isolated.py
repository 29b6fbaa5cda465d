"""The convolutions and matrix products of a network, each alone, forward and backward, in the best memory format."""

import time
from collections import Counter

import torch
from torch import nn
from torch.nn import functional


def calls_of(model, shape, batch):
    """How often which convolution, linear layer and attention is called in a forward pass."""
    calls, hooks = Counter(), []

    def on_call(module, inputs, _):
        x = inputs[0]
        if isinstance(module, nn.Conv2d):
            first = tuple(x.shape[1:]) == tuple(shape)
            calls["conv", tuple(x.shape), tuple(module.weight.shape), module.stride, module.padding, first] += 1
        else:
            calls["linear", (x.numel() // x.shape[-1], x.shape[-1]), tuple(module.weight.shape)] += 1

    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            hooks.append(module.register_forward_hook(on_call))
    attend = functional.scaled_dot_product_attention

    def counted(q, k, v, *arguments, **options):
        calls["attention", tuple(q.shape)] += 1
        return attend(q, k, v, *arguments, **options)

    functional.scaled_dot_product_attention = counted
    try:
        with torch.no_grad():
            model(torch.randn(batch, *shape), torch.zeros(batch, dtype=torch.long))
    finally:
        functional.scaled_dot_product_attention = attend
        for hook in hooks:
            hook.remove()
    return calls


def _operation(call, dtype, memory_format):
    """What to time, from leaves to gradients."""
    kind = call[0]
    if kind == "conv":
        _, x_shape, w_shape, stride, padding, first = call
        x = torch.randn(x_shape, dtype=dtype).contiguous(memory_format=memory_format).requires_grad_(not first)
        w = torch.randn(w_shape, dtype=dtype).contiguous(memory_format=memory_format).requires_grad_()
        b = torch.randn(w_shape[0], dtype=dtype, requires_grad=True)
        forward = lambda: functional.conv2d(x, w, b, stride, padding)  # noqa: E731
        leaves = [leaf for leaf in (x, w, b) if leaf.requires_grad]
    elif kind == "linear":
        x, w = (torch.randn(size, dtype=dtype, requires_grad=True) for size in call[1:])
        b = torch.randn(call[2][0], dtype=dtype, requires_grad=True)
        forward = lambda: functional.linear(x, w, b)  # noqa: E731
        leaves = [x, w, b]
    else:
        leaves = [torch.randn(call[1], dtype=dtype, requires_grad=True) for _ in range(3)]
        forward = lambda: functional.scaled_dot_product_attention(*leaves)  # noqa: E731
    gradient = torch.randn_like(forward())
    return lambda: torch.autograd.grad(forward(), leaves, gradient)


class Isolated:
    """One round: every call in turn; each keeps its shortest time in the better format."""

    def __init__(self, calls, batch, dtype):
        self.calls, self.batch = calls, batch
        self.operations = {}
        for call in calls:
            formats = (torch.contiguous_format, torch.channels_last) if call[0] == "conv" else (torch.contiguous_format,)
            self.operations[call] = [_operation(call, dtype, memory_format) for memory_format in formats]

    def images_per_second(self, repeats):
        total = 0.0
        for call, operations in self.operations.items():
            shortest = float("inf")
            for operation in operations:
                for _ in range(repeats):
                    begun = time.monotonic()
                    operation()
                    shortest = min(shortest, time.monotonic() - begun)
            total += self.calls[call] * shortest
        return self.batch / total
