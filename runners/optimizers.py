"""Optimizers: optax's, with clipping and a decay mask, as one callable each.

An optimizer is any function that returns an optax.GradientTransformation; a parameter of
that function called `learning_rate` is logged. Moments are float32 whatever the parameters.

`frozen` has regular expressions: a parameter whose name ("stack/layers/attention/out/kernel")
matches one neither moves nor decays, has no moments, and does not count when gradients are
clipped.

`decay_mask` chooses the parameters that decay; None: all of them, norm scales included.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from layers.errors import UserError
from layers.ranges import FractionBelowOne, NonNegativeFloat, PositiveFloat
from layers.suggestions import did_you_mean
from runners.array_names import array_name, check_patterns

DecayMask = Callable[[Any], Any]
LearningRate = NonNegativeFloat | optax.Schedule

_NOT_DECAYED = ("bias", "scale")


def decay_kernels(params: Any) -> Any:
  """True for kernels and embedding tables, False for biases and norm scales.

  By name and not by rank: stacked layers give a bias a second dimension.
  """
  return jax.tree_util.tree_map_with_path(
    lambda path, _: getattr(path[-1], "key", None) not in _NOT_DECAYED, params
  )


def adamw(
  learning_rate: LearningRate,
  b1: FractionBelowOne = 0.9,
  b2: FractionBelowOne = 0.95,
  eps: PositiveFloat = 1e-8,
  weight_decay: NonNegativeFloat = 0.1,
  clip_norm: PositiveFloat | None = 1.0,
  decay_mask: DecayMask | None = decay_kernels,
  frozen: Sequence[str] = (),
) -> optax.GradientTransformation:
  """AdamW (Loshchilov & Hutter, 2019, https://arxiv.org/abs/1711.05101) after clipping."""
  return _clipped(
    clip_norm,
    frozen,
    optax.adamw(
      learning_rate,
      b1=b1,
      b2=b2,
      eps=eps,
      weight_decay=weight_decay,
      mask=decay_mask,
    ),
  )


def sgdm(
  learning_rate: LearningRate,
  momentum: FractionBelowOne = 0.9,
  nesterov: bool = False,
  weight_decay: NonNegativeFloat = 0.0,
  clip_norm: PositiveFloat | None = None,
  decay_mask: DecayMask | None = decay_kernels,
  frozen: Sequence[str] = (),
) -> optax.GradientTransformation:
  """SGD with momentum; the decay is part of the gradient, as in the classical form."""
  return _clipped(
    clip_norm,
    frozen,
    optax.add_decayed_weights(weight_decay, mask=decay_mask),
    optax.sgd(
      learning_rate,
      momentum=momentum or None,
      nesterov=nesterov,
    ),
  )


def lion(
  learning_rate: LearningRate,
  b1: FractionBelowOne = 0.9,
  b2: FractionBelowOne = 0.99,
  weight_decay: NonNegativeFloat = 1.0,
  clip_norm: PositiveFloat | None = 1.0,
  decay_mask: DecayMask | None = decay_kernels,
  frozen: Sequence[str] = (),
) -> optax.GradientTransformation:
  """Lion (Chen et al., 2023, https://arxiv.org/abs/2302.06675): a tenth of AdamW's rate."""
  return _clipped(
    clip_norm,
    frozen,
    optax.lion(
      learning_rate,
      b1=b1,
      b2=b2,
      weight_decay=weight_decay,
      mask=decay_mask,
    ),
  )


def _clipped(
  clip_norm: float | None,
  frozen: Sequence[str],
  *transformations: optax.GradientTransformation,
) -> optax.GradientTransformation:
  """The chain in float32, after a clip by global norm unless clip_norm is None."""
  clip = [] if clip_norm is None else [optax.clip_by_global_norm(clip_norm)]
  return _in_float32(_freezing(frozen, optax.chain(*clip, *transformations)))


def _freezing(
  patterns: Sequence[str], inner: optax.GradientTransformation
) -> optax.GradientTransformation:
  """`inner` for parameters whose names match no pattern; the others stay unchanged."""
  if not patterns:
    return inner
  check_patterns("optimizer.frozen", patterns)

  def label(params: Any) -> Any:
    names: list[str] = []

    def of(path: Any, _: Any) -> str:
      names.append(array_name(path))
      return "frozen" if any(re.search(p, names[-1]) for p in patterns) else "trained"

    labels = jax.tree_util.tree_map_with_path(of, params)
    for pattern in patterns if names else ():  # optax also asks about a tree without arrays
      if not any(re.search(pattern, name) for name in names):
        raise UserError(
          f"optimizer.frozen: {pattern!r} is found in no parameter: "
          f"{did_you_mean(pattern, names, 3)}"
        )
    return labels

  return optax.partition({"trained": inner, "frozen": optax.set_to_zero()}, label)


def _in_float32(inner: optax.GradientTransformation) -> optax.GradientTransformation:
  """`inner` as if parameters and gradients were float32.

  optax can set the dtype of first moments only; second moments take the parameters' dtype.
  """

  def cast(tree: Any) -> Any:
    return jax.tree.map(lambda x: x.astype(jnp.float32), tree)

  def init(params: Any) -> Any:
    return inner.init(cast(params))

  def update(updates: Any, state: Any, params: Any = None) -> Any:
    return inner.update(cast(updates), state, cast(params))

  return optax.GradientTransformation(init, update)
