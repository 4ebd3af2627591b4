"""What a mesh does not divide is refused with the numbers and the cure; nothing is silent."""

import re

import fiddle as fdl
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from layers.errors import UserError
from layers.sharding import constrain, partitioned_init
from runners.blueprint import draw, lay_ground
from runners.devices.layout import check_rules, lay_out
from runners.devices.meshes import AXES, DEFAULT_RULES, MeshShape
from tests.runners.toy_run import ToyText, toy_config

ONE = dict.fromkeys(AXES, 1)


def _draw(config, **axes):
  """The toy on a mesh of one device but for these axes, of which there need be no devices."""
  shape = MeshShape(**{"data": 1} | axes)
  mesh = shape.describe(shape.num_devices(1))
  return draw(lay_ground(config), mesh)


def _toy(
  num_heads=4, num_kv_heads=None, head_dim=None, model_dim=16, hidden_dim=None, **fields
):
  config = toy_config(**fields)
  config.model.model_dim = model_dim
  config.model.block.attention.num_heads = num_heads
  config.model.block.attention.num_kv_heads = num_kv_heads
  config.model.block.attention.head_dim = head_dim
  config.model.block.feed_forward.hidden_dim = hidden_dim
  return config


REFUSED = {
  "heads": (
    _toy(num_heads=6, model_dim=24),
    {"tensor": 4},
    "model.block.attention.num_heads=6 cannot be split over mesh.tensor=4 "
    "(stack/layers/0/attention/key/bias: 6 kv_heads x 4 head_dim); split it over 3 or 6, or "
    "leave it whole with \"--set=sharding[2]=('activation_heads',None)\" "
    "\"--set=sharding[3]=('activation_kv_heads',None)\" "
    "\"--set=sharding[8]=('heads',None)\" \"--set=sharding[9]=('kv_heads',None)\"",
  ),
  "kv_heads": (
    _toy(num_kv_heads=2),
    {"tensor": 4},
    "model.block.attention.num_kv_heads=2 cannot be split over mesh.tensor=4",
  ),
  "mlp": (
    _toy(hidden_dim=50),
    {"tensor": 4},
    "model.block.feed_forward.hidden_dim=50 cannot be split over mesh.tensor=4",
  ),
  "mlp that follows from the width": (
    _toy(num_heads=3, head_dim=4),
    {"tensor": 3},
    "mlp=64 cannot be split over mesh.tensor=3 (stack/layers/0/feed_forward/down/kernel: "
    "64 mlp x 16 embed); split it over 2 or 4, or",
  ),
  "embed": (
    _toy(),
    {"fsdp": 3},
    "model.model_dim=16 cannot be split over mesh.fsdp=3 (embedding/table: 19 vocab x 16 embed)"
    "; split it over 2 or 4, or leave it whole with \"--set=sharding[11]=('embed',None)\"",
  ),
  "length": (
    _toy(),
    {"sequence": 5},
    "sequence_length=12 cannot be split over mesh.sequence=5 (activation: 8 batch x 12 length",
  ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_mesh_does_not_divide_is_refused_with_field_numbers_and_cure(case):
  config, axes, said = REFUSED[case]
  config.batch_size = 3 * 8 if "fsdp" in axes else 8
  with pytest.raises(UserError) as error:
    _draw(config, **axes)
  assert said in str(error.value)
  assert "\n" not in str(error.value)


def test_the_cure_that_is_offered_cures():
  config, axes, _ = REFUSED["heads"]
  with pytest.raises(UserError) as error:
    _draw(config, **axes)
  rules = list(config.sharding)
  for index, name in re.findall(r"sharding\[(\d+)\]=\('(\w+)',None\)", str(error.value)):
    assert rules[int(index)][0] == name
    rules[int(index)] = (name, None)
  cured = _draw(_toy(num_heads=6, model_dim=24, sharding=tuple(rules)), **axes)
  heads = next(x for x in cured.layouts if x.name == "stack/layers/0/attention/query/kernel")
  assert heads.shard_shape == heads.shape == (24, 6, 4)


def test_a_vocabulary_is_padded_and_not_refused_unless_its_padding_was_chosen():
  blueprint = _draw(_toy(), tensor=4)
  assert blueprint.layouts[0].shape == (20, 16)
  config = _toy()
  config.model.padded_vocab_size = 22
  with pytest.raises(UserError, match="model.padded_vocab_size=22 cannot be split over mesh.t"):
    _draw(config, tensor=4)


def test_the_batch_is_split_as_its_rule_says_also_over_an_axis_that_is_not_of_the_batch():
  rules = (("batch", ("data", "fsdp", "expert")), *DEFAULT_RULES[1:])
  _draw(_toy(sharding=rules, batch_size=8), expert=4)
  with pytest.raises(UserError, match=r"batch=6 cannot be split over .*mesh.expert=4"):
    _draw(_toy(sharding=rules, batch_size=12, microbatch_size=6), expert=4)


def test_an_axis_that_splits_nothing_is_said_aloud(notes):
  _draw(_toy(), expert=3, fsdp=2)
  (line,) = notes
  assert "mesh.expert=3 splits nothing of this model: 4 of 6 devices repeat" in line
  notes.clear()
  _draw(_toy(), fsdp=2, sequence=3, tensor=2)
  assert "splits nothing" not in "".join(notes)


@pytest.mark.parametrize(
  "rules, said",
  [
    ((("heads", "tensr"),), r"sharding\[0\]=\('heads', 'tensr'\): there is no .*'tensr': did"),
    ((("mlp", None), ("heads", ("data", "x"))), r"sharding\[1\].* no mesh axis 'x': there are"),
    ((("heads",),), r"sharding\[0\]=\('heads',\) is no rule: write"),
    (("heads",), r"sharding\[0\]='heads' is no rule"),
    (((3, "data"),), "is no rule"),
    ((("heads", 3),), "is no rule"),
    ((("heads", ("data", "data")),), "names a mesh axis twice"),
  ],
)
def test_a_rule_that_is_none_is_refused(rules, said):
  with pytest.raises(UserError, match=said):
    check_rules(rules)
  with pytest.raises(UserError, match=said):
    _draw(_toy(sharding=rules))


def test_the_rule_that_won_is_the_first_whose_axes_were_free():
  rules = (("batch", "data"), ("mlp", ("data", "tensor")), ("mlp", "tensor"), ("embed", None))
  mesh = ONE | {"data": 2, "tensor": 4}
  layout = lay_out("x", (8, 16, 5, 3, 7), ("batch", "mlp", "embed", "odd", None), rules, mesh)
  assert [d.rule for d in layout.dimensions] == [0, 2, 3, None, None]
  assert [d.axes for d in layout.dimensions] == [("data",), ("tensor",), (), (), ()]
  assert layout.shard_shape == (4, 4, 5, 3, 7)
  spec = nn.logical_to_mesh_axes(("batch", "mlp", "embed", "odd", None), rules)
  assert spec == jax.sharding.PartitionSpec("data", "tensor", None, None, None)


@pytest.mark.parametrize("names", [("embed", "embed"), ("embed",)])
def test_axes_that_do_not_name_each_dimension_once_are_refused_with_the_array(names):
  with pytest.raises(UserError, match=r"kernel has the shape \(4, 4\) and the logical axes"):
    lay_out("kernel", (4, 4), names, DEFAULT_RULES, ONE)


class _Odd(nn.Module):
  """A norm with a parameter that no rule knows, and a constraint of its own."""

  @nn.compact
  def __call__(self, x):
    scale = self.param("odd", partitioned_init(nn.initializers.ones, "unheard_of"), (7,))
    plain = self.param("plain", nn.initializers.ones, (5,))
    x = constrain(x, "batch", "length", "of_my_own")
    return x * scale.sum() * plain.sum()


def test_layers_from_anywhere_are_checked_by_the_rules_for_their_own_names():
  config = _toy()
  config.model.norm = fdl.Config(_Odd)
  names = {layout.name: layout for layout in _draw(config, fsdp=2).layouts}
  assert names["final_norm/odd"].dimensions[0].rule is None
  assert names["final_norm/plain"].dimensions[0].name is None
  config.sharding = (*DEFAULT_RULES, ("of_my_own", "tensor"), ("unheard_of", None))
  _draw(config, tensor=4)
  config.sharding = (*DEFAULT_RULES, ("unheard_of", "sequence"))
  with pytest.raises(UserError, match="unheard_of=7 cannot be split over mesh.sequence=4"):
    _draw(config, sequence=4)


def test_drawing_reads_no_data_and_allocates_nothing(monkeypatch):
  monkeypatch.setattr(ToyText, "open", None)
  before = len(jax.live_arrays())
  layouts = _draw(_toy(batch_size=4096), data=512, fsdp=4).layouts
  assert layouts[0].bytes_per_device == 19 * 16 * 4 // 4
  assert len(jax.live_arrays()) - before < 10  # one row of ids, no parameter


def test_an_example_has_the_keys_shapes_and_dtypes_of_batches():
  data = ToyText()
  batches = data.open(sequence_length=12, cache_dir="", batch_size=1, seed=0)
  example, batch = data.example(12), batches[0]
  assert example.keys() == batch.keys()
  for key, rows in batch.items():
    assert (example[key].shape, example[key].dtype) == (rows.shape, rows.dtype), key
    assert not np.asarray(jnp.asarray(example[key])).any()
