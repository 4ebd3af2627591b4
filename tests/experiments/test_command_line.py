"""Every command does what it says; every mistake is one line and exit code 2, at once."""

import json
import os
import pathlib
import subprocess
import sys
import time
import types

import fiddle as fdl
import pytest

from experiments.command_line import COMMANDS
from layers.errors import Diverged
from runners.configs.files import save
from tests.experiments.toy_family import Stop, Toy

TOY = ("--load=tests.experiments.toy_family", "--exp=toy_family.Nano")


@pytest.fixture
def calls(monkeypatch):
  """Stands in for everything that would train; collects what it is called with."""
  received: list = []

  def module(name: str, **functions):
    monkeypatch.setitem(sys.modules, name, types.SimpleNamespace(**functions))

  def record(name: str, result):
    return lambda *args, **named: (received.append((name, args, named)), result)[1]

  module("runners.training", train=record("train", 143))
  module("runners.evaluate_run", evaluate=record("evaluate", 0))
  module("runners.preview", print_rows=record("print_rows", None))
  return received


def test_help_is_one_screen_that_names_every_command(run):
  code, out, _ = run("--help")
  assert code == 0 and len(out.splitlines()) <= 40
  assert all(f"  {name}" in out for name in COMMANDS)
  assert max(map(len, out.splitlines())) <= 96
  assert "--logtostderr" not in out


def test_help_is_also_a_command(run):
  assert run("help") == run("--help") == run("help", "train")


def test_tags_stand_apart_from_the_names_that_are_suggested(run):
  _, _, (line,) = run("list", "SmallLlama")
  names, _, rest = line.partition(" (tags: ")
  assert "cpu" not in names and rest.startswith("cpu")
  assert rest.endswith("; if a module of yours registers it, add --load=MODULE)")


def test_what_fails_while_it_is_built_says_where_in_one_line(run, monkeypatch):
  stand_in = types.SimpleNamespace(train=lambda config, **_: fdl.build(config))
  monkeypatch.setitem(sys.modules, "runners.training", stand_in)
  code, _, err = run(*TOY, "--set=callbacks[0].patience=-1")
  assert code == 2
  assert err == ["runner: error: callbacks[0]: patience=-1 is less than 0"]


def test_a_field_that_only_the_earlier_start_had_can_be_accepted(run, calls, tmp_path):
  config = Toy().config()
  config.callbacks.append(fdl.Config(Stop))
  save(config, "toy_family.Nano", tmp_path / "run")
  accept = "--accept_change=callbacks[1].patience"
  assert run(*TOY, "--workdir=run", accept)[0] == 143
  assert run(*TOY, "--workdir=other", accept)[0] == 2


def test_list_prints_names_summaries_and_tags(run):
  _, out, _ = run("list", TOY[0])
  assert "toy_family.Nano" in out and "Nano: the smallest. Loss 0.  [demo, cpu]" in out
  assert "gpt2.Small" in out
  _, out, _ = run("list", TOY[0], "toy_family.L")
  assert [line.split()[0] for line in out.splitlines()] == ["toy_family.Large"]


def test_flags_may_stand_before_and_after_the_command(run):
  assert run(*TOY, "show", "--set=num_steps=3") == run("show", "--set=num_steps=3", *TOY)
  assert "num_steps = 3\n" in run(*TOY, "show", "--set", "num_steps=3")[1]


def test_show_why_and_diff_print(run):
  _, out, _ = run("show", *TOY, "--format=json")
  assert json.loads(out)["exp"] == "toy_family.Nano"
  _, out, _ = run("why", "num_steps", *TOY, "--set=num_steps=3")
  assert out.splitlines()[:2] == ["num_steps = 3", "  set by --set=num_steps=3"]
  _, out, _ = run("diff", "toy_family.Nano", "toy_family.Large", TOY[0])
  assert out == "model.width: 16 -> 8\n"
  assert run("diff", "toy_family.Nano", "toy_family.Nano", TOY[0])[1] == "no field differs\n"


def test_verbs_keep_their_order_across_kinds(run, tmp_path):
  (tmp_path / "a.yaml").write_text("set: {num_steps: 2}")
  _, out, err = run("show", *TOY, "--config=a.yaml", "--set=num_steps=3")
  assert "num_steps = 3\n" in out
  _, out, _ = run("show", *TOY, "--set=num_steps=3", "--config=a.yaml")
  assert "num_steps = 2\n" in out
  assert err == [
    "runner: warning: num_steps is set twice: --set=num_steps=3 wins over a.yaml: set num_steps"
  ]


def test_train_is_what_runs_without_a_command(run, calls):
  code, *_ = run(
    *TOY,
    "--set=num_steps=3",
    "--accept_change=num_steps",
    "--accept_change=eval_data.validation",
  )
  ((name, (config,), named),) = calls
  assert code == 143 and name == "train" and config.num_steps == 3
  assert named["exp"] == "toy_family.Nano" and named["workdir"] == "runs/toy_family.Nano"
  assert named["accept_changes"] == ("num_steps", "eval_data['validation']")
  assert named["provenance"] == [
    {"path": "num_steps", "before": "10", "after": "3", "who": "--set=num_steps=3"}
  ]


