"""What an export reads and says, and what an import or export that fails leaves behind."""

import importlib.util
import json
import shutil
from pathlib import Path

import fiddle as fdl
import ml_dtypes
import numpy as np
import pytest

from layers.block import Block
from layers.errors import UserError
from layers.masks import full_mask
from runners.checkpoints.reading import read_arrays
from runners.interchange import hugging_face_export, hugging_face_import
from runners.interchange.hugging_face_config import their_config
from runners.interchange.safetensors_files import Described, write_tensors
from runners.training import train
from tests.runners.their_folder import D, assert_same, read_all, runner, write_folder
from tests.runners.toy_run import ToyText, toy_config

needs_safetensors = pytest.mark.skipif(
  importlib.util.find_spec("safetensors") is None,
  reason="safetensors is not installed: pip install 'strata[hf]'",
)


@needs_safetensors
def test_an_export_reads_each_array_once_and_says_what_theirs_said(tmp_path, monkeypatch):
  theirs, run, again = (tmp_path / name for name in ("theirs", "run", "again"))
  tensors = write_folder(theirs, dtype="bfloat16", max_position_embeddings=131_072)
  tensors["model.norm.weight"] = np.ones(D, np.float32)
  write_tensors(
    theirs, {n: Described(x.shape, x.dtype) for n, x in tensors.items()}, tensors.get
  )
  assert runner("import", f"--from={theirs}", f"--workdir={run}") == 0
  read = []
  counted = lambda step, names: read.extend(names) or read_arrays(step, names)
  monkeypatch.setattr(hugging_face_export, "read_arrays", counted)
  assert runner("export", f"--workdir={run}", f"--to={again}") == 0
  assert sorted(read) == sorted(set(read)) and len(read) == 12
  assert_same(read_all(again), tensors)
  config = json.loads((again / "config.json").read_text())
  assert (config["dtype"], config["max_position_embeddings"]) == ("float32", 131_072)


@needs_safetensors
def test_an_error_leaves_nothing_in_the_way_of_the_next_try(tmp_path, capsys, monkeypatch):
  def fail(*_):
    raise UserError("no more")

  theirs, run, again = (tmp_path / name for name in ("theirs", "run", "again"))
  write_folder(theirs)
  for module, name, arguments in (
    (hugging_face_import, "copied_files", ("import", f"--from={theirs}", f"--workdir={run}")),
    (hugging_face_export, "changed_arrays", ("export", f"--workdir={run}", f"--to={again}")),
    (Path, "write_bytes", ("export", f"--workdir={run}", f"--to={again}")),
  ):
    with monkeypatch.context() as broken:
      broken.setattr(module, name, fail)
      assert runner(*arguments, capsys=capsys)[0] == 2
    assert not again.exists() or not list(again.iterdir())
    assert runner(*arguments) == 0
    if arguments[0] == "export":
      shutil.rmtree(again)


@needs_safetensors
def test_what_killed_processes_left_is_not_mixed_with_another_model(tmp_path, capsys):
  theirs, run, again = (tmp_path / name for name in ("theirs", "run", "again"))
  write_folder(theirs)
  (run / "checkpoints").mkdir(parents=True)
  arguments = ("import", f"--from={theirs}", f"--workdir={run}")
  code, err = runner(*arguments, capsys=capsys)
  assert code == 2 and "an import that was killed" in err
  (run / "checkpoints").rmdir()
  assert runner(*arguments) == 0
  again.mkdir()
  (again / "model-00001-of-00002.safetensors").touch()
  code, err = runner("export", f"--workdir={run}", f"--to={again}", capsys=capsys)
  assert code == 2 and "holds a model already" in err


class Parallel(Block):
  """Not what theirs computes, of the same parameters."""


@pytest.mark.parametrize(
  ("path", "value", "said"),
  [
    ("block.attention.mask", full_mask, "causal_mask there, @layers.masks:full_mask"),
    ("block", Parallel, "model.block: Block there, Parallel here"),
  ],
)
def test_a_model_that_theirs_cannot_be_is_not_exported(path, value, said):
  config = toy_config().model
  if path == "block":
    fdl.update_callable(config.block, value)
  else:
    config.block.attention.mask = value
  with pytest.raises(UserError, match=said):
    their_config(fdl.build(config), 19, 12)


def test_a_run_of_ones_own_is_exported_with_the_ids_of_its_vocabulary(tmp_path):
  assert train(toy_config(num_steps=1), "toy.Run", str(tmp_path / "run")) == 0
  assert runner("export", f"--workdir={tmp_path / 'run'}", f"--to={tmp_path / 'to'}") == 0
  config = json.loads((tmp_path / "to" / "config.json").read_text())
  data = ToyText()
  assert config["eos_token_id"] == data.vocabulary().eos_id
  assert config["bos_token_id"] == data.document_start()


@needs_safetensors
def test_a_dtype_may_be_asked_for(tmp_path):
  theirs, run, again = (tmp_path / name for name in ("theirs", "run", "again"))
  tensors = write_folder(theirs)
  assert runner("import", f"--from={theirs}", f"--workdir={run}") == 0
  assert runner("export", f"--workdir={run}", f"--to={again}", "--dtype=bfloat16") == 0
  assert_same(read_all(again), {n: x.astype(ml_dtypes.bfloat16) for n, x in tensors.items()})


@needs_safetensors
@pytest.mark.parametrize(
  ("dtype", "value", "end"),
  [
    ("float16", 65520.0, "65504"),
    ("float16", -1e5, "65504"),
    ("bfloat16", 3.4e38, "3.38953e+38"),
  ],
)
def test_what_is_infinite_in_another_dtype_is_refused_before_anything_is_written(
  dtype, value, end, tmp_path, capsys
):
  theirs, run, again = (tmp_path / name for name in ("theirs", "run", "again"))
  tensors = write_folder(theirs)
  name = "model.layers.1.self_attn.k_proj.weight"
  tensors[name][0, 0], tensors["model.norm.weight"][0] = value, 65519.0  # rounds down
  described = {n: Described(x.shape, x.dtype) for n, x in tensors.items()}
  write_tensors(theirs, described, tensors.__getitem__)
  assert runner("import", f"--from={theirs}", f"--workdir={run}") == 0
  arguments = ("export", f"--workdir={run}", f"--to={again}")
  code, err = runner(*arguments, f"--dtype={dtype}", capsys=capsys)
  assert code == 2 and len(err.splitlines()) == 1 and not again.exists()
  assert f"{name} has a value of {value:g}, and {dtype} ends at {end}" in err
  assert runner(*arguments) == 0
  assert_same(read_all(again), tensors)


@needs_safetensors
def test_values_that_are_not_finite_are_not_exported(tmp_path, capsys, monkeypatch):
  theirs, run, again = (tmp_path / name for name in ("theirs", "run", "again"))
  write_folder(theirs)
  assert runner("import", f"--from={theirs}", f"--workdir={run}") == 0

  def damaged(step, names):  # as a version that did not look at them could have saved it
    arrays = read_arrays(step, names)
    for name, x in arrays.items():
      if name.endswith("final_norm/scale"):
        x[0] = np.nan
    return arrays

  monkeypatch.setattr(hugging_face_export, "read_arrays", damaged)
  monkeypatch.setattr(hugging_face_export, "changed_arrays", lambda *_: [])
  assert runner("export", f"--workdir={run}", f"--to={again}") == 2
  assert (
    f"1 of the {D} values of params/final_norm/scale are not finite" in capsys.readouterr().err
  )
  assert not list(again.glob("*"))
