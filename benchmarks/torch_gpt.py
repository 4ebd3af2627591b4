"""A worker that trains the same GPT in PyTorch, from the parameters that strata_gpt.py exports.

Eager, as nanoGPT does on CPU, with what is fastest there: scaled_dot_product_attention and the
fused AdamW. Same initial parameters, batches, learning rates, clipping and decay: the first
losses agree to five digits.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
import torch.nn.functional as F  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]
from workers import confine, serve


class Attention(nn.Module):
  def __init__(self, dim: int, num_heads: int, use_bias: bool):
    super().__init__()
    self.num_heads = num_heads
    self.qkv = nn.Linear(dim, 3 * dim, bias=use_bias)
    self.out = nn.Linear(dim, dim, bias=use_bias)

  def forward(self, x):
    B, T, D = x.shape
    split = lambda y: y.view(B, T, self.num_heads, -1).transpose(1, 2)
    q, k, v = map(split, self.qkv(x).split(D, dim=2))
    mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return self.out(mixed.transpose(1, 2).reshape(B, T, D))


class Block(nn.Module):
  def __init__(self, dim: int, num_heads: int, use_bias: bool):
    super().__init__()
    self.attention_norm = nn.LayerNorm(dim, bias=use_bias)
    self.attention = Attention(dim, num_heads, use_bias)
    self.feed_forward_norm = nn.LayerNorm(dim, bias=use_bias)
    self.up = nn.Linear(dim, 4 * dim, bias=use_bias)
    self.down = nn.Linear(4 * dim, dim, bias=use_bias)

  def forward(self, x):
    x = x + self.attention(self.attention_norm(x))
    hidden = F.gelu(self.up(self.feed_forward_norm(x)), approximate="tanh")
    return x + self.down(hidden)


class GPT(nn.Module):
  """Learned positions, pre-norm blocks, a head that is the transposed embedding."""

  def __init__(
    self,
    vocab_size: int,
    length: int,
    dim: int,
    num_layers: int,
    num_heads: int,
    use_bias: bool = False,
  ):
    super().__init__()
    self.embedding = nn.Embedding(vocab_size, dim)
    self.positions = nn.Embedding(length, dim)
    self.blocks = nn.ModuleList(Block(dim, num_heads, use_bias) for _ in range(num_layers))
    self.norm = nn.LayerNorm(dim, bias=use_bias)

  def forward(self, ids):
    x = self.embedding(ids) + self.positions.weight
    for block in self.blocks:
      x = block(x)
    return F.linear(self.norm(x), self.embedding.weight)


def load(arrays: Any) -> GPT:
  """The model whose sizes and parameters are those of the file."""
  num_layers = sum(name.endswith("/up/kernel") for name in arrays)
  vocab_size, dim = arrays["embedding/table"].shape
  num_heads = arrays["stack/layers/0/attention/query/kernel"].shape[1]
  model = GPT(vocab_size, len(arrays["positions/table"]), dim, num_layers, num_heads)
  kernel = lambda name, inputs: arrays[name].reshape(inputs, -1).T
  values = {
    "embedding": arrays["embedding/table"],
    "positions": arrays["positions/table"],
    "norm": arrays["final_norm/scale"],
  }
  for i in range(num_layers):
    layer = f"stack/layers/{i}"
    heads = [kernel(f"{layer}/attention/{n}/kernel", dim) for n in ("query", "key", "value")]
    values |= {
      f"blocks.{i}.attention.qkv": np.concatenate(heads),
      f"blocks.{i}.attention.out": kernel(f"{layer}/attention/out/kernel", dim),
      f"blocks.{i}.up": kernel(f"{layer}/feed_forward/up/kernel", dim),
      f"blocks.{i}.down": kernel(f"{layer}/feed_forward/down/kernel", 4 * dim),
      f"blocks.{i}.attention_norm": arrays[f"{layer}/attention_norm/scale"],
      f"blocks.{i}.feed_forward_norm": arrays[f"{layer}/feed_forward_norm/scale"],
    }
  tensors = {f"{name}.weight": torch.tensor(value) for name, value in values.items()}
  model.load_state_dict(tensors)
  return model


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--export", type=Path, required=True, help="what strata_gpt.py wrote")
  parser.add_argument("--autocast", action="store_true", help="bfloat16 where PyTorch does so")
  parser.add_argument("--num_cores", type=int, required=True)
  options = parser.parse_args()
  confine(options.num_cores)
  torch.set_num_threads(options.num_cores)
  with np.load(options.export) as file:
    arrays = dict(file)
  model = load(arrays)
  groups = [
    {"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": 0.1},
    {"params": [p for p in model.parameters() if p.dim() == 1], "weight_decay": 0.0},
  ]
  optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99), eps=1e-8, fused=True)
  inputs, targets = (
    torch.tensor(arrays[f"decoder_{name}_tokens"], dtype=torch.long)
    for name in ("input", "target")
  )

  def step(number: int) -> float:
    for group in optimizer.param_groups:
      group["lr"] = float(arrays["learning_rates"][number])
    batch = number % len(inputs)
    with torch.autocast("cpu", torch.bfloat16, enabled=options.autocast):
      logits = model(inputs[batch])
      loss = F.cross_entropy(logits.flatten(0, 1).float(), targets[batch].flatten())
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item()

  serve(step)


if __name__ == "__main__":
  main()
