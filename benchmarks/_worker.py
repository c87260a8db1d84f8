"""One side of `benchmarks step`: builds a supernet, then answers a line of JSON on standard output for each line read.

    python -m benchmarks._worker {jax,torch} '{"space": "nasbench201", "channels": 16, ...}'

The lines read are `logits FILE` (torch writes its weights and logits into FILE; jax loads them and says how far its own
logits are from torch's), `step N` (takes N steps and waits for the last), and `memory`. On a GPU float32 products may round
to TF32 on both sides, as JAX does by itself, but for the logits, which are compared in float32.
"""

from __future__ import annotations

import json
import re
import sys
import time

import numpy as np


def main(framework, options):
    answers = {"jax": of_jax, "torch": of_torch}[framework](**json.loads(options))
    say(next(answers))
    for line in sys.stdin:
        say(answers.send(line.split()))


def say(found):
    print(json.dumps(found), flush=True)


def drawn(batch, size):
    """Images `[B, H, W, 3]` and labels of a training and a validation batch."""
    rng = np.random.default_rng(0)
    return [(rng.normal(size=(batch, size, size, 3)).astype(np.float32), rng.integers(0, 10, batch)) for _ in range(2)]


def timed(step, count, wait):
    """Seconds of each of `count` steps, `wait` for the last included."""
    begun = time.perf_counter()
    for _ in range(count):
        step()
    wait()
    return {"seconds": (time.perf_counter() - begun) / count}


def resident(field):
    """Bytes of memory of this process: VmRSS now, VmHWM at most since `forget_peak`."""
    with open("/proc/self/status") as status:
        return 1024 * int(re.search(field + r":\s*(\d+)", status.read())[1])


def forget_peak():
    with open("/proc/self/clear_refs", "w") as refs:
        refs.write("5")
    return resident("VmRSS")


def of_torch(space, channels, cells, batch, size, half, layout, mode):
    import torch

    from benchmarks._torch_supernets import DartsNet, Nb201Net, search_step

    device = "cuda" if torch.cuda.is_available() else "cpu"
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    memory = torch.channels_last if layout == "nhwc" else torch.contiguous_format
    net = (Nb201Net if space == "nasbench201" else DartsNet)(channels, cells).to(device).to(memory_format=memory)
    train, valid = ((torch.tensor(x).permute(0, 3, 1, 2).to(device).contiguous(memory_format=memory),
                     torch.tensor(y).to(device)) for x, y in drawn(batch, size))
    step = search_step(net, train, valid, half, mode)
    weights = sum(q.numel() for name, q in net.named_parameters() if name != "alpha")
    word = yield {"version": torch.__version__, "device": device, "weights": weights}
    before = None
    while True:
        if word[0] == "logits":
            allow_tf32(False)
            with torch.no_grad():
                logits = net(train[0])
            arrays = {name: tensor.detach().cpu().numpy() for name, tensor in net.named_parameters()}
            np.savez(word[1], logits=logits.cpu().numpy(), **arrays)
            found = {}
        elif word[0] == "step":
            before = before or forget_peak()
            allow_tf32(device == "cuda")
            if device == "cuda":
                torch.cuda.reset_peak_memory_stats()  # what the choice of kernels took in the first steps is not the steps'
            found = timed(step, int(word[1]), wait)
        else:
            found = {"bytes": torch.cuda.max_memory_allocated() if device == "cuda" else resident("VmHWM") - before}
        word = yield found


def allow_tf32(allowed):
    """Whether torch may round the factors of float32 products to TF32 on a GPU."""
    import torch

    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed


def of_jax(space, channels, cells, batch, size, half, layout, mode):
    import jax
    import jax.numpy as jnp

    from benchmarks._ported import ported
    from dnas.engine.devices import planned
    from dnas.engine.programs import compile_lowered
    from dnas.methods.darts import darts
    from dnas.task import classification
    from dnas.types import Batch

    (images, labels), valid = drawn(batch, size)
    from dnas.registry import resolve
    from dnas.shared_options import SharedOptions, shared_options

    with shared_options(SharedOptions(dtype="bfloat16" if half else "float32")):
        space_ = resolve(space, "space")((size, size, 3), 10, channels=channels, cells=cells)
    algorithm, hyper = darts().bind(space_, classification()), darts().numbers_of(epochs=50, steps=100)
    state = algorithm.init(jax.random.key(0), images, hyper)
    weights = sum(leaf.size for leaf in jax.tree.leaves(state.weights))
    train, valid = Batch(jnp.asarray(images), jnp.asarray(labels)), Batch(*map(jnp.asarray, valid))
    key = jax.random.key(1)
    begun = time.perf_counter()
    lowered = jax.jit(algorithm.step, donate_argnums=1).lower(key, state, train, valid, hyper)
    traced = time.perf_counter() - begun
    compiled = compile_lowered(lowered)
    carry = {"state": state}

    def step():
        carry["state"], info = compiled(key, carry["state"], train, valid, hyper)

    word = yield {"version": jax.__version__, "device": jax.devices()[0].device_kind, "weights": weights,
                  "trace_seconds": traced, "compile_seconds": time.perf_counter() - begun - traced,
                  "planned_bytes": planned(compiled)}
    before = None
    while True:
        if word[0] == "logits":
            found = {"apart": compared(space_, ported(space, state.weights, word[1]), state.stats, train.inputs, word[1])}
        elif word[0] == "step":
            before = before or forget_peak()
            found = timed(step, int(word[1]), lambda: jax.block_until_ready(carry["state"]))
        else:
            stats = jax.devices()[0].memory_stats()
            found = {"bytes": stats["peak_bytes_in_use"] if stats else resident("VmHWM") - before}
        word = yield found


def compared(space, weights, stats, images, path):
    """The largest difference of logits, as a share of the largest logit."""
    import jax

    with np.load(path) as arrays:
        alpha, logits = arrays["alpha"], arrays["logits"]
    rows = alpha[None] if alpha.ndim == 2 else alpha
    gates = dict(zip(space.groups, jax.nn.softmax(rows, -1)))
    with jax.default_matmul_precision("highest"):
        mine = jax.jit(lambda w: space.apply(w, stats, gates, images, train=True, key=None)[0])(weights)
    return float(np.abs(np.asarray(mine) - logits).max() / np.abs(logits).max())


if __name__ == "__main__":
    main(*sys.argv[1:])