def test_eval_uses_the_config_of_the_run_with_overrides_on_top(run, calls, tmp_path):
  config = Toy().config()
  config.num_steps = 77
  save(config, "toy_family.Large", tmp_path / "runs" / "toy_family.Large")
  for where in ("--workdir=runs/toy_family.Large", "--exp=toy_family.Large"):
    assert run("eval", where, "--step=best", "--set=dropout=1")[0] == 0
    name, (evaluated,), named = calls.pop()
    assert (name, evaluated.num_steps, evaluated.dropout) == ("evaluate", 77, 1.0)
    assert named["step"] == "best" and named["workdir"] == "runs/toy_family.Large"
  (tmp_path / "more.yaml").write_text("set: {dropout: 0.5}")
  run("eval", "--exp=toy_family.Large", "--config=more.yaml")
  assert (calls[0][1][0].num_steps, calls[0][1][0].dropout) == (77, 0.5)
  code, _, err = run("eval", "--workdir=runs/toy_family.Large", TOY[1])
  assert code == 2 and "is a run of toy_family.Large, not of toy_family.Nano" in err[0]


def test_data_passes_its_flags_on(run, calls):
  assert run("data", *TOY, "--num_rows=2", "--cache", "--cache_dir=there")[0] == 0
  ((_, _, named),) = calls
  assert named == {"num_rows": 2, "build_only": True, "cache_dir": "there"}


def test_a_run_is_repeated_from_its_config_file(run, calls, tmp_path):
  config = Toy().config()
  save(config, "toy_family.Nano", tmp_path)
  run("--config=config.json", "--workdir=again")
  ((_, (repeated,), named),) = calls
  assert (
    repeated == config and named["exp"] == "toy_family.Nano" and named["workdir"] == "again"
  )


def test_ckpt_finds_a_run_by_folder_or_by_name(run, monkeypatch, tmp_path):
  listing = types.SimpleNamespace(
    list_steps=lambda p: f"ls {p}", show_step=lambda p: f"show {p}"
  )
  monkeypatch.setitem(sys.modules, "runners.checkpoints.listing", listing)
  (tmp_path / "runs" / "toy.Exp").mkdir(parents=True)
  assert run("ckpt", "ls", "toy.Exp")[1] == "ls runs/toy.Exp\n"
  assert run("ckpt", "show", "runs/toy.Exp")[1] == "show runs/toy.Exp\n"


MISTAKES = {
  ("shw",): "there is no command 'shw': did you mean show?",
  ("num_steps=3",): "write --set=num_steps=3",
  ("exp=gpt2.Nano",): "write --exp",
  ("show", "--epx=gpt2.Nano"): "there is no flag --epx: did you mean --exp",
  ("show",): "which experiment? Name one with --exp=NAME",
  ("show", "more", *TOY): "`runner show` and flags, got more",
  ("why", *TOY): "`runner why PATH`",
  ("diff", "gpt2.Nano"): "`runner diff A B` and flags, got gpt2.Nano",
  ("show", *TOY, "--num_rows=3"): "--num_rows means nothing to `runner show`; it is for data",
  ("show", *TOY, "--exp=gpt2.Nano"): "--exp is given 2 times; give it once",
  ("list", "--set=a=3"): "--set means nothing to `runner list`",
  ("data", *TOY, "--num_rows=x"): "--num_rows=x",
  ("data", *TOY, "--num_rows=0"): "expected at least 1",
  ("show", *TOY, "--format=jsn"): "did you mean json?",
  ("show", TOY[0], "--exp=toy_family.Nan"): "did you mean toy_family.Nano",
  ("show", "--exp=gpt22.Nano"): "did you mean gpt2.Nano",
  ("show", "--load=no_such_module", TOY[1]): "there is no module 'no_such_module'",
  ("show", *TOY, "--set=model.num_layrs=3"): "did you mean model.num_layers?",
  ("show", *TOY, "--devices=8"): "--devices means something with --sharding only",
  ("show", *TOY, "--sharding", "--devices=0"): "--devices=0: expected at least 1",
  ("show", *TOY, "--sharding", "--format=json"): "--sharding prints a table",
  ("list", "nothing like it"): "no experiment matches",
  ("eval",): "which run?",
  ("eval", "--exp=gpt2.Nano"): "there is no run in runs/gpt2.Nano",
  ("eval", "--workdir=.", "--step=lates"): "did you mean latest?",
  ("eval", "--workdir=.", "--step=foo"): "--step=foo: expected a number, latest, best or all",
  ("eval", "--workdir=.", f"--step={'9' * 5000}"): "expected a number, latest, best or all",
  ("generate", "--prompt=a"): "which run?",
  ("generate", "--prompt=a", "--workdir=nowhere"): "there is no run in nowhere",
  ("generate", "--workdir=."): "generate from what? Give --prompt=TEXT",
  ("generate", "--prompt=a", "--temperature=-0.1"): "temperature=-0.1 must be a number from 0",
  ("generate", "--prompt=a", "--temperature=nan"): "temperature=nan must be a number from 0",
  ("generate", "--prompt=a", "--top_p=0"): "top_p=0.0 must be more than 0 and at most 1",
  ("generate", "--prompt=a", "--top_p=1.5"): "top_p=1.5 must be more than 0 and at most 1",
  ("generate", "--prompt=a", "--top_k=0"): "top_k=0 must be at least 1",
  ("generate", "--prompt=a", "--max_tokens=0"): "max_tokens=0 must be at least 1",
  ("generate", "--prompt=a", "--workdir=.", "--step=x"): "--step=x: expected a number",
  ("gpt2.Nano",): "there is no command 'gpt2.Nano': write --exp=gpt2.Nano",
  ("show", "gpt2.Nano"): "got gpt2.Nano; write --exp=gpt2.Nano",
  ("show", "runs/x/config.json"): "write --config=runs/x/config.json",
  ("--set", "num_steps", "3"): "write --set=num_steps=3",
  (*TOY, "show", "--set", "num_steps", "3"): "write --set=num_steps=3",
  (*TOY, "--accept_change=num_step"): "--accept_change=num_step: Trainer has no field",
  ("ckpt", "rm", "."): "there is no `ckpt rm`",
  ("ckpt", "ls", "nowhere"): "there is no run nowhere",
  ("diff", "gpt2.Nano", "runs/nowhere"): "there is no run or config file",
  ("show", "--exp=gpt2.Nano", "--config=a.yaml"): "a.yaml is for toy_family.Nano",
}


