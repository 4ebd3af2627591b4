"""The one matrix product: every dense projection and attention product goes through it.

Operands are rounded to `compute_dtype`, and sums are taken in float32, forward and backward:
the matrix units of accelerators work this way. On CPUs with AVX512-BF16 or AMX the result
leaves in float32, which is the fast path there (bfloat16 -> bfloat16 is not). On accelerators
the time goes into bytes, so the result leaves in the dtype in which it is wanted, and so does
the gradient of the left operand; the gradient of the right one, the weights, leaves in
float32. Plain autodiff would do neither: the transpose of a mixed-precision product multiplies
a float32 cotangent.

Activations are folded to two dimensions [tokens, features] before the product, because the
weight gradient of [batch, length, features] otherwise takes a slow path with transposes. Where
rows are split by length they stay as they are: a device's parts of several rows do not lie
together in a folded dimension, so that the compiler would gather whole rows on every device.
"""

import functools
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint

from layers import dtypes
from layers.sharding import axis_devices, is_split, platform


def product(
  subscripts: str,
  x: jax.Array,
  y: jax.Array,
  compute_dtype: str,
  dtype: Any = jnp.float32,
) -> jax.Array:
  """Two-operand einsum with operands in `compute_dtype` and a result in `dtype`.

  Every index must occur in at least two of the three terms, so that each gradient is again
  such a product: "bth,bsh->bts" has the gradients "bts,bsh->bth" and "bts,bth->bsh".

  Args:
    subscripts: as for jnp.einsum, explicit output, no ellipsis.
    x, y: the operands, any floating dtype.
    compute_dtype: the dtype that the operands are rounded to.
    dtype: of the result; the sums are float32 in any case.

  Raises:
    ValueError: an index occurs in one term only.
  """
  x_indices, y_indices, out = _terms(subscripts)
  for index in set(x_indices + y_indices + out):
    if sum(index in term for term in (x_indices, y_indices, out)) < 2:
      raise ValueError(f"index {index!r} of {subscripts!r} stands in one term only")
  result = _product(subscripts, dtypes.resolve(compute_dtype), leaving(dtype), x, y)
  return cast(jax.Array, result).astype(dtype)


def leaving(dtype: Any) -> Any:
  """The dtype in which a product itself gives a result that is wanted in `dtype`.

  What is still to be added to the result takes it so: on CPU it is then rounded once.
  """
  return jnp.dtype(jnp.float32 if platform() == "cpu" else dtype)


def _terms(subscripts: str) -> tuple[str, str, str]:
  operands, out = subscripts.replace(" ", "").split("->")
  x_indices, y_indices = operands.split(",")
  return x_indices, y_indices, out


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _product(subscripts, dtype, result_dtype, x, y):
  return _multiply(subscripts, x.astype(dtype), y.astype(dtype), result_dtype)


def _multiply(subscripts, x, y, result_dtype):
  if platform() != "cpu":
    return jnp.einsum(subscripts, x, y, preferred_element_type=result_dtype)
  x_indices, y_indices, out = _terms(subscripts)
  contracted = {i for i in x_indices if i in y_indices and i not in out}
  if x_indices[-1] not in contracted and y_indices[-1] not in contracted:
    # Otherwise this takes up to ten times as long on CPU. The left operand gets copied in any
    # case, so it should be the smaller one.
    if x.size > y.size:
      x, y, x_indices, y_indices = y, x, y_indices, x_indices
    if x.dtype != jnp.float32:  # in float32 the library's own copy costs less
      left = "".join(sorted(x_indices, key=lambda index: index in contracted))
      x, x_indices = _row_major(jnp.einsum(f"{x_indices}->{left}", x)), left
  batch = "".join(i for i in x_indices if i in y_indices and i in out)
  free = "".join(i for i in x_indices + y_indices if i in out and i not in batch)
  result = jnp.einsum(
    f"{x_indices},{y_indices}->{batch}{free}", x, y, preferred_element_type=result_dtype
  )
  # On CPU jax cannot compute a bfloat16 product whose result is transposed in memory
  # ("Unsupported element type for DotThunk").
  return jnp.einsum(f"{batch}{free}->{out}", _row_major(result))


def _row_major(x):
  """x laid out in memory in the order of its dimensions, not as a transposed view.

  An array split over devices is left as it is, because the compiler would gather it whole.
  """
  if is_split():
    return x
  layout = Layout(tuple(range(x.ndim)))
  return jax.lax.platform_dependent(
    x, cpu=lambda x: with_layout_constraint(x, layout), default=lambda x: x
  )


def _forward(subscripts, dtype, result_dtype, x, y):
  rounded_x, rounded_y = x.astype(dtype), y.astype(dtype)
  # The rounded operands are what the backward pass multiplies: saving them halves the
  # memory of a bfloat16 step. Empty arrays carry the dtypes of the originals.
  residuals = (rounded_x, rounded_y, jnp.empty(0, x.dtype), jnp.empty(0, y.dtype))
  return _multiply(subscripts, rounded_x, rounded_y, result_dtype), residuals


def _backward(subscripts, dtype, result_dtype, residuals, gradient):
  del result_dtype
  x, y, like_x, like_y = residuals
  x_indices, y_indices, out = _terms(subscripts)
  gradient = gradient.astype(dtype)
  dx = _multiply(f"{out},{y_indices}->{x_indices}", gradient, y, leaving(like_x.dtype))
  dy = _multiply(f"{x_indices},{out}->{y_indices}", x, gradient, jnp.float32)
  return dx.astype(like_x.dtype), dy.astype(like_y.dtype)


_product.defvjp(_forward, _backward)


def project(
  x: jax.Array, kernel: jax.Array, compute_dtype: str, dtype: Any = jnp.float32
) -> jax.Array:
  """x [..., D] times kernel [D, F] gives [..., F] in `dtype`."""
  _, parts_of_a_row = axis_devices("length")
  if parts_of_a_row > 1:
    tokens = "abcdefgh"[: x.ndim - 1]
    return product(f"{tokens}y,yz->{tokens}z", x, kernel, compute_dtype, dtype)
  folded = x.reshape(-1, x.shape[-1])
  result = product("td,df->tf", folded, kernel, compute_dtype, dtype)
  return result.reshape(*x.shape[:-1], kernel.shape[-1])
