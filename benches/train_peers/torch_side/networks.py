"""The networks on PyTorch's functional operators, at any width, on parameters by Slimbit's names."""

import torch
import torch.nn.functional as F


def slimmed(channels, width):
    """Channels at a width: the nearest multiple of 8, and never a tenth too few (spec 3.1)."""
    rounded = max(8, int(channels * width + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels * width else rounded


def same(weight):
    return weight


class Pass:
    """One pass: a width, and what becomes of weights and of activated maps on the way."""

    def __init__(self, parameters, width=1.0, weights=same, maps=lambda name, x: x, stem=None):
        self.parameters, self.width = parameters, width
        self.weights, self.maps, self.stem = weights, maps, stem or weights

    def conv_norm(self, name, x, channels, stride=1, groups=1):
        """Convolution and batch-norm of the batch's own statistics."""
        weight = self.parameters[f"{name}.conv.weight"]
        weight = (self.stem if name == "stem" else self.weights)(weight)
        out = slimmed(channels, self.width) if self.width < 1 else channels
        if groups == 1:
            weight = weight[:out, : x.shape[1]]
        kernel = weight.shape[-1]
        y = F.conv2d(x, weight, None, stride, kernel // 2, 1, groups)
        gamma, beta = (self.parameters[f"{name}.bn.{part}"][:out] for part in ("weight", "bias"))
        return F.batch_norm(y, None, None, gamma, beta, training=True, eps=1e-5)

    def conv_norm_relu(self, name, *arguments):
        return self.maps(name, F.relu(self.conv_norm(name, *arguments), inplace=True))


def resnet18(p, x):
    """Features of the CIFAR form (spec 1.4)."""
    x = p.conv_norm_relu("stem", x, 64)
    for stage, channels in enumerate((64, 128, 256, 512), 1):
        for block in range(2):
            name = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            shortcut = x
            if stride == 2:
                shortcut = p.conv_norm(f"{name}.shortcut", x, channels, stride)
            y = p.conv_norm_relu(f"{name}.a", x, channels, stride)
            y = p.conv_norm(f"{name}.b", y, channels)
            x = p.maps(f"{name}.sum", F.relu(y.add_(shortcut), inplace=True))
    return x.mean((2, 3))


def mobilenetv2(p, x):
    """Features of the CIFAR form (spec 1.4), at full width."""
    x = F.relu6(p.conv_norm("stem", x, 32), inplace=True)
    channels, index = 32, 0
    table = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2))
    for expansion, out, repetitions, first in (*table, (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)):
        for repetition in range(repetitions):
            name, stride = f"block{index}", first if repetition == 0 else 1
            y, inner = x, channels * expansion
            if expansion > 1:
                y = F.relu6(p.conv_norm(f"{name}.expand", y, inner), inplace=True)
            y = F.relu6(p.conv_norm(f"{name}.depthwise", y, inner, stride, inner), inplace=True)
            y = p.conv_norm(f"{name}.project", y, out)
            x = y.add_(x) if stride == 1 and channels == out else y
            channels, index = out, index + 1
    return F.relu6(p.conv_norm("tail", x, 1280), inplace=True).mean((2, 3))


def classifier(parameters, features):
    return F.linear(features, parameters["classifier.weight"], parameters["classifier.bias"])


def head(parameters, name, x, final_norm=False, weights=same):
    """Linear layers with batch-norm and ReLU between them; the first takes what it gets."""
    layer = 0
    while f"{name}.{layer}.weight" in parameters:
        weight = weights(parameters[f"{name}.{layer}.weight"])[:, : x.shape[1]]
        x = F.linear(x, weight, parameters.get(f"{name}.{layer}.bias"))
        gamma = parameters.get(f"{name}.{layer}.bn.weight")
        if gamma is not None:
            beta = parameters[f"{name}.{layer}.bn.bias"]
            x = F.relu(F.batch_norm(x, None, None, gamma, beta, training=True), inplace=True)
        layer += 1
    return F.batch_norm(x, None, None, training=True) if final_norm else x


class Ranges:
    """Smallest and largest value of every activated map over both views (spec 4.3)."""

    def __init__(self):
        self.seen = {}

    def observe(self, name, x):
        low, high = torch.aminmax(x.detach())
        if name in self.seen:
            low = torch.minimum(low, self.seen[name][0])
            high = torch.maximum(high, self.seen[name][1])
        self.seen[name] = low, high
        return x

    def quantiser(self, bits):
        """Rounds maps to the observed ranges; the stem's to 8 bits (spec 4.1, 4.2)."""

        def quantise(name, x):
            low, high = self.seen[name]
            last = 2 ** (8 if name == "stem" else bits) - 1
            scale = (high - low) / last
            zero_point = -torch.round(low / scale).to(torch.int32)
            return torch.fake_quantize_per_tensor_affine(x, scale, zero_point, 0, last)

        return quantise


def weight_quantiser(bits):
    """Min-max per output channel with a differentiable scale (spec 4.2)."""
    half = 2 ** (bits - 1)

    def quantise(weight):
        magnitude = weight.abs().flatten(1).amax(1)
        scale = magnitude / ((2**bits - 1) / 2)
        zero_points = torch.zeros_like(scale)
        return torch._fake_quantize_learnable_per_channel_affine(
            weight, scale, zero_points, 0, -half, half - 1, 1.0
        )

    return quantise