@pytest.mark.parametrize("arguments", MISTAKES, ids=" ".join)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, run, tmp_path):
  (tmp_path / "a.yaml").write_text("exp: toy_family.Nano")
  code, out, err = run(*arguments)
  assert (code, out, len(err)) == (2, "", 1), err
  assert err[0].startswith("runner: error: ") and MISTAKES[arguments] in err[0]


def test_each_wrong_override_has_its_own_line(run):
  code, _, err = run("show", *TOY, "--set=num_steps=x", "--set=shuffle=2")
  assert code == 2 and len(err) == 2


def test_a_run_that_diverged_says_so_in_one_line_with_exit_code_1(run, monkeypatch):
  def diverge(*args, **named):
    raise Diverged("train/loss is nan at step 3")

  monkeypatch.setitem(sys.modules, "runners.training", types.SimpleNamespace(train=diverge))
  assert run(*TOY)[::2] == (1, ["runner: error: train/loss is nan at step 3"])


def test_a_bug_is_not_dressed_up_as_the_users_mistake(run, monkeypatch):
  def fail(self):
    raise ValueError("a bug")

  monkeypatch.setattr("tests.experiments.toy_family.Nano.config", fail)
  with pytest.raises(ValueError, match="a bug"):
    run("show", *TOY)


_MODULES = """
import sys
from experiments.command_line import main
code = main(["runner", *sys.argv[1:]])
heavy = "tensorflow seqio tensorflow_datasets orbax grain clu.metric_writers tensorboard"
print("loaded", [name for name in heavy.split() if name in sys.modules], file=sys.stderr)
sys.exit(code)
"""


@pytest.mark.parametrize(
  "arguments, code",
  [
    (["list"], 0),
    (["show", "--exp=gpt2.Nano"], 0),
    (["show", "--sharding", "--exp=gpt2.XL", "--devices=32", "--set=mesh.fsdp=8"], 0),
    (["why", "num_steps", "--exp=gpt2.Nano"], 0),
    (["--exp=gpt2.Nano", "--set=model.num_layrs=3"], 2),
    (["--exp=gpt2.Nan"], 2),
  ],
)
def test_looking_and_mistyping_load_no_data_library_and_leave_no_trace(
  arguments, code, tmp_path
):
  start = time.monotonic()
  result = subprocess.run(
    [sys.executable, "-c", _MODULES, *arguments],
    capture_output=True,
    text=True,
    cwd=tmp_path,
    env={**os.environ, "PYTHONPATH": str(pathlib.Path(__file__).parents[2])},
  )
  assert result.returncode == code, result.stderr
  *errors, loaded = result.stderr.splitlines()
  assert loaded == "loaded []" and len(errors) == (1 if code else 0)
  assert "Traceback" not in result.stderr and not list(tmp_path.iterdir())
  assert time.monotonic() - start < 20  # under 2 s alone; a loaded machine may be slow


def test_the_module_runs_as_a_program():
  command = [sys.executable, "-m", "experiments", "show", "--exp=gpt2.Nano", "--set=nope=1"]
  result = subprocess.run(command, capture_output=True, text=True)
  assert result.returncode == 2 and result.stderr.count("\n") == 1
