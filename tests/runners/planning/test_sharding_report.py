"""`show --sharding` says of every parameter what a run would do with it, without doing it."""

import re

import fiddle as fdl
import jax
import pytest

from layers.errors import UserError
from runners.devices.meshes import DEFAULT_RULES, MeshShape
from runners.planning.sharding_report import sharding_report
from tests.runners import mesh_report, toy_run
from tests.runners.toy_run import ToyText, toy_config

FSDP_AND_TENSOR = {"data": 1, "fsdp": 2, "tensor": 2}

BYTES_ON_A_DEVICE = f"""
import json
import jax
from tests.runners import mesh_report, toy_run

_, state = toy_run.begin(mesh_report.mesh_config({FSDP_AND_TENSOR}))
arrays = jax.tree_util.tree_leaves_with_path(state.params)
name = lambda path: jax.tree_util.keystr(path, simple=True, separator="/")
print(json.dumps({{name(path): x.addressable_shards[0].data.nbytes for path, x in arrays}}))
"""


def _report(num_devices=None, sharding=DEFAULT_RULES, scan_layers=False, **axes):
  config = toy_config(sharding=sharding, mesh=fdl.Config(MeshShape, **axes), batch_size=16)
  config.model.scan_layers = scan_layers
  config.model.num_layers = 3
  return sharding_report(config, "toy.Run", num_devices)


def _row(report, name):
  """The cells of the line that begins with `name`."""
  (line,) = [line for line in report.splitlines() if re.match(rf"\s*{re.escape(name)}  ", line)]
  return re.split(r"  +", line.strip())


def _section(report, title):
  return next(part for part in report.split("\n\n") if part.startswith(title)).splitlines()[1:]


def test_each_parameter_has_shape_dtype_axes_rules_and_bytes_on_a_device():
  report = _report(8, data=1, fsdp=4, tensor=2)
  assert report.startswith(
    "toy.Run on 8 devices: fsdp=4, tensor=2\n\naxis>mesh[n]: sharding[n]"
  )
  assert _row(report, "embedding/table") == [
    "embedding/table",
    "20 x 16",  # 19 letters, padded for tensor=2
    "float32",
    "vocab>tensor[7] embed>fsdp[11]",
    str(10 * 4 * 4),
  ]
  assert _row(report, "stack/layers/2/feed_forward/up/kernel")[1:] == [
    "16 x 64",
    "float32",
    "embed>fsdp[11] mlp>tensor[10]",
    str(4 * 32 * 4),
  ]
  assert _row(report, "positions/table")[3] == "position[12] embed>fsdp[11]"


def test_scanned_layers_are_one_row_with_their_number_in_the_shape():
  report = _report(2, scan_layers=True, data=1, fsdp=2)
  name, shape, _, axes, size = _row(report, "stack/layers/attention/query/kernel")
  assert shape == "3 x 16 x 4 x 4" and size == f"{3 * 8 * 16 * 4:,}"
  assert axes == "layers[14] embed>fsdp[11] heads>tensor[8] head_dim[13]"


def test_the_rows_and_the_totals_are_those_of_the_state_that_a_run_makes():
  report = _report(data=1)
  config = toy_config(mesh=fdl.Config(MeshShape, data=1), batch_size=16)
  config.model.num_layers = 3
  _, state = toy_run.begin(config)
  arrays = jax.tree_util.tree_leaves_with_path(state.params)
  for path, x in arrays:
    row = _row(report, jax.tree_util.keystr(path, simple=True, separator="/"))
    assert row[1] == " x ".join(map(str, x.shape)) and row[-1] == f"{x.nbytes:,}"
  numbers = sum(x.size for _, x in arrays)
  assert _row(report, "parameters")[1:3] == [str(len(arrays)), f"{numbers:,}"]
  moments = jax.tree.leaves(state.opt_state)
  assert _row(report, "optimizer")[1:3] == [
    str(len(moments)),
    f"{sum(x.size for x in moments):,}",
  ]


