"""A ring of devices that holds one row in zig-zag order.

The row has 2 R chunks; device i holds chunks i and 2 R - 1 - i. Under a causal mask every
device then has the same work with every other device's keys. In plain order the last device
would have twice the mean (Zhu, 2024, https://github.com/zhuzilin/ring-flash-attention/issues/2).

Letters: R devices.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

Tree = TypeVar("Tree")


@dataclasses.dataclass(frozen=True)
class Ring:
  """Devices that pass arrays on to the next one; use it only within `sharding.per_device`.

  Attributes:
    axes: the mesh axes over which the row is split.
    size: R.
  """

  axes: tuple[str, ...]
  size: int

  def here(self) -> jax.Array:
    """This device's number."""
    return jax.lax.axis_index(self.axes)

  def chunk(self, device: Any, half: Any) -> Any:
    """The number of the chunk that `device` holds as its first or second half (0 or 1)."""
    return device + half * (2 * self.size - 1 - 2 * device)

  def passed_on(self, tree: Tree) -> Tree:
    """The tree that the previous device holds."""
    to_next = [(i, (i + 1) % self.size) for i in range(self.size)]
    return jax.tree.map(lambda x: jax.lax.ppermute(x, self.axes, to_next), tree)

  def zigzag(self, x: jax.Array, axis: int) -> jax.Array:
    """From plain order (chunks 2 i and 2 i + 1) to zig-zag order."""
    even, odd = jnp.split(x, 2, axis)
    even = jax.lax.ppermute(even, self.axes, self._routes(0))
    odd = jax.lax.ppermute(odd, self.axes, self._routes(1))
    return self._ordered(even, odd, axis)

  def plain(self, x: jax.Array, axis: int) -> jax.Array:
    """From zig-zag order back to plain order."""
    first, second = jnp.split(x, 2, axis)
    even, odd = jnp.split(self._ordered(first, second, axis), 2, axis)
    back = lambda parity: [(there, here) for here, there in self._routes(parity)]
    even = jax.lax.ppermute(even, self.axes, back(0))
    odd = jax.lax.ppermute(odd, self.axes, back(1))
    return jnp.concatenate([even, odd], axis)

  def go_round(self, meet: Callable, stays: Any, travels: Any, held: Any) -> tuple[Any, Any]:
    """Calls `meet` with every device's `held` in turn, this device's own first.

    Args:
      meet: (source, stays, travels, held) -> (stays, travels). `held` belongs to the device
        `source`; None means this device.
      stays: accumulates results for this device.
      travels: accumulates results for `held`; it goes round with it, and returns home.
      held: arrays of this device, such as its keys and values.
    """

    def meet_those_of(source: Any, stays: Any, travels: Any, held: Any):
      stays, travels = meet(source, stays, travels, held)
      return stays, self.passed_on(travels)

    def step(carry: Any, source: jax.Array):
      stays, travels, held = carry
      arriving = self.passed_on(held)  # not needed below, so it travels during the computation
      return (*meet_those_of(source, stays, travels, held), arriving), None

    arriving = self.passed_on(held)
    stays, travels = meet_those_of(None, stays, travels, held)
    sources = (self.here() - jnp.arange(1, self.size)) % self.size
    (stays, travels, held), _ = jax.lax.scan(step, (stays, travels, arriving), sources[:-1])
    return meet_those_of(sources[-1], stays, travels, held)  # the last `held` stays here

  def _routes(self, parity: int) -> list[tuple[int, int]]:
    """(device, the device that its even or odd chunk of the plain order goes to)."""
    chunks = [2 * i + parity for i in range(self.size)]
    return [(i, min(c, 2 * self.size - 1 - c)) for i, c in enumerate(chunks)]

  def _ordered(self, x: jax.Array, y: jax.Array, axis: int) -> jax.Array:
    """x before y on even devices, y before x on odd ones, since chunk i is even if i is."""
    is_even = self.here() % 2 == 0
    return jnp.concatenate([jnp.where(is_even, x, y), jnp.where(is_even, y, x)], axis)
