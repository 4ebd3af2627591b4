"""A workdir belongs to one process and one config, and says so before anything is written."""

import fcntl
import json
import subprocess
import sys

import fiddle as fdl
import pytest

from layers.errors import UserError
from runners.configs.files import load
from runners.devices.meshes import DEFAULT_RULES, MeshShape
from runners.workdir import Workdir, read_starts
from tests.runners.toy_run import toy_config


def _start(path, accept_changes=(), facts=None, **fields):
  """What a run does with a workdir that it may use."""
  folder = _open(path, accept_changes, **fields)
  folder.record(facts or {})
  folder.close()


def _open(path, accept_changes=(), **fields):
  return Workdir(path, toy_config(**fields), "toy.Run", accept_changes)


def test_a_new_workdir_is_made_and_holds_the_config(tmp_path):
  _start(tmp_path / "runs" / "new", num_steps=7)
  stored = load(tmp_path / "runs" / "new")
  assert (stored.exp, stored.config) == ("toy.Run", toy_config(num_steps=7))


def test_a_start_that_comes_to_nothing_leaves_the_recorded_config_alone(tmp_path):
  _start(tmp_path, num_steps=4)
  _open(tmp_path, accept_changes=["num_steps"], num_steps=9).close()
  assert load(tmp_path).config == toy_config(num_steps=4)


def test_the_same_config_goes_on_in_the_same_workdir(tmp_path):
  _start(tmp_path)
  _start(tmp_path)


def test_a_workdir_in_use_is_refused_until_it_is_let_go(tmp_path):
  first = _open(tmp_path)
  with pytest.raises(UserError, match="another process is running in .*--workdir"):
    _open(tmp_path)
  first.close()
  _open(tmp_path).close()


def test_another_process_keeps_its_workdir_and_a_dead_one_lets_go(tmp_path):
  (tmp_path / ".lock").touch()
  code = (
    "import fcntl, sys\n"
    "lock = open(sys.argv[1], 'w')\n"
    "fcntl.flock(lock, fcntl.LOCK_EX)\n"
    "print('held', flush=True)\n"
    "sys.stdin.read()\n"
  )
  process = subprocess.Popen(
    [sys.executable, "-c", code, str(tmp_path / ".lock")],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
  )
  try:
    assert process.stdout.readline() == b"held\n"
    with pytest.raises(UserError, match="another process is running"):
      _open(tmp_path)
  finally:
    process.kill()
    process.communicate()
  _open(tmp_path).close()


def test_another_config_is_refused_with_every_field_that_differs(tmp_path):
  _start(tmp_path, num_steps=4, seed=0)
  with pytest.raises(UserError) as error:
    _open(tmp_path, num_steps=9, seed=5)
  message = str(error.value)
  assert "num_steps: 4 there, 9 here" in message
  assert "seed: 0 there, 5 here" in message
  assert "--accept_change=num_steps" in message and "--accept_change=seed" in message
  assert load(tmp_path).config == toy_config(num_steps=4, seed=0)


def test_a_refused_start_leaves_the_workdir_free(tmp_path):
  _start(tmp_path, num_steps=4)
  with pytest.raises(UserError):
    _open(tmp_path, num_steps=9)
  with open(tmp_path / ".lock") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_an_accepted_change_is_said_aloud_and_stored(tmp_path, notes):
  _start(tmp_path, num_steps=4)
  _start(tmp_path, accept_changes=["num_steps"], num_steps=9)
  assert notes == ["Accepted: num_steps was 4, is 9."]
  assert load(tmp_path).config.num_steps == 9


def test_an_accepted_change_excuses_no_other(tmp_path):
  _start(tmp_path, num_steps=4)
  with pytest.raises(UserError) as error:
    _open(tmp_path, accept_changes=["num_steps"], num_steps=9, seed=5)
  assert "seed: 0 there, 5 here" in str(error.value)
  assert "num_steps" not in str(error.value)


@pytest.mark.parametrize(
  "fields, said",
  [
    ({"mesh": fdl.Config(MeshShape, data=1, fsdp=-1)}, None),
    ({"microbatch_size": 4}, "microbatch_size was None, is 4: the run goes on with the same"),
    ({"sharding": DEFAULT_RULES[:3]}, "sharding was (('batch', ('data', 'fsdp')), "),
  ],
)
def test_where_a_run_is_computed_may_change_unasked_and_is_said_aloud(
  fields, said, tmp_path, notes
):
  _start(tmp_path)
  _start(tmp_path, **fields)
  assert len(notes) == (1 if said else 0)
  assert (said or "") in "".join(notes)
  assert load(tmp_path).config == toy_config(**fields)


