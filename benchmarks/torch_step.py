"""GPT-2 and LLaMA in PyTorch, as its users train them on one GPU, for gpu_step.py.

Float32 parameters, bfloat16 autocast, scaled_dot_product_attention, fused AdamW, clipping, and
each block compiled once for all layers (a whole model of 22 takes minutes to compile). The
vocabulary is padded to whole tiles, as nanoGPT pads it.
"""

import math
import time
from typing import Any

import torch  # pyright: ignore[reportMissingImports]
import torch.nn.functional as F  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]

_TILE = 64


class GPTBlock(nn.Module):
  """GPT-2's: LayerNorm, tanh GELU, biases."""

  def __init__(self, dim: int, num_heads: int, hidden_dim: int):
    super().__init__()
    self.num_heads = num_heads
    self.attention_norm, self.feed_forward_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
    self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
    self.up, self.down = nn.Linear(dim, hidden_dim), nn.Linear(hidden_dim, dim)

  def forward(self, x, rotation):
    del rotation
    heads = [_heads(y, self.num_heads) for y in self.qkv(self.attention_norm(x)).chunk(3, -1)]
    x = x + self.out(_attend(*heads))
    hidden = F.gelu(self.up(self.feed_forward_norm(x)), approximate="tanh")
    return x + self.down(hidden)


class LlamaBlock(nn.Module):
  """LLaMA's: RMSNorm, rotary positions, SwiGLU, no biases."""

  def __init__(self, dim: int, num_heads: int, hidden_dim: int):
    super().__init__()
    self.num_heads = num_heads
    self.attention_norm, self.feed_forward_norm = nn.RMSNorm(dim), nn.RMSNorm(dim)
    linear = lambda inputs, outputs: nn.Linear(inputs, outputs, bias=False)
    self.query, self.key, self.value, self.out = (linear(dim, dim) for _ in range(4))
    self.gate, self.up = linear(dim, hidden_dim), linear(dim, hidden_dim)
    self.down = linear(hidden_dim, dim)

  def forward(self, x, rotation):
    y = self.attention_norm(x)
    query, key, value = (
      _heads(project(y), self.num_heads) for project in (self.query, self.key, self.value)
    )
    query, key = (_rotated(heads, rotation).to(value.dtype) for heads in (query, key))
    x = x + self.out(_attend(query, key, value))
    y = self.feed_forward_norm(x)
    return x + self.down(F.silu(self.gate(y)) * self.up(y))


class LanguageModel(nn.Module):
  """A GPT (learned positions, the head is the embedding transposed) or a LLaMA."""

  def __init__(self, family: str, sizes: dict[str, int], length: int):
    super().__init__()
    dim, num_heads = sizes["model_dim"], sizes["num_heads"]
    vocab_size = _TILE * math.ceil(sizes["vocab_size"] / _TILE)
    block, norm = (GPTBlock, nn.LayerNorm) if family == "gpt2" else (LlamaBlock, nn.RMSNorm)
    self.embedding = nn.Embedding(vocab_size, dim)
    self.positions = nn.Embedding(length, dim) if family == "gpt2" else None
    layers = (block(dim, num_heads, sizes["hidden_dim"]) for _ in range(sizes["num_layers"]))
    self.blocks = nn.ModuleList(layers)
    self.norm = norm(dim)
    self.head = nn.Linear(dim, vocab_size, bias=False)
    if family == "gpt2":
      self.head.weight = self.embedding.weight
    for parameter in self.parameters():
      if parameter.dim() > 1:
        nn.init.normal_(parameter, std=0.02)
    features = torch.linspace(0, 1, dim // num_heads // 2 + 1)[:-1]
    frequencies = torch.exp(-math.log(10_000) * features)
    angles = torch.arange(length)[:, None] * frequencies
    self.register_buffer("rotation", torch.stack([angles.cos(), angles.sin()]))

  def forward(self, ids, targets):
    x = self.embedding(ids)
    if self.positions is not None:
      x = x + self.positions.weight
    for block in self.blocks:
      x = block(x, self.rotation)
    logits = self.head(self.norm(x))
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


def measured(
  family: str, sizes: dict[str, int], num_rows: int, length: int, repeats: int
) -> dict[str, Any]:
  """Median "seconds" of an update on random ids, "peak" bytes of the GPU, None on a CPU."""
  from on_device import median_seconds

  on_gpu = torch.cuda.is_available()
  device = "cuda" if on_gpu else "cpu"
  torch.manual_seed(0)
  torch.set_float32_matmul_precision("high")
  model: Any = LanguageModel(family, sizes, length).to(device)
  if on_gpu:
    for block in model.blocks:
      block.compile()
  optimizer = torch.optim.AdamW(
    model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True
  )
  ids = torch.randint(sizes["vocab_size"], (num_rows, length), device=device)

  def run() -> None:
    with torch.autocast(device, torch.bfloat16):
      loss = model(ids, ids.roll(-1, dims=1))
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    if not math.isfinite(loss.item()):  # waits for the device
      raise FloatingPointError("the loss is not finite")

  began = time.perf_counter()
  run()
  first = time.perf_counter() - began
  seconds = median_seconds(run, repeats)
  peak = torch.cuda.max_memory_allocated() if on_gpu else None
  return {"seconds": seconds, "first": first, "peak": peak}


def _heads(x, num_heads: int):
  """[B, T, D] as [B, N, T, H]."""
  return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def _attend(query, key, value):
  """Causal attention of [B, N, T, H], as [B, T, D]."""
  mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
  return mixed.transpose(1, 2).flatten(2)


def _rotated(heads, rotation):
  """Rotary positions: the halves of the features are the two coordinates."""
  cos, sin = rotation
  x, y = heads.chunk(2, -1)
  return torch.cat((x * cos - y * sin, y * cos + x * sin), -1)
