"""Tokens from a model: prompts in, continuations out, each token computed once.

All prompts, without their last tokens, go through the model at once and fill its cache
(layers/cache.py). Then every step gives each row one token. A row's tokens depend on its
prompt, the seed and the number of equal prompts before it, not on other rows, padding or mesh.

Prompts are padded to a power of two, so that prompts of similar length share a program.

Letters: B rows, P tokens of a padded prompt, N tokens at most to generate, V ids.
"""

import math
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from layers import cache
from layers.chunked_cross_entropy import whole_logits
from layers.errors import UserError
from layers.sampling import Sampling
from layers.sharding import Rules, partitioned
from layers.tokens import Tokens
from runners.devices.meshes import BATCH_AXES, batch_sharding, place

_NOTHING: Mapping[str, Any] = MappingProxyType({})
_NONE = -1  # in place of tokens after a row's end
_SHORTEST = 16  # the least P


class Generator:
  """Continues prompts with a model on a mesh.

  Args:
    model: called as (ids, tokens).
    mesh, rules: how parameters and cache are sharded; `rules` are the ones used in training.
    num_ids: only smaller ids are drawn; a model may have more ids than its vocabulary.
    context: the most positions; None: no limit.
    end_ids: each of them ends a row; if empty, only max_tokens ends rows.
  """

  def __init__(
    self,
    model: nn.Module,
    mesh: Mesh,
    rules: Rules,
    *,
    num_ids: int,
    context: int | None = None,
    end_ids: Sequence[int] = (),
  ):
    self._model, self._mesh, self._num_ids = model, mesh, num_ids
    self._context, self._end_ids = context, tuple(end_ids)
    # A new token has length 1, which cannot be split; the cache's length can.
    lengths = ("length", "residual_length")
    whole = [(name, None if name in lengths else axes) for name, axes in rules]
    self._rules = (*whole, ("cache_length", "sequence"))
    static = ("num_slots", "max_tokens", "sampling")
    self._jitted = jax.jit(self._generate, static_argnames=static)

  def __call__(
    self,
    params: Any,
    prompts: Sequence[np.ndarray],
    *,
    max_tokens: int,
    sampling: Sampling,
    seed: int = 0,
    variables: Mapping[str, Any] = _NOTHING,
  ) -> list[np.ndarray]:
    """The new ids of each prompt, int32 [at most max_tokens], including the id that ends it.

    Args:
      params: the model's parameters, laid out on the mesh.
      prompts: ids [tokens], at least one each.
      max_tokens: N, at least 1.
      sampling: how a token is drawn.
      seed: of the random draws.
      variables: collection -> what the model keeps beside its parameters.

    Raises:
      UserError: a prompt and its continuation are longer than the context.
    """
    longest = max(map(len, prompts))
    check_context(self._context, longest, max_tokens)
    padded = self._within_context(max(_SHORTEST, 1 << (longest - 1).bit_length()))
    # The last token generated is not read again.
    num_slots = self._within_context(padded + max_tokens - 1)
    num_slots = _round_up(num_slots, self._mesh.shape["sequence"])
    batch = self._batch(prompts, padded, seed)
    with partitioned(self._mesh, self._rules):
      rows = self._jitted(
        {**variables, "params": params},
        batch,
        num_slots=num_slots,
        max_tokens=max_tokens,
        sampling=sampling,
      )
    return [row[row != _NONE] for row in np.asarray(rows)[: len(prompts)]]

  def _within_context(self, size: int) -> int:
    return size if self._context is None else min(size, self._context)

  def _batch(self, prompts: Sequence[np.ndarray], length: int, seed: int) -> dict[str, Any]:
    """The batch: prompts padded to `length`, and empty rows until the mesh divides the rows."""
    parts = math.prod(self._mesh.shape[axis] for axis in BATCH_AXES)
    num_rows = _round_up(len(prompts), parts)
    ids = np.zeros((num_rows, length), np.int32)
    lengths = np.ones(num_rows, np.int32)
    for row, prompt in enumerate(prompts):
      ids[row, : len(prompt)], lengths[row] = prompt, len(prompt)
    draws = np.zeros((num_rows, 3), np.uint32)
    draws[: len(prompts)] = _draws(prompts, seed)
    ended = np.arange(num_rows) >= len(prompts)
    batch = {"ids": ids, "lengths": lengths, "draws": draws, "ended": ended}
    return place(batch, batch_sharding(self._mesh))

  def _generate(
    self,
    model: dict[str, Any],
    batch: Mapping[str, jax.Array],
    num_slots: int,
    max_tokens: int,
    sampling: Sampling,
  ) -> jax.Array:
    ids, lengths = batch["ids"], batch["lengths"]
    num_rows = ids.shape[0]
    keys = jax.vmap(_key)(batch["draws"])

    def apply(variables: Any, ids: jax.Array, positions: jax.Array, is_token: jax.Array):
      rows = jnp.arange(num_rows, dtype=jnp.int32)
      tokens = Tokens(positions, is_token.astype(jnp.int32), rows)
      return self._model.apply(model | variables, ids, tokens, mutable=[cache.COLLECTION])

    def step(state: tuple[Any, ...]) -> tuple[Any, ...]:
      n, variables, last, ended, written = state
      positions = lengths - 1 + n
      inputs = last[:, None], positions[:, None], ~ended[:, None]
      logits, variables = apply(variables, *inputs)
      drawn = sampling(
        whole_logits(logits)[:, 0, : self._num_ids],
        jax.vmap(jax.random.fold_in)(keys, positions),
      )
      written = written.at[:, n].set(jnp.where(ended, _NONE, drawn))
      for end_id in self._end_ids:
        ended |= drawn == end_id
      return n + 1, variables, drawn, ended, written

    variables = cache.empty_cache(self._model, model["params"], num_rows, num_slots, kept=model)
    if ids.shape[1] > 1:  # the logits are unused, so the compiler drops the head
      before = jnp.broadcast_to(jnp.arange(ids.shape[1] - 1), (num_rows, ids.shape[1] - 1))
      _, variables = apply(variables, ids[:, :-1], before, before < lengths[:, None] - 1)
    last = jnp.take_along_axis(ids, lengths[:, None] - 1, axis=1)[:, 0]
    written = jnp.full((num_rows, max_tokens), _NONE, jnp.int32)
    state = jax.lax.while_loop(
      lambda state: (state[0] < max_tokens) & ~state[3].all(),
      step,
      (jnp.zeros((), jnp.int32), variables, last, batch["ended"], written),
    )
    return state[-1]


