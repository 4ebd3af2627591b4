"""The memory of a large vocabulary: the loss all at once, and a chunk of tokens at a time.

python benchmarks/loss_memory.py                            about a minute
python benchmarks/loss_memory.py --tokens 1024 --vocab_size=1000 --model_dim=32 --chunk=128

Embedding, head and loss of one row, forward and backward in float32 on CPU, with nothing
between them. Every loss has a process of its own (see peak_memory.py).

  MB       growth of the resident memory during the step, at its highest
  planned  what the compiler says of the same program: temporaries and gradients

The gradients of both matrices, which either loss has to make, are in both columns: their size
is printed above the table.
"""

import argparse

from measuring import print_head, print_table
from peak_memory import Peak, in_own_process, say

LOSSES = ("plain", "chunked")


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--tokens", nargs="+", type=int, default=[4096, 8192], help="of the row")
  parser.add_argument("--vocab_size", type=int, default=32_000)
  parser.add_argument("--model_dim", type=int, default=256)
  parser.add_argument("--chunk", type=int, default=1024, help="tokens at a time")
  parser.add_argument("--loss", choices=LOSSES, help="measure this alone, in this process")
  options = parser.parse_args()
  if options.loss:
    (length,) = options.tokens
    measure(options, length)
    return
  print_head("jax", "flax")
  gradients = 2 * options.vocab_size * options.model_dim * 4 / 1e6
  print(
    f"{options.vocab_size:,} ids, width {options.model_dim}, chunks of {options.chunk:,} "
    f"tokens; gradients {gradients:.0f} MB\n"
  )
  shape = [
    f"--{name}={getattr(options, name)}" for name in ("vocab_size", "model_dim", "chunk")
  ]
  rows = []
  for length in options.tokens:
    peaks = [
      in_own_process(__file__, [f"--loss={loss}", f"--tokens={length}", *shape])
      for loss in LOSSES
    ]
    rows.append((f"{length:,}", *(cell for peak in peaks for cell in _cells(peak))))
  columns = (f"{loss} {column}" for loss in LOSSES for column in ("MB", "planned"))
  print_table(("tokens", *columns), rows)


def measure(options: argparse.Namespace, length: int) -> None:
  """Says what gradients of embedding and head take."""
  import flax.linen as nn
  import jax
  import jax.numpy as jnp

  from layers.chunked_cross_entropy import LazyLogits
  from layers.cross_entropy import token_losses
  from layers.embeddings import OutputHead, TokenEmbedding

  class Ends(nn.Module):
    """A language model without a stack."""

    @nn.compact
    def __call__(self, ids: jax.Array) -> jax.Array:
      x = TokenEmbedding(options.vocab_size, options.model_dim)(ids)
      kernel = OutputHead(options.vocab_size)(options.model_dim)
      lazy = LazyLogits(x, kernel, options.vocab_size, options.chunk, "float32")
      nll, _ = token_losses(lazy if options.loss == "chunked" else lazy.whole(), ids)
      return nll.mean()

  model = Ends()
  params = model.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
  ids = jnp.arange(length)[None] % options.vocab_size
  say(jax.grad(model.apply), (params, ids), float("inf"))


def _cells(peak: Peak) -> tuple[float, float]:
  assert peak.measured is not None  # nothing is left out
  return peak.measured / 1e6, peak.planned / 1e6


if __name__ == "__main__":
  main()
