"""Cross-entropy of each token, with a backward pass of its own.

Letters: B batch, T length, V vocabulary.
"""

from typing import cast

import jax
import jax.numpy as jnp

from layers.chunked_cross_entropy import LazyLogits, in_one_pass, partial_sums
from layers.sharding import is_split


def token_losses(
  logits: jax.Array | LazyLogits, targets: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Negative log-likelihood and log of the partition function of each token.

  Args:
    logits: [B, T, V] float32, or LazyLogits, which never exist all at once.
    targets: [B, T] int32.

  Returns:
    Two arrays [B, T] float32.
  """
  if isinstance(logits, LazyLogits):
    return logits.losses(targets)
  return cast(tuple[jax.Array, jax.Array], _losses(logits, targets))


@jax.custom_vjp
def _losses(logits, targets):
  return _forward(logits, targets)[0]


def _forward(logits, targets):
  # Over a vocabulary that is split, this sum would be taken on every device.
  if in_one_pass() and not is_split():
    is_target = jnp.arange(logits.shape[-1]) == targets[..., None]
    highest, total, chosen = partial_sums(logits, is_target)
    log_z = highest + jnp.log(total)
    return (log_z - chosen, log_z), (logits, targets, log_z)
  log_z = jax.nn.logsumexp(logits, axis=-1)
  chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
  return (log_z - chosen, log_z), (logits, targets, log_z)


def _backward(residuals, gradients):
  # One elementwise pass; autodiff would scatter into an array of [B, T, V].
  logits, targets, log_z = residuals
  dnll, dlog_z = gradients
  probabilities = jnp.exp(logits - log_z[..., None])
  is_target = jnp.arange(logits.shape[-1]) == targets[..., None]
  dlogits = (dnll + dlog_z)[..., None] * probabilities
  return dlogits - jnp.where(is_target, dnll[..., None], 0.0), None


_losses.defvjp(_forward, _backward)