def check_context(context: int | None, prompt_length: int, max_tokens: int) -> None:
  """Raises UserError if a prompt and its continuation exceed the model's context."""
  # The last token generated is not read again, so it needs no position.
  if context is None or prompt_length + max_tokens - 1 <= context:
    return
  if prompt_length <= context:
    cure = f"take max_tokens={context + 1 - prompt_length} at most"
  else:
    cure = f"shorten the prompt by {prompt_length - context} or more"
  raise UserError(
    f"a prompt of {prompt_length} tokens and max_tokens={max_tokens} are more than the model's "
    f"context of {context} tokens; {cure}"
  )


def _draws(prompts: Sequence[np.ndarray], seed: int) -> list[tuple[int, int, int]]:
  """For each row (seed, hash of its ids, number of equal rows before it): its random stream."""
  seen: Counter[bytes] = Counter()
  numbers = []
  for prompt in prompts:
    content = np.asarray(prompt, np.int32).tobytes()
    numbers.append((seed % 2**32, zlib.crc32(content), seen[content]))
    seen[content] += 1
  return numbers


def _key(draw: jax.Array) -> jax.Array:
  return jax.random.fold_in(jax.random.fold_in(jax.random.key(draw[0]), draw[1]), draw[2])


def _round_up(size: int, multiple: int) -> int:
  return multiple * math.ceil(size / multiple)
