"""The PyTorch program that ours is compared with: one first-order search step, as the field's programs run it.

The published search spaces (NAS-Bench-201 and DARTS): ReLU-conv-BN operations, batch norm without scale and shift in the
cells, a softmax-weighted sum on every edge; one Adam step of the architecture on a validation batch, then one SGD step
(momentum, weight decay, clipping at 5) of the weights on a training batch.
"""

from __future__ import annotations

import torch
import torch.nn as nn
import torch.nn.functional as F


def bn(c, affine=False):
    return nn.BatchNorm2d(c, affine=affine)


class ReLUConvBN(nn.Sequential):
    def __init__(self, ci, co, k, stride=1, affine=False):
        super().__init__(nn.ReLU(), nn.Conv2d(ci, co, k, stride, k // 2, bias=False), bn(co, affine))


class SepConv(nn.Sequential):
    def __init__(self, c, k, stride):
        p = k // 2
        super().__init__(
            nn.ReLU(), nn.Conv2d(c, c, k, stride, p, groups=c, bias=False), nn.Conv2d(c, c, 1, bias=False), bn(c),
            nn.ReLU(), nn.Conv2d(c, c, k, 1, p, groups=c, bias=False), nn.Conv2d(c, c, 1, bias=False), bn(c))


class DilConv(nn.Sequential):
    def __init__(self, c, k, stride):
        super().__init__(
            nn.ReLU(), nn.Conv2d(c, c, k, stride, 2 * (k // 2), 2, groups=c, bias=False),
            nn.Conv2d(c, c, 1, bias=False), bn(c))


class FactorizedReduce(nn.Module):
    def __init__(self, ci, co):
        super().__init__()
        self.a = nn.Conv2d(ci, co // 2, 1, 2, bias=False)
        self.b = nn.Conv2d(ci, co - co // 2, 1, 2, bias=False)
        self.bn = bn(co)

    def forward(self, x):
        x = F.relu(x)
        return self.bn(torch.cat([self.a(x), self.b(x[:, :, 1:, 1:])], 1))


class Zero(nn.Module):
    def __init__(self, stride=1):
        super().__init__()
        self.stride = stride

    def forward(self, x):
        return x[:, :, :: self.stride, :: self.stride].mul(0.0)


def nb201_ops(c):
    return nn.ModuleList([Zero(), nn.Identity(), ReLUConvBN(c, c, 1), ReLUConvBN(c, c, 3),
                          nn.AvgPool2d(3, 1, 1, count_include_pad=False)])


def darts_ops(c, stride):
    return nn.ModuleList([
        Zero(stride),
        nn.Sequential(nn.MaxPool2d(3, stride, 1), bn(c)),
        nn.Sequential(nn.AvgPool2d(3, stride, 1, count_include_pad=False), bn(c)),
        nn.Identity() if stride == 1 else FactorizedReduce(c, c),
        SepConv(c, 3, stride), SepConv(c, 5, stride), DilConv(c, 3, stride), DilConv(c, 5, stride)])


class Nb201Cell(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.edges = nn.ModuleList([nb201_ops(c) for _ in range(6)])

    def forward(self, x, w):
        nodes, k = [x], 0
        for i in range(1, 4):
            total = 0
            for j in range(i):
                total = total + sum(a * op(nodes[j]) for a, op in zip(w[k], self.edges[k]))
                k += 1
            nodes.append(total)
        return nodes[-1]


class Residual(nn.Module):
    def __init__(self, ci, co):
        super().__init__()
        self.a, self.b = ReLUConvBN(ci, co, 3, 2, affine=True), ReLUConvBN(co, co, 3, affine=True)
        self.down = nn.Sequential(nn.AvgPool2d(2, 2), nn.Conv2d(ci, co, 1, bias=False))

    def forward(self, x):
        return self.b(self.a(x)) + self.down(x)


class Nb201Net(nn.Module):
    def __init__(self, c, cells, classes=10):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, c, 3, 1, 1, bias=False), bn(c, True))
        layers = []
        for stage in range(3):
            layers += [Nb201Cell(c) for _ in range(cells)]
            if stage < 2:
                layers.append(Residual(c, 2 * c))
                c *= 2
        self.layers, self.last, self.head = nn.ModuleList(layers), bn(c, True), nn.Linear(c, classes)
        self.alpha = nn.Parameter(1e-3 * torch.randn(6, 5))

    def forward(self, x):
        w, x = F.softmax(self.alpha, -1), self.stem(x)
        for layer in self.layers:
            x = layer(x, w) if isinstance(layer, Nb201Cell) else layer(x)
        return self.head(F.relu(self.last(x)).mean((2, 3)))


class DartsCell(nn.Module):
    def __init__(self, cpp, cp, c, reduction, reduction_prev):
        super().__init__()
        self.pre0 = FactorizedReduce(cpp, c) if reduction_prev else ReLUConvBN(cpp, c, 1)
        self.pre1 = ReLUConvBN(cp, c, 1)
        self.edges = nn.ModuleList(
            [darts_ops(c, 2 if reduction and j < 2 else 1) for i in range(4) for j in range(2 + i)])

    def forward(self, s0, s1, w):
        states, k = [self.pre0(s0), self.pre1(s1)], 0
        for i in range(4):
            total = 0
            for j in range(2 + i):
                total = total + sum(a * op(states[j]) for a, op in zip(w[k], self.edges[k]))
                k += 1
            states.append(total)
        return torch.cat(states[-4:], 1)


class DartsNet(nn.Module):
    def __init__(self, c, cells, classes=10):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 3 * c, 3, 1, 1, bias=False), bn(3 * c, True))
        cpp, cp, reduction_prev, layers = 3 * c, 3 * c, False, []
        for i in range(cells):
            reduction = i in (cells // 3, 2 * cells // 3)
            c = 2 * c if reduction else c
            layers.append(DartsCell(cpp, cp, c, reduction, reduction_prev))
            reduction_prev, cpp, cp = reduction, cp, 4 * c
        self.reductions = {cells // 3, 2 * cells // 3}
        self.layers, self.head = nn.ModuleList(layers), nn.Linear(cp, classes)
        self.alpha = nn.Parameter(1e-3 * torch.randn(2, 14, 8))

    def forward(self, x):
        w = F.softmax(self.alpha, -1)
        s0 = s1 = self.stem(x)
        for i, cell in enumerate(self.layers):
            s0, s1 = s1, cell(s0, s1, w[1 if i in self.reductions else 0])
        return self.head(s1.mean((2, 3)))


def search_step(net, train, valid, amp=False, mode="eager"):
    """A function that takes one step on batches of images `[B, 3, H, W]` and labels `[B]`, and does not wait for a GPU.

    mode: eager, compile (`torch.compile` of the network) or graphs (the same with its mode `reduce-overhead`: CUDA graphs).
    """
    forward = net if mode == "eager" else torch.compile(net, mode={"compile": None, "graphs": "reduce-overhead"}[mode])
    weights = [q for name, q in net.named_parameters() if name != "alpha"]
    sgd = torch.optim.SGD(weights, 0.025, 0.9, weight_decay=3e-4)
    adam = torch.optim.Adam([net.alpha], 3e-4, betas=(0.5, 0.999), weight_decay=1e-3)
    device = train[0].device.type

    def loss(images, labels):
        if mode == "graphs":
            torch.compiler.cudagraph_mark_step_begin()
        with torch.autocast(device, torch.bfloat16, enabled=amp):
            return F.cross_entropy(forward(images), labels)

    def step():
        net.zero_grad(set_to_none=True)
        loss(*valid).backward()
        adam.step()
        net.zero_grad(set_to_none=True)
        loss(*train).backward()
        nn.utils.clip_grad_norm_(weights, 5.0)
        sgd.step()

    return step
