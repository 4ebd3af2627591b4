"""The product is einsum, forward and backward, and stays mixed-precision in both directions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from layers.product import product, project
from layers.sharding import on_platform


@pytest.mark.parametrize(
  "subscripts, x_shape, y_shape",
  [
    ("td,df->tf", (5, 3), (3, 4)),
    ("nth,nsh->nts", (2, 5, 3), (2, 4, 3)),
    ("nts,nsh->nth", (2, 5, 4), (2, 4, 3)),
    ("td,tf->df", (5, 3), (5, 4)),  # contracted over the first dimension of both,
    ("td,tf->df", (5, 4), (5, 3)),  # whichever is the larger
    ("nts,nth->nsh", (2, 5, 4), (2, 5, 3)),
  ],
)
def test_product_and_its_gradients_are_those_of_einsum(subscripts, x_shape, y_shape):
  x, y = (jax.random.normal(jax.random.key(i), s) for i, s in enumerate((x_shape, y_shape)))

  def total(multiply):
    return lambda x, y: jnp.sin(multiply(x, y)).sum()

  got = jax.value_and_grad(total(lambda x, y: product(subscripts, x, y, "float32")), (0, 1))
  want = jax.value_and_grad(total(lambda x, y: jnp.einsum(subscripts, x, y)), (0, 1))
  for a, b in zip(jax.tree.leaves(got(x, y)), jax.tree.leaves(want(x, y)), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_every_product_of_a_bfloat16_step_takes_bfloat16_and_accumulates_in_float32():
  x, kernel = jnp.ones((2, 3, 8)), jnp.ones((8, 4))
  gradient = jax.grad(lambda x, w: project(x, w, "bfloat16").sum(), (0, 1))
  jaxpr = jax.make_jaxpr(gradient)(x, kernel)
  products = _dot_generals(jaxpr.jaxpr)
  assert len(products) == 3  # forward, and one gradient for each operand
  for equation in products:
    assert [v.aval.dtype for v in equation.invars] == [jnp.bfloat16, jnp.bfloat16]
    assert equation.outvars[0].aval.dtype == jnp.float32


@pytest.mark.parametrize("platform", ["gpu", "tpu"])
def test_on_accelerators_activations_leave_in_their_dtype_and_weights_gradients_in_float32(
  platform,
):
  x, kernel = jnp.ones((2, 3, 8), jnp.bfloat16), jnp.ones((8, 4))
  loss = lambda x, w: project(x, w, "bfloat16", x.dtype).astype(jnp.float32).sum()
  with on_platform(platform):
    jaxpr = jax.make_jaxpr(jax.grad(loss, (0, 1)))(x, kernel)
  found = {equation.outvars[0].aval for equation in _dot_generals(jaxpr.jaxpr)}
  assert {(x.shape, str(x.dtype)) for x in found} == {
    ((6, 4), "bfloat16"),
    ((6, 8), "bfloat16"),
    ((8, 4), "float32"),
  }
  on_cpu = _dot_generals(jax.make_jaxpr(jax.grad(loss, (0, 1)))(x, kernel).jaxpr)
  assert {equation.outvars[0].aval.dtype for equation in on_cpu} == {jnp.dtype("float32")}


@pytest.mark.parametrize("narrow", ["left", "right"])
def test_contracting_first_dimensions_in_bfloat16_rounds_operands_and_nothing_else(narrow):
  shapes = ((64, 3), (64, 5)) if narrow == "left" else ((64, 5), (64, 3))
  x, y = (jax.random.normal(jax.random.key(i), s) for i, s in enumerate(shapes))
  got = jax.jit(lambda x, y: product("td,tf->df", x, y, "bfloat16"))(x, y)
  rounded = (np.asarray(z.astype(jnp.bfloat16), np.float64) for z in (x, y))
  np.testing.assert_allclose(got, np.einsum("td,tf->df", *rounded), rtol=1e-5, atol=1e-5)


@pytest.mark.bits
@pytest.mark.parametrize(
  "subscripts, x_shape, y_shape",
  [
    ("td,df->tf", (32, 16), (16, 64)),
    ("td,tf->df", (32, 16), (32, 64)),
    ("nts,nsh->nth", (4, 16, 16), (4, 16, 8)),
  ],
)
def test_what_transposes_the_result_of_a_bfloat16_product_compiles(
  subscripts, x_shape, y_shape
):
  x, y = jnp.ones(x_shape), jnp.ones(y_shape)
  multiply = lambda x, y: product(subscripts, x, y, "bfloat16")
  transposed = jax.jit(lambda x, y: multiply(x, y).swapaxes(-1, -2))(x, y)
  np.testing.assert_array_equal(transposed, multiply(x, y).swapaxes(-1, -2))


def test_gradients_come_back_in_the_dtype_of_their_operand():
  x, kernel = jnp.ones((2, 8), jnp.bfloat16), jnp.ones((8, 4), jnp.float32)
  dx, dkernel = jax.grad(lambda x, w: project(x, w, "bfloat16").sum(), (0, 1))(x, kernel)
  assert (dx.dtype, dkernel.dtype) == (jnp.bfloat16, jnp.float32)


def test_an_index_in_one_term_only_is_refused():
  with pytest.raises(ValueError, match="'a' of 'ab,bc->c'"):
    product("ab,bc->c", jnp.ones((2, 3)), jnp.ones((3, 4)), "float32")


def _dot_generals(jaxpr):
  found = []
  for equation in jaxpr.eqns:
    if equation.primitive.name == "dot_general":
      found.append(equation)
    for value in equation.params.values():
      inner = getattr(value, "jaxpr", value)
      if hasattr(inner, "eqns"):
        found += _dot_generals(inner)
  return found


GATHERED = """
import json
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from layers.product import project
from layers.sharding import partitioned
mesh = Mesh(np.array(jax.devices()).reshape(4), "fsdp")
rows, whole = NamedSharding(mesh, P("fsdp")), NamedSharding(mesh, P())
x = jax.ShapeDtypeStruct((8, 16, 32), jnp.float32, sharding=rows)
kernel = jax.ShapeDtypeStruct((32, 64), jnp.float32, sharding=whole)

def gradients(x, kernel):
  with partitioned(mesh, (("batch", "fsdp"),)):
    loss = lambda x, kernel: jnp.sin(project(x, kernel, DTYPE)).sum()
    return jax.grad(loss, (0, 1))(x, kernel)

gradients = jax.jit(gradients, out_shardings=(rows, whole))
print(json.dumps(gradients.lower(x, kernel).compile().as_text().count("all-gather")))
"""


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rows_on_several_devices_are_not_gathered(run_with_devices, dtype):
  assert run_with_devices(4, GATHERED.replace("DTYPE", repr(dtype))) == 0