def test_the_bytes_on_a_device_of_a_split_mesh_are_those_of_the_state_that_a_run_makes(
  run_with_devices,
):
  report = sharding_report(mesh_report.mesh_config(FSDP_AND_TENSOR), "toy.Run", 4)
  made = run_with_devices(4, BYTES_ON_A_DEVICE)
  assert {name: _row(report, name)[-1] for name in made} == {
    name: f"{num_bytes:,}" for name, num_bytes in made.items()
  }
  assert _row(report, "parameters")[1] == str(len(made))


def test_bytes_on_a_device_fall_with_the_mesh_and_the_moments_follow_their_parameters():
  whole, split = _report(data=1), _report(data=1, fsdp=16)
  assert _row(whole, "parameters")[-2] == _row(split, "parameters")[-2]
  number = lambda text: float(text.split()[0]) * {"kB": 1000, "B": 1}[text.split()[1]]
  ratio = number(_row(split, "parameters")[-1]) / number(_row(whole, "parameters")[-1])
  # Biases of heads (mesh.tensor is 1) stay whole.
  assert 1 / 16 < ratio < 1 / 8


def test_a_mesh_without_a_free_axis_says_itself_how_many_devices_there_are():
  assert _report(data=2, fsdp=8).startswith("toy.Run on 16 devices: data=2, fsdp=8\n")
  assert _report(fsdp=1).startswith(f"toy.Run on {jax.device_count()} device\n")
  assert _report(16, fsdp=2, dcn_data=4).startswith("toy.Run on 16 devices: data=8, fsdp=2\n")
  with pytest.raises(UserError, match=r"mesh data=2, fsdp=8 does not fit 64 device"):
    _report(64, data=2, fsdp=8)


def test_rules_that_match_nothing_are_named_with_the_reason():
  rules = (*DEFAULT_RULES, ("embed", "tensor"), ("experts", "expert"))
  lines = _section(_report(data=1, fsdp=2, sharding=rules), "rules that match nothing")
  assert lines == [
    "  sharding[14] layers -> whole: nothing here has this axis",
    "  sharding[15] embed -> tensor: an earlier rule always wins",
    "  sharding[16] experts -> expert: nothing here has this axis",
  ]
  assert "every rule matches something" in _report(scan_layers=True)


def test_dimensions_left_whole_are_named_with_the_reason():
  rules = (
    ("mlp", "fsdp"),
    *(rule for rule in DEFAULT_RULES if rule[0] not in ("heads", "mlp")),
  )
  report = _report(data=1, fsdp=2, sharding=rules)
  rows = [re.split(r"  +", line.strip()) for line in _section(report, "dimensions left whole")]
  reasons = {axis: reason for axis, reason, _ in rows}
  assert reasons == {
    "vocab 19": "mesh.tensor is 1",
    "position 12": "sharding[11] says so",
    "kv_heads 4": "mesh.tensor is 1",
    "head_dim 4": "sharding[12] says so",
    "heads 4": "no rule names it",
    "embed 16": "another dimension has its mesh axes",  # beside mlp, which came first
  }
  where = {axis: parameters for axis, _, parameters in rows}
  assert where["vocab 19"] == "embedding/table" and where["heads 4"] == "9 parameters"


def test_activations_are_shown_with_the_rows_of_a_microbatch():
  config = toy_config(batch_size=64, microbatch_size=16, mesh=fdl.Config(MeshShape, data=4))
  rows = _section(sharding_report(config, "toy.Run"), "activation of one forward pass")
  assert rows[0].split()[:5] == ["16", "x", "12", "x", "16"]
  assert all("batch>data,fsdp[0] length>sequence[1]" in row for row in rows)


def test_what_a_run_would_refuse_is_refused_here():
  with pytest.raises(UserError, match="batch_size=16 is not a multiple of the 3 devices"):
    _report(data=1, fsdp=3)
  with pytest.raises(UserError, match="num_heads=4 cannot be split over mesh.tensor=8"):
    _report(data=1, tensor=8)


def test_no_data_are_read(monkeypatch):
  monkeypatch.setattr(ToyText, "open", None)
  assert "embedding/table" in _report(data=4, fsdp=4)
