"""Number formats go by name."""

import jax.numpy as jnp
import pytest

from layers import dtypes


def test_a_name_gives_its_dtype():
  assert dtypes.resolve("bfloat16") == jnp.bfloat16


def test_an_unknown_name_lists_those_that_exist():
  with pytest.raises(ValueError, match="float8.*expected one of float32, bfloat16"):
    dtypes.resolve("float8")
