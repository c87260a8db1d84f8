"""What a search step would do on a chip that need not be there: kernels, bytes, operations, memory. Computed, not measured.

    pip install 'jax[cuda13]' 'jax[tpu]'
    JAX_PLATFORMS=cpu python -m benchmarks compiled --space nasbench201 --cells 1 --batch 64 --chip h100

The program is one step of first-order DARTS on batches that lie ready: an architecture step, then a weight step. With
--seeds it is one step of as many searches at once, with --masks the loss of a batch under as many sets of gates at once.

The least bytes are those of a program in which each convolution and each matrix product of the supernet reads its inputs
and writes its outputs once, forward and backward (3 times its inputs and weights, twice its outputs), and all else takes
place within them. The architecture step and the weight step each take one gradient; scoring is the forward part alone.
"""

from __future__ import annotations

import math
from pathlib import Path

from benchmarks._arguments import add_result, supernet_parser


def main(argv):
    parser = supernet_parser(__doc__)
    parser.add_argument("--half", action="store_true", help="bfloat16")
    parser.add_argument("--chip", default="h100", help="h100, v5e or cpu")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--masks", type=int, default=0)
    parser.add_argument("--text", type=Path, help="a file into which the compiled program is written, as XLA's text")
    parser.add_argument("--out", type=Path, help="a JSON file, to which this result is added")
    options = parser.parse_args(argv)
    found = computed(options)
    print(table(found))
    if options.out:
        add_result(options.out, found)


def computed(options):
    """What the compiled program does, and the least bytes, as a dict."""
    import jax

    from dnas.engine.targets import chip_of, examine
    from dnas.platform import platform
    from dnas.registry import resolve
    from dnas.shared_options import SharedOptions, shared_options

    chip, dtype = chip_of(None, options.chip), "bfloat16" if options.half else "float32"
    with platform(chip.platform), shared_options(SharedOptions(dtype=dtype)):
        image = (options.size, options.size, 3)
        space = resolve(options.space, "space")(image, 10, channels=options.channels, cells=options.cells)
        images = jax.ShapeDtypeStruct((options.batch, *image), "float32")
        program = scoring(space, images, options.masks) if options.masks else step(space, images, options.seeds)
        least = least_bytes(space, images, 0 if options.masks else 2) * max(options.masks, options.seeds)
        found = examine(*program[:2], chip, donate_argnums=program[2], text=options.text)
    said = {name: getattr(options, name) for name in ("space", "channels", "cells", "batch", "size", "seeds", "masks")}
    return said | {"dtype": dtype, "chip": chip.name, "title": chip.title, "jax": jax.__version__, **found.work._asdict(),
                   "memory": found.memory, "least_bytes": least, "ratio": found.work.bytes / least,
                   "least_seconds": found.least_seconds(dtype), "compile_seconds": found.seconds}


def step(space, images, seeds):
    """A step of as many searches, its arguments, and which of them are donated."""
    import jax

    from dnas.methods.darts import darts
    from dnas.task import classification
    from dnas.types import Batch

    algorithm, hyper = darts().bind(space, classification()), darts().numbers_of(epochs=50, steps=100)
    key = jax.eval_shape(jax.random.key, 0)
    state = jax.eval_shape(algorithm.init, key, images, hyper)
    batch = Batch(images, jax.ShapeDtypeStruct(images.shape[:1], "int32"))
    hyper = jax.eval_shape(lambda: jax.tree.map(jax.numpy.asarray, hyper))
    args = key, state, batch, batch, hyper
    if seeds == 1:
        return algorithm.step, args, (1,)
    across = lambda leaf: jax.ShapeDtypeStruct((seeds, *leaf.shape), leaf.dtype)
    return jax.vmap(algorithm.step), jax.tree.map(across, args), (1,)


def scoring(space, images, masks):
    """The losses of a batch under as many sets of gates, and the arguments of that program."""
    import jax

    from dnas.task import classification

    weights, stats = jax.eval_shape(space.init, jax.eval_shape(jax.random.key, 0), images)
    gates = {name: jax.ShapeDtypeStruct((masks, *group.shape), "float32") for name, group in space.groups.items()}
    labels = jax.ShapeDtypeStruct(images.shape[:1], "int32")

    def losses(weights, stats, gates, images, labels):
        one = lambda gates: space.apply(weights, stats, gates, images, train=True, key=None)[0]
        return jax.vmap(lambda gates: classification().losses(one(gates), labels).mean())(gates)

    return losses, (weights, stats, gates, images, labels), ()


def least_bytes(space, images, gradients):
    """Bytes of the convolutions and products of the supernet: of each operation of each edge, and of all that is around
    them. gradients: how many a step takes, 0 for a forward pass."""
    import numpy as np

    from dnas.types import REMOVED, Genotype

    def of(changes):
        rows = {g: np.full(group.shape[0], REMOVED) for g, group in space.groups.items()} | changes
        return network_bytes((space.inherited or space).network(Genotype.from_decisions(space, rows)), images, gradients)

    def everywhere(group, k):
        return np.array([k if k < len(group.edge_ops(e)) else REMOVED for e in range(group.shape[0])])

    around = of({})
    return around + sum(of({g: everywhere(group, k)}) - around for g, group in space.groups.items()
                        for k in range(group.shape[1]))


def network_bytes(network, images, gradients):
    """The same of a discrete network."""
    import jax

    key = jax.random.key(0)
    shapes = jax.eval_shape(lambda key: network.init(key, images), key)
    apply = lambda weights, stats, images: network.apply(weights, stats, images, train=True, key=key)[0]
    return _bytes(jax.make_jaxpr(apply)(*shapes, images).jaxpr, gradients)


def _bytes(jaxpr, gradients):
    from search_spaces.cost import counted

    size = lambda variable: math.prod(variable.aval.shape) * variable.aval.dtype.itemsize

    def of(eqn):
        if eqn.primitive.name in ("conv_general_dilated", "dot_general"):
            return (3 * gradients or 1) * sum(map(size, eqn.invars)) + (2 * gradients or 1) * sum(map(size, eqn.outvars))
        return None

    return sum(counted(eqn, of) for eqn in jaxpr.eqns)


def table(found):
    """The result as Markdown."""
    what = f"{found['masks']} sets of gates scored at once" if found["masks"] else f"a step of {found['seeds']} seeds" \
        if found["seeds"] > 1 else "a step"
    gigabytes = lambda number: "unknown" if number is None else f"{number / 1e9:.3g} GB"
    times = ", ".join(f"{name} {seconds * 1e3:.3g} ms" for name, seconds in found["least_seconds"].items())
    rows = {"kernels": f"{found['kernels']:,}", "bytes of operands and results": gigabytes(found["bytes"]),
            "of which in the device's memory": gigabytes(found["device_bytes"]),
            "least bytes": gigabytes(found["least_bytes"]), "bytes / least": f"{found['ratio']:.2f}",
            "operations of products": f"{found['operations'] / 1e9:.3g} G", "planned memory": gigabytes(found["memory"]),
            "least time": times or "unknown", "time to compile": f"{found['compile_seconds']:.0f} s"}
    head = (f"{found['space']}, C={found['channels']}, {found['cells']} cells, batch {found['batch']}, {found['size']}x"
            f"{found['size']}, {found['dtype']}: {what}, compiled for {found['title']} (jax {found['jax']}), not run")
    return "\n".join([head, "", "| computed | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])
