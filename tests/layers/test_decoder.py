"""Laws 4 and 6 on the whole model: documents do not see each other, nor the future."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from layers.attention_cores.blockwise import BlockwiseAttention
from layers.attention_cores.dense import dense_attention
from layers.attention_cores.splash import SplashAttention
from layers.errors import UserError
from layers.tokens import Tokens


@pytest.fixture(
  params=[
    dense_attention,
    BlockwiseAttention(query_block=4, key_block=5),
    pytest.param(SplashAttention(), marks=pytest.mark.slow),
  ],
  ids=["dense", "blockwise", "splash"],
)
def model_and_params(request, make_decoder, packed):
  """With every attention core that needs no mesh."""
  model = make_decoder(core=request.param)
  return model, nn.unbox(model.init(jax.random.key(0), *packed))


@pytest.mark.bits
def test_law_4_changing_one_document_changes_no_logit_of_another(model_and_params, packed):
  model, params = model_and_params
  ids, tokens = packed
  apply = jax.jit(model.apply)
  before = apply(params, ids, tokens)
  for number in (1, 2):
    changed = jnp.where(tokens.segments[0] == number, (ids[0] + 1) % 67, ids[0])
    after = apply(params, ids.at[0].set(changed), tokens)
    others = np.asarray(tokens.segments[0] != number)
    np.testing.assert_array_equal(after[0, others], before[0, others])
    assert not np.array_equal(after[0, ~others], before[0, ~others])
    np.testing.assert_array_equal(after[1], before[1])


def test_law_4_a_packed_document_has_the_logits_it_has_alone(model_and_params, packed):
  model, params = model_and_params
  ids, tokens = packed
  together = model.apply(params, ids, tokens)
  for row, number in ((0, 1), (0, 2), (1, 1)):
    members = np.flatnonzero(np.asarray(tokens.segments[row] == number))
    alone = model.apply(params, ids[row, members][None], Tokens.unpacked(1, len(members)))
    np.testing.assert_allclose(together[row, members], alone[0], rtol=1e-5, atol=1e-6)


@pytest.mark.bits
def test_law_4_the_gradient_of_one_document_ignores_the_other(model_and_params, packed):
  model, params = model_and_params
  ids, tokens = packed
  first = (tokens.segments == 1) & (jnp.arange(2)[:, None] == 0)

  @jax.jit
  def gradient(ids):
    loss = lambda p: (model.apply(p, ids, tokens) ** 2 * first[..., None]).sum()
    return jax.grad(loss)(params)

  other = jnp.where(first, ids, (ids + 1) % 67)
  jax.tree.map(np.testing.assert_array_equal, gradient(ids), gradient(other))


@pytest.mark.bits
def test_law_6_changing_a_token_leaves_the_logits_before_it_alone(model_and_params):
  model, params = model_and_params
  ids, tokens = jnp.arange(10)[None], Tokens.unpacked(1, 10)
  apply = jax.jit(model.apply)
  before = apply(params, ids, tokens)
  for t in range(10):
    after = apply(params, ids.at[0, t].set(66), tokens)
    np.testing.assert_array_equal(after[0, :t], before[0, :t])
    assert not np.array_equal(after[0, t], before[0, t])


@pytest.mark.bits
@pytest.mark.parametrize("tied_head", [True, False])
def test_padding_the_vocabulary_changes_no_probability(make_decoder, packed, tied_head):
  plain = make_decoder(tied_head=tied_head)
  padded = make_decoder(tied_head=tied_head, padded_vocab_size=72)
  params = nn.unbox(plain.init(jax.random.key(0), *packed))
  padded_params = nn.unbox(padded.init(jax.random.key(0), *packed))
  want = jax.nn.softmax(plain.apply(params, *packed))
  got = jax.nn.softmax(padded.apply(padded_params, *packed))
  np.testing.assert_allclose(got[..., :67], want, rtol=1e-5)
  np.testing.assert_array_equal(got[..., 67:], 0.0)


def test_an_untied_head_has_a_kernel_of_its_own(make_decoder, packed):
  params = nn.unbox(make_decoder(tied_head=False).init(jax.random.key(0), *packed))["params"]
  assert params["head"]["projection"]["kernel"].shape == (32, 67)


@pytest.mark.bits
def test_an_untied_head_begins_the_same_whatever_the_padding(make_decoder, packed):
  def kernel(**fields):
    model = make_decoder(tied_head=False, **fields)
    params = nn.unbox(model.init(jax.random.key(0), *packed))["params"]
    return params["head"]["projection"]["kernel"]

  plain, padded = kernel(), kernel(padded_vocab_size=72)
  np.testing.assert_array_equal(padded[:, :67], plain)
  np.testing.assert_array_equal(padded[:, 67:], 0.0)


def test_sequences_beyond_the_position_table_are_refused(make_decoder):
  with pytest.raises(UserError, match="max_positions=16 is shorter than the sequences of 17"):
    make_decoder().init(jax.random.key(0), jnp.zeros((1, 17), int), Tokens.unpacked(1, 17))


def test_an_unset_vocabulary_is_named(make_decoder, packed):
  with pytest.raises(UserError, match="vocab_size is unset"):
    make_decoder(vocab_size=None).init(jax.random.key(0), *packed)


@pytest.mark.parametrize("chunk", [-5, 0])
def test_a_loss_chunk_of_no_token_is_refused(chunk, make_decoder, packed):
  model = make_decoder(loss_chunk=chunk)
  with pytest.raises(UserError, match=f"model.loss_chunk={chunk}: a chunk has at least one"):
    jax.eval_shape(model.init, jax.random.key(0), *packed)
