"""The names of layers in a program say to which part of the model a kernel belongs."""

import pytest

from runners.planning.parts import layers_around, part

BLOCK = "jit(train_step)/transpose(jvp(Decoder))/stack/while/body/checkpoint/Block/Block._add"


@pytest.mark.parametrize(
  ("source", "name"),
  [
    (f"{BLOCK}/attention/attention._heads/query/td,df->tf/dot_general", "attention"),
    (f"{BLOCK}/attention_norm/mul", "norms"),
    (f"{BLOCK}/feed_forward/up/dot_general", "feed-forward"),
    (f"{BLOCK}/add", "stack"),
    ("jit(train_step)/jvp(Decoder)/stack/while/body/dynamic_update_slice", "stack"),
    ("jit(train_step)/jvp(Decoder)/final_norm/reduce_sum", "norms"),
    ("jit(train_step)/jvp(Decoder)/embedding/jit(_take)/gather", "embeddings"),
    ("jit(train_step)/transpose(jvp(Decoder))/embedding.head/transpose", "logits, loss"),
    ("jit(train_step)/jvp(Decoder)/td,df->tf/dot_general", "logits, loss"),
    ("jit(train_step)/jvp()/reduce_max", "logits, loss"),
    ("jit(train_step)/transpose(jvp())/while/body/closed_call/add", "logits, loss"),
    ("jit(train_step)/transpose(jvp(Net))/while/body/closed_call/add", "loops"),
    ("jit(train_step)/jvp(Pair)/generator/layer_0/dot_general", "generator"),
    ("jit(train_step)/jvp(Net)/dense_1/dot_general", "dense"),
    ("jit(train_step)/mul;jit(train_step)", "optimizer"),
    ("jit(train_step)/sqrt", "optimizer"),
    ("", "unnamed"),
  ],
)
def test_a_kernel_belongs_to_the_part_that_its_layers_name(source, name):
  assert part(source) == name


def test_wrappers_of_jax_are_no_layers():
  assert layers_around(f"{BLOCK}/feed_forward/up/mul") == [
    *("stack", "Block", "Block._add", "feed_forward", "up")
  ]