def test_another_mesh_excuses_no_other_change(tmp_path):
  _start(tmp_path)
  with pytest.raises(UserError) as error:
    _open(tmp_path, mesh=fdl.Config(MeshShape, tensor=1, data=1), seed=5)
  assert "seed: 0 there, 5 here" in str(error.value)
  assert "mesh." not in str(error.value)


def test_another_mesh_is_said_in_one_line_whether_the_config_or_the_machine_changed(
  tmp_path, notes
):
  _start(tmp_path, facts={"mesh": {"data": 8}})
  _start(tmp_path, facts={"mesh": {"data": 8}}, mesh=fdl.Config(MeshShape, data=8))
  assert not notes  # -1 meant the same
  _start(tmp_path, facts={"mesh": {"fsdp": 4, "tensor": 2}})
  _start(tmp_path, facts={"mesh": {}})
  assert notes == [
    f"The mesh was {was}: the run goes on with the same batches, equal up to rounding."
    for was in ("data=8, is fsdp=4, tensor=2", "fsdp=4, tensor=2, is one device")
  ]


def test_a_workdir_that_cannot_be_made_names_the_reason_and_the_cure(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match="cannot write in workdir .*file.*choose another with"):
    _open(tmp_path / "file")
  with pytest.raises(UserError, match="cannot write in workdir .*Not a directory"):
    _open(tmp_path / "file" / "below")


def test_each_start_adds_to_the_history_of_the_run(tmp_path):
  for devices in ("1 x cpu", "8 x cpu"):
    _start(tmp_path, facts={"devices": devices, "overrides": ["num_steps=4"]})
  starts = json.loads((tmp_path / "run.json").read_text())["starts"]
  assert [start["devices"] for start in starts] == ["1 x cpu", "8 x cpu"]
  for start in starts:
    assert start["argv"] == sys.argv
    assert start["versions"]["jax"] and start["versions"]["flax"]
    assert start["overrides"] == ["num_steps=4"]
    assert {"python", "git", "hostname"} <= start.keys()


def test_a_start_that_ends_by_itself_says_how_far_it_came(tmp_path):
  _start(tmp_path)  # killed
  folder = _open(tmp_path)
  folder.record({})
  folder.record_end(step=4, finished=True, seconds=1.23456, notes=["a", "b", "a"])
  folder.close()
  killed, ended = read_starts(tmp_path)
  assert "ended" not in killed
  assert ended["ended"] == {"step": 4, "finished": True, "seconds": 1.235, "notes": ["a", "b"]}
  assert ended["exp"] == "toy.Run"


def test_a_folder_without_a_run_has_no_starts(tmp_path):
  assert read_starts(tmp_path) == []


def test_a_damaged_history_is_reported_and_begun_anew(tmp_path, notes):
  (tmp_path / "run.json").write_text('{"starts": [')
  _start(tmp_path)
  assert "run.json is damaged" in notes[0]
  assert len(json.loads((tmp_path / "run.json").read_text())["starts"]) == 1


@pytest.mark.parametrize(
  "content",
  [
    b"[]",
    b"",
    b'{"starts": 5}',
    b'{"starts": [5]}',
    b'{"starts": {"a": 1}}',
    b'{"starts": [{"mesh": 7}]}',
    b'{"starts": [{"mesh": null}]}',
    b'{"starts": [{"mesh": {"data": "8"}}]}',
    b'{"starts": [{"ended": null}]}',
    b'{"starts": [{"ended": {"step": "4", "finished": true, "seconds": 1}}]}',
    b'{"starts": [{"ended": {"step": 4, "finished": 1, "seconds": 1}}]}',
    b"\xff\xfe\x00",
    b"[" * 100_000,
  ],
)
def test_a_history_of_other_types_is_reported_and_begun_anew(tmp_path, notes, content):
  _start(tmp_path)
  (tmp_path / "run.json").write_bytes(content)
  _start(tmp_path)
  assert len(notes) == 1 and "run.json is damaged" in notes[0]
  assert len(json.loads((tmp_path / "run.json").read_text())["starts"]) == 1


def test_a_full_disk_at_the_end_is_one_line_and_leaves_the_history(tmp_path, monkeypatch):
  folder = _open(tmp_path)
  folder.record({})

  def full(descriptor):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr("os.fsync", full)
  with pytest.raises(UserError, match="cannot write .*run.json: No space left on device"):
    folder.record_end(step=4, finished=True, seconds=1.0)
  folder.close()
  assert "ended" not in read_starts(tmp_path)[-1]
