"""The convolutions and matrix products of a network, each alone, forward and backward, in its fastest form and memory format."""

import time
from collections import Counter

import torch
from torch import nn
from torch.nn import functional

from peers.network import FORMATS


def calls_of(model, shape, batch):
    """How often which convolution, convolution of a doubled image, linear layer and attention is called in a forward pass."""
    from diffusers.models.upsampling import Upsample2D

    doubled = [module.conv for module in model.modules() if isinstance(module, Upsample2D)]
    calls, hooks = Counter(), []

    def on_call(module, inputs, _):
        x = inputs[0]
        if isinstance(module, nn.Conv2d):
            first = tuple(x.shape[1:]) == tuple(shape)
            calls["doubled" if module in doubled else "conv", tuple(x.shape), tuple(module.weight.shape), module.stride, module.padding, first] += 1
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


def _through_autograd(forward, leaves):
    """@param leaves  those that have no gradient are left out"""
    leaves = [leaf for leaf in leaves if leaf.requires_grad]
    gradient = torch.randn_like(forward())
    return lambda: torch.autograd.grad(forward(), leaves, gradient)


def _convolution(call, leaf, memory_format):
    _, x_shape, w_shape, stride, padding, first = call
    x, w, b = leaf(x_shape, memory_format).requires_grad_(not first), leaf(w_shape, memory_format), leaf(w_shape[:1])
    return _through_autograd(lambda: functional.conv2d(x, w, b, stride, padding), (x, w, b))


def _transposed(call, leaf, memory_format):
    """A 3x3 convolution of a doubled image from the image itself, with 4 products instead of 9, as trainer/model/doubled_convolution.hpp has it."""
    _, (n, channels, height, width), (out, *_), *_ = call
    x, w, b = leaf((n, channels, height // 2, width // 2), memory_format), leaf((channels, out, 4, 4), memory_format), leaf((out,))
    setting = ((2, 2), (1, 1), (1, 1), True, (0, 0), 1)
    gradient = torch.randn_like(torch.convolution(x, w, b, *setting))

    @torch.no_grad()
    def operation():
        torch.convolution(x, w, b, *setting)
        # Not through autograd, whose gradient of this bias is a slow loop of oneDNN's.
        torch.ops.aten.convolution_backward(gradient, x, w, None, *setting, [True, True, False])
        gradient.sum((0, 2, 3))

    return operation


def _linear(call, leaf):
    x, w, b = leaf(call[1]), leaf(call[2]), leaf(call[2][:1])
    return _through_autograd(lambda: functional.linear(x, w, b), (x, w, b))


def _attention(call, leaf):
    qkv = [leaf(call[1]) for _ in range(3)]
    return _through_autograd(lambda: functional.scaled_dot_product_attention(*qkv), qkv)


def _attention_by_products(call, leaf):
    q, k, v = (leaf(call[1]) for _ in range(3))
    scale = q.shape[-1] ** -0.5
    return _through_autograd(lambda: torch.softmax((q * scale) @ k.transpose(-2, -1), -1) @ v, (q, k, v))


def _forms(call, dtype):
    """{name: what to time}: a call in each way that gives the same."""
    def leaf(size, memory_format=torch.contiguous_format):
        return torch.randn(size, dtype=dtype).contiguous(memory_format=memory_format).requires_grad_()

    if call[0] == "linear":
        return {"": _linear(call, leaf)}
    if call[0] == "attention":
        return {"fused": _attention(call, leaf), "products and softmax": _attention_by_products(call, leaf)}
    made = {"plain": _convolution} | ({"transposed": _transposed} if call[0] == "doubled" else {})
    return {f"{form} {name}": make(call, leaf, memory_format) for form, make in made.items() for name, memory_format in FORMATS.items()}


def _shortest(operation, repeats):
    seconds = []
    for _ in range(repeats):
        begun = time.monotonic()
        operation()
        seconds.append(time.monotonic() - begun)
    return min(seconds)


class Isolated:
    """One round: every call in turn; each keeps its shortest time in its fastest form."""

    def __init__(self, calls, images, dtype):
        self.calls, self.images = calls, images
        self.forms = {call: _forms(call, dtype) for call in calls}

    def keep_fastest_forms(self):
        """@return in words which, and how often it is called, where more than the memory format is chosen"""
        chosen = Counter()
        for call, forms in self.forms.items():
            fastest = min(forms, key=lambda form: _shortest(forms[form], 2))
            self.forms[call] = {fastest: forms[fastest]}
            if call[0] in ("doubled", "attention"):
                chosen[f"{call[0]} {fastest}"] += self.calls[call]
        return ", ".join(f"{form} ({count})" for form, count in sorted(chosen.items()))

    def images_per_second(self, repeats):
        seconds = sum(self.calls[call] * min(_shortest(operation, repeats) for operation in forms.values()) for call, forms in self.forms.items())
        return self.images / seconds
