"""`runner plan` says what a run takes: exit code 0 where it fits and 3 where it does not."""

import json
import os
import subprocess
import sys

import pytest
import yaml

from runners.planning.topologies import parse

SMALL = (
  "plan",
  "--exp=lwm.TextLlamaDebug",
  "--set=model.model_dim=32",
  "--set=model.block.feed_forward.hidden_dim=64",
  "--set=sequence_length=64",
  "--set=batch_size=8",
  "--set=microbatch_size=None",
)


@pytest.mark.parametrize(
  ("arguments", "cure"),
  [
    (["--topology=v5p:4x4"], "write as v5p:4x4x4"),
    (["--mfu=40"], "0.4 is 40 %"),
    (["--tokens=-1"], "less than nothing"),
    (["--search"], "name one, as --topology=v5p:4x4x4"),
    (["--to=best.yaml"], "with --search only"),
    (["--minutes=3"], "with --search only"),
    (["--search", "--topology=cpu:2", "--to=."], "is there already"),
  ],
)
def test_what_is_mistaken_is_one_line_and_code_2(run, arguments, cure):
  code, out, err = run("plan", "--exp=gpt2.Nano", *arguments)
  assert (code, out, len(err)) == (2, "", 1)
  assert cure in err[0]


@pytest.mark.slow
def test_json_is_one_object_and_the_workdir_stays_as_it_is(run, tmp_path):
  code, out, _ = run(*SMALL, "--topology=cpu:4", "--json")
  plan = json.loads(out)
  assert code == 0 and plan["fits"] is True
  assert plan["mesh"] == {"fsdp": 4}
  assert plan["flops_per_step"] > 0
  assert {"parameters", "optimizer", "gradients", "peak"} <= plan["bytes_per_device"].keys()
  assert {c["kind"] for c in plan["collectives"]} >= {"all-gather"}
  assert plan["over_budget"] == []  # of what lwm.TextLlama allows
  assert plan["step"]["bytes"] > 0 and plan["step"]["launches"] > 0
  assert plan["step"]["seconds"] is None  # a CPU's rates are not known
  assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_program_beyond_its_budget_is_code_3_and_names_the_offender(run):
  budget = "--set=collective_budget=[@Allowance(kind='all-gather', axis='fsdp', per_layer=1)]"
  code, out, _ = run(*SMALL, "--topology=cpu:4", budget)
  assert code == 3
  (line,) = [line for line in out.splitlines() if "OVER BUDGET" in line]
  assert "all-gather along fsdp" in line and "2 allowed" in line and "stack" in line


@pytest.mark.slow
def test_what_is_too_large_is_code_3(run):
  wide = ("--set=model.model_dim=8192", "--set=model.num_layers=64", "--set=batch_size=1")
  code, out, _ = run(*SMALL, *wide, "--topology=cpu:1")
  assert code == 3
  assert "DOES NOT FIT: the peak is" in out


@pytest.mark.slow
def test_the_search_writes_a_file_that_the_runner_takes(run, tmp_path):
  code, out, _ = run(*SMALL, "--topology=cpu:2", "--search", "--minutes=0")
  assert code == 0
  (file,) = tmp_path.glob("plans/*.yaml")
  best = yaml.safe_load(file.read_text())
  assert best["exp"] == "lwm.TextLlamaDebug"
  assert best["set"]["mesh.data"] * best["set"]["mesh.fsdp"] * best["set"]["mesh.tensor"] == 2
  command = out.splitlines()[-1].split()
  assert command[:2] == ["runner", "--exp=lwm.TextLlamaDebug"]
  shown = subprocess.run(
    [
      sys.executable,
      "-m",
      "experiments",
      "show",
      "--exp=lwm.TextLlamaDebug",
      f"--config={file}",
    ],
    capture_output=True,
    text=True,
    env=dict(os.environ),
  )
  assert f"mesh.fsdp = {best['set']['mesh.fsdp']}" in shown.stdout
  again, _, err = run(*SMALL, "--topology=cpu:2", "--search")
  assert again == 2 and "is there already" in err[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["h100:1x4", "v5e:2x2"])
def test_an_absent_accelerator_holds_what_a_simulated_device_holds(run, name):
  topology = parse(name)
  if not topology.can_compile():
    pytest.skip(f"strata[{topology.extra}] is not installed")
  code, out, _ = run(*SMALL, f"--topology={name}", "--json")
  plan = json.loads(out)
  assert code == 0 and plan["within_budget"]
  assert plan["compiled_for"].startswith(f"{name}, 4 x ")
  _, out, _ = run(*SMALL, "--topology=cpu:4", "--json")
  simulated = json.loads(out)
  for part in ("parameters", "optimizer", "gradients"):
    assert plan["bytes_per_device"][part] == simulated["bytes_per_device"][part]
  assert plan["flops_per_step"] == simulated["flops_per_step"]
