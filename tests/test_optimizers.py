"""The papers' optimisers against torch's updates written out in NumPy, and the schedule. In float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dnas.algorithms.optimizers import adam, sgd
from dnas.algorithms.schedules import constant, cosine_by_epoch, exponential, linear, time_of


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def over(ramp, epochs, steps, **hyper):
    """count -> the ramp's value after so many steps."""
    hyper |= {"epochs": epochs, "steps": steps}
    return jax.jit(lambda count: ramp(hyper, time_of(hyper, count)))


@pytest.mark.parametrize("epoch, rate", [(0, 0.025), (1, 0.024976321), (25, 0.013), (49, 0.001023679)])
def test_cosine(epoch, rate):
    schedule = over(cosine_by_epoch("lr", "lr_min"), 50, 7, lr=0.025, lr_min=0.001)
    np.testing.assert_allclose([schedule(7 * epoch), schedule(7 * epoch + 6)], rate, atol=5e-10)


def test_cosine_changes_once_an_epoch_and_stays_at_its_end():
    schedule = over(cosine_by_epoch("lr", "lr_min"), 3, 4, lr=0.1, lr_min=0.0)
    rates = [float(schedule(jnp.int32(count))) for count in range(20)]
    np.testing.assert_allclose(rates, np.repeat([0.1, 0.075, 0.025, 0, 0], 4), atol=1e-12)


@pytest.mark.parametrize("ramp, expected", [
    (linear("a", "b"), [10, 7.525, 5.05, 0.1, 0.1]), (exponential("a", "b"), [10, 10**0.5, 1, 0.1, 0.1]),
    (constant("a"), [10] * 5)])
def test_ramps_go_step_by_step_and_stay_at_their_end(ramp, expected):
    value = over(ramp, 2, 10, a=10.0, b=0.1)
    np.testing.assert_allclose([value(count) for count in (0, 5, 10, 20, 1000)], expected, rtol=1e-12)


def weights():
    draw = np.random.default_rng(0)
    return {"kernel": draw.normal(size=(3, 4)), "bias": [draw.normal(size=4)]}


def gradients(steps, scale):
    draw = np.random.default_rng(1)
    return [jax.tree.map(lambda w: scale * draw.normal(size=w.shape), weights()) for _ in range(steps)]


def ours(optimizer, grads):
    """Weights after every step i by `optimizer(i)`, made anew for each."""
    w, state, after = jax.tree.map(jnp.asarray, weights()), optimizer(0).init(weights()), []
    for i, g in enumerate(grads):
        updates, state = optimizer(i).update(g, state, w)
        w = optax.apply_updates(w, updates)
        after.append(w)
    return after


def torch_sgd(grads, rates, momentum, decay, clip, nesterov):
    """torch.nn.utils.clip_grad_norm_ and torch.optim.SGD."""
    w, tree = jax.tree.flatten(weights())
    buffers, after = [None] * len(w), []
    for rate, g in zip(rates, grads):
        g = jax.tree.leaves(g)
        if clip is not None:
            norm = np.sqrt(sum(np.sum(x**2) for x in g))
            g = [x * min(1, clip / (norm + 1e-6)) for x in g]
        for i in range(len(w)):
            d = g[i] + decay * w[i]
            buffers[i] = d if buffers[i] is None else momentum * buffers[i] + d
            w[i] = w[i] - rate * (d + momentum * buffers[i] if nesterov else buffers[i])
        after.append(jax.tree.unflatten(tree, list(w)))
    return after


@pytest.mark.parametrize("momentum, decay, clip, nesterov, scale", [
    (0.9, 0.3, 5.0, False, 1000.0),
    (0.9, 0.3, 5.0, False, 0.1),
    (0.9, 0.3, 5.0, True, 1000.0),
    (0.9, 0.3, None, False, 10.0),
    (0.0, 0.0, None, False, 1.0),
], ids=["clipped", "below the clip", "nesterov", "no clip", "plain"])
def test_sgd_is_torchs(momentum, decay, clip, nesterov, scale):
    """The rate falls to a quarter and below meanwhile, so that it shows if it were inside the buffer."""
    grads, schedule = gradients(6, scale), over(cosine_by_epoch("lr", "lr_min"), 3, 2, lr=0.1, lr_min=0.0)
    norms = [float(optax.tree.norm(g)) for g in grads]
    assert clip is None or (min(norms) > 100 * clip if scale > 100 else max(norms) < clip)
    found = ours(lambda i: sgd(schedule(i), momentum=momentum, decay=decay, clip=clip, nesterov=nesterov), grads)
    expected = torch_sgd(grads, [float(schedule(i)) for i in range(6)], momentum, decay, clip, nesterov)
    for mine, theirs in zip(found, expected):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-8), mine, theirs)


@pytest.mark.parametrize("b1, b2, decay", [(0.5, 0.999, 1e-3), (0.9, 0.99, 0.0), (0.5, 0.999, 1.0)])
def test_adam_is_torchs_with_decay_in_the_gradient(b1, b2, decay):
    grads, lr = gradients(6, 0.5), 0.05
    found = ours(lambda i: adam(lr, b1=b1, b2=b2, decay=decay), grads)
    w, tree = jax.tree.flatten(weights())
    m, v = [np.zeros_like(x) for x in w], [np.zeros_like(x) for x in w]
    for t, g in enumerate(map(jax.tree.leaves, grads), 1):
        for i in range(len(w)):
            d = g[i] + decay * w[i]
            m[i], v[i] = b1 * m[i] + (1 - b1) * d, b2 * v[i] + (1 - b2) * d**2
            w[i] = w[i] - lr / (1 - b1**t) * m[i] / (np.sqrt(v[i] / (1 - b2**t)) + 1e-8)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), found[t - 1],
                     jax.tree.unflatten(tree, list(w)))


def test_the_architectures_defaults_are_those_of_darts():
    grads = gradients(3, 1.0)
    for mine, spelled in zip(ours(lambda i: adam(3e-4), grads),
                            ours(lambda i: adam(3e-4, b1=0.5, b2=0.999, decay=1e-3), grads)):
        jax.tree.map(np.testing.assert_array_equal, mine, spelled)
