"""DrNAS (Chen et al., ICLR 2021, arXiv 2006.10355): the gates of an edge are drawn from a Dirichlet distribution.

    gates[e] ~ Dirichlet(beta[e]),   beta = elu(arch) + 1,   and the gradient flows through the draw (pathwise)
    L_arch = L_valid + kl * sum over edges of KL(Dirichlet(beta[e]) || Dirichlet(1))

Both players draw, each for itself. Networks are evaluated at the mean gates beta / sum(beta), whose order is that of the
logits. Two pulls towards beta = 1 are published: the weight decay 1e-3 of the architecture's Adam, which is the default
here, and the divergence, which is `arch_decay` 0 with `kl` 1e-3. Masked operations leave the draw: what remains is a
Dirichlet draw of the other operations, which is the whole draw renormalised.

The authors search in two stages, the second with fewer operations and more of the channels: two searches of which one
starts from the other. In NAS-Bench-201, with their numbers:

    dnas search --method drnas --space.partial-channels 4 --method.keep 3 --method.arch-warmup 10 --epochs 50 \
        --preset paper --run runs/1
    dnas search --method drnas --space.partial-channels 2 --method.arch-warmup 10 --epochs 50 \
        --preset paper --start runs/1 --run runs/2

The logits go on. Departures: the weights of the second stage begin anew, where the authors duplicate channels, and so does
the cosine of the learning rate. The divergence is summed over edges, as the divergence of independent draws is: our
reading.
"""

import jax
import jax.numpy as jnp
from jax.scipy.special import digamma, gammaln

from dnas.algorithms.method import Method
from dnas.algorithms.relaxations import drawn
from dnas.algorithms.schedules import refuse_negative
from dnas.methods.darts import darts
from dnas.registry import extends

LEAST = 1e-20
"""Of beta, which in float32 would become 0 at a logit of -104."""


@extends(darts)
def drnas(method: Method, *, kl: float = 0.0) -> Method:
    """DrNAS.

    Args:
        kl: weight of the divergence from the uniform Dirichlet distribution; the authors' other regulariser is arch_decay.
    """
    def divergence(hyper, t, arch, gates, forward, memory):
        return hyper["kl"] * sum(divergence_from_uniform(row).sum() for row in forward.architecture.masked().values())

    relaxation = drawn(lambda key, logits, hyper, t: draw(key, logits), mean)
    return method.extend(relaxation=relaxation, arch={"terms": {"kl": divergence}}, hyper={"kl": kl},
                         check=lambda hyper: refuse_negative(kl=hyper["kl"]))


def mean(logits):
    """The mean gates `[E, K]`."""
    beta = concentration(logits)
    return beta / beta.sum(-1, keepdims=True)


def concentration(logits):
    """beta `[E, K]` of logits, elu(logits) + 1, without the rounding of exp(x) - 1 + 1; 0 where a logit is -inf."""
    low = jnp.maximum(jnp.exp(jnp.where(logits > 0, 0, logits)), LEAST)
    return jnp.where(jnp.isneginf(logits), 0, jnp.where(logits > 0, logits + 1, low))


def draw(key, logits):
    """Gates `[E, K]`, drawn from Dirichlet(concentration(logits)); 0 where a logit is -inf.

    A Dirichlet draw is gamma draws over their sum; in logarithms, so that small ones do not become 0.
    """
    allowed = ~jnp.isneginf(logits)
    logs = jax.random.loggamma(key, concentration(jnp.where(allowed, logits, 0.0)))
    return jax.nn.softmax(jnp.where(allowed, logs, -jnp.inf))


def divergence_from_uniform(logits):
    """KL(Dirichlet(beta) || Dirichlet(1)) `[E]` in nats, beta = concentration(logits), of the operations not at -inf."""
    allowed = ~jnp.isneginf(logits)
    beta = concentration(jnp.where(allowed, logits, 0.0))
    total = jnp.where(allowed, beta, 0).sum(-1, keepdims=True)
    each = jnp.where(allowed, (beta - 1) * (digamma(beta) - digamma(total)) - gammaln(beta), 0)
    return gammaln(total[..., 0]) - gammaln(allowed.sum(-1)) + each.sum(-1)
