"""A decoder-only language model: embedding, a stack of blocks, a norm, a head.

Letters: B batch, T length, D model dimension, V vocabulary.
"""

import flax.linen as nn
import jax

from layers import dtypes
from layers.chunked_cross_entropy import LazyLogits
from layers.dropout import Dropout
from layers.dtypes import DType
from layers.embeddings import LearnedPositions, OutputHead, TokenEmbedding
from layers.errors import UserError
from layers.ranges import FractionBelowOne, NonNegativeFloat, PositiveInt
from layers.rematerialization import RematPolicy
from layers.sharding import constrain
from layers.stack import Stack
from layers.tokens import Tokens


class Decoder(nn.Module):
  """Token ids to next-token logits.

  If the experiment leaves vocab_size, padded_vocab_size, max_positions and the dtypes unset,
  the runner derives them (runners/derivation.py).

  Attributes:
    num_layers, model_dim: depth and width D.
    block: a template, called as (x, tokens).
    norm: a template of the last norm.
    vocab_size: V. padded_vocab_size: see TokenEmbedding.
    max_positions: rows of the learned position table.
    learned_positions: False if the blocks handle positions themselves (rotary).
    tied_head: True: logits through the transposed embedding; False: a separate projection.
    loss_chunk: tokens on a device whose logits exist at a time while the loss is computed;
      None: all tokens.
    dropout_rate: of the embeddings.
    scan_layers, remat: see Stack.
    compute_dtype, param_dtype: see Projection.
    activation_dtype: of the residual stream.
  """

  num_layers: PositiveInt
  model_dim: PositiveInt
  block: nn.Module
  norm: nn.Module
  vocab_size: PositiveInt | None = None
  padded_vocab_size: PositiveInt | None = None
  max_positions: PositiveInt | None = None
  learned_positions: bool = True
  tied_head: bool = True
  loss_chunk: PositiveInt | None = None
  dropout_rate: FractionBelowOne = 0.0
  init_stddev: NonNegativeFloat = 0.02
  scan_layers: bool | PositiveInt = True
  remat: RematPolicy = "none"
  compute_dtype: DType = DType("float32")
  param_dtype: DType = DType("float32")
  activation_dtype: DType = DType("float32")

  @nn.compact
  def __call__(self, ids: jax.Array, tokens: Tokens) -> jax.Array | LazyLogits:
    """ids [B, T] int32 gives logits [B, T, V] float32; padding ids have the lowest float.

    With `loss_chunk` it gives LazyLogits, for `cross_entropy.token_losses`.
    """
    if self.vocab_size is None:
      raise UserError("the model's vocab_size is unset and its data give no vocabulary")
    if (self.padded_vocab_size or self.vocab_size) < self.vocab_size:
      raise UserError(
        f"model.padded_vocab_size={self.padded_vocab_size} is less than vocab_size="
        f"{self.vocab_size}; leave it unset"
      )
    if self.loss_chunk is not None and self.loss_chunk < 1:
      raise UserError(f"model.loss_chunk={self.loss_chunk}: a chunk has at least one token")
    embedding = TokenEmbedding(
      self.vocab_size,
      self.model_dim,
      self.padded_vocab_size,
      init_stddev=self.init_stddev,
      compute_dtype=self.compute_dtype,
      param_dtype=self.param_dtype,
      name="embedding",
    )
    x = embedding(ids)
    if self.learned_positions:
      x += self._positions(ids.shape[1])(tokens.positions)
    x = x.astype(dtypes.resolve(self.activation_dtype))
    x = Dropout(self.dropout_rate, name="embedding_dropout")(x, tokens.rows)
    x = constrain(x, "batch", "residual_length", "activation_embed")
    x = Stack(self.block, self.num_layers, self.scan_layers, self.remat, name="stack")(
      x, tokens
    )
    x = self.norm.copy(name="final_norm")(x)
    x = constrain(x, "batch", "length", "activation_embed")
    kernel = embedding.head() if self.tied_head else self._head()(self.model_dim)
    logits = LazyLogits(x, kernel, self.vocab_size, self.loss_chunk or 0, self.compute_dtype)
    return logits.whole() if self.loss_chunk is None else logits

  def _positions(self, length: int) -> LearnedPositions:
    max_positions = self.max_positions or length
    if max_positions < length:
      raise UserError(
        f"model.max_positions={max_positions} is shorter than the sequences of {length} "
        "tokens; raise it, leave it unset, or lower sequence_length"
      )
    return LearnedPositions(
      max_positions,
      self.model_dim,
      init_stddev=self.init_stddev,
      param_dtype=self.param_dtype,
      name="positions",
    )

  def _head(self) -> OutputHead:
    return OutputHead(
      self.vocab_size or 0,
      self.padded_vocab_size,
      init_stddev=self.init_stddev,
      param_dtype=self.param_dtype,
      name="head",
    )
