"""A plan is what the compiled step takes, told without running it."""

import dataclasses
import json
import sys

import fiddle as fdl
import pytest

from layers.errors import UserError
from runners.devices.collective_budget import Allowance
from runners.devices.collectives import Collective
from runners.devices.kernels import Kernel
from runners.devices.meshes import MeshShape
from runners.devices.rates import Rates
from runners.planning.plan import CompileError, Plan, as_json, plan, usable_bytes
from runners.planning.report import report
from runners.planning.topologies import parse
from tests.runners.toy_run import toy_config

GIB = 2**30

LARGE = Plan(
  devices=64,
  mesh={"fsdp": 64},
  compiled_for="h100:8x8, 64 x NVIDIA H100 80GB HBM3",
  parameters=6_738_415_616,
  units_per_step=262_144,
  num_steps=1000,
  num_layers=32,
  num_microbatches=1,
  flops_per_step=12_080_884_010_188_800,
  hardware_flops_per_step=14_524_548_602_920_960,
  bytes_per_device={
    "parameters": 421_150_976,
    "optimizer": 842_301_960,
    "gradients": 421_150_976,
    "activations": 4 * GIB,
    "arguments": GIB,
    "temporaries": 5 * GIB,
    "host": 0,
    "peak": 6 * GIB,
    "available": 60 * GIB,
  },
  collectives=[Collective("all-gather", ("fsdp",), 32, 3 * GIB, "stack/up")],
  compile_seconds=23.7,
  refusal=None,
  over_budget=(),
  notes=("Attention is BlockwiseAttention: ...",),
  peak_flops=989.4e12,
)


@pytest.fixture(scope="module")
def planned():
  """The toy on eight simulated devices, four of them with the parts of each parameter."""
  config = toy_config(
    mesh=fdl.Config(MeshShape, data=1, fsdp=4, tensor=2),
    microbatch_size=4,
    collective_budget=[fdl.Config(Allowance, kind="all-gather", axis="fsdp")],
  )
  return plan(config, "toy", parse("cpu:8"))


@pytest.mark.slow
def test_the_state_is_counted_exactly(planned):
  held = planned.bytes_per_device
  assert planned.devices == 8 and planned.mesh == {"fsdp": 4, "tensor": 2}
  assert planned.num_microbatches == 2
  assert planned.units_per_step == 8 * 12
  whole = 4 * planned.parameters
  assert whole / 8 < held["parameters"] < whole / 2  # norms and biases are split less
  assert held["gradients"] == held["parameters"]
  assert held["optimizer"] < held["parameters"]  # plain SGD keeps nothing
  assert held["arguments"] >= held["parameters"] + held["optimizer"]
  assert held["peak"] == pytest.approx(held["arguments"] + held["temporaries"], rel=0.2)
  assert planned.fits


@pytest.mark.slow
def test_exchanges_are_along_the_axes_of_the_mesh_and_held_against_the_budget(planned):
  assert planned.collectives
  axes = {axis for found in planned.collectives for axis in found.axes}
  assert axes == {"fsdp", "tensor"}
  (line,) = planned.over_budget
  assert line.startswith("all-gather along fsdp: ")
  assert "0 allowed" in line
  assert any("Block" in found.source for found in planned.collectives)


@pytest.mark.slow
def test_what_the_mesh_cannot_hold_is_the_users_error():
  config = toy_config(mesh=fdl.Config(MeshShape, data=1, fsdp=3))
  with pytest.raises(UserError, match="does not fit 8 device"):
    plan(config, "toy", parse("cpu:8"))


def test_time_is_what_the_program_computes_over_the_speed_of_all_devices():
  seconds = LARGE.seconds_per_step(0.5)
  assert seconds == pytest.approx(14_524_548_602_920_960 / (64 * 989.4e12 * 0.5))
  assert dataclasses.replace(LARGE, peak_flops=None).seconds_per_step(0.5) is None


def test_a_peak_beyond_what_there_is_does_not_fit():
  larger = LARGE.bytes_per_device | {"peak": 61 * GIB}
  assert LARGE.fits
  assert not dataclasses.replace(LARGE, bytes_per_device=larger).fits


def test_what_the_compiler_refuses_does_not_fit_and_says_why():
  refused = dataclasses.replace(
    LARGE,
    refusal="Ran out of memory on HBM",
    collectives=None,
    bytes_per_device=LARGE.bytes_per_device | {"activations": None, "peak": None},
  )
  assert not refused.fits
  text = report(refused, "toy", mfu=0.4, tokens=None, price=0.0)
  assert "DOES NOT FIT: Ran out of memory on HBM" in text


def test_the_report_says_all_that_a_decision_takes():
  text = report(LARGE, "lwm.TextLlama7B", mfu=0.4, tokens=1e12, price=2.0)
  assert "6,738,415,616 parameters" in text
  assert "1.208e+16 of the model a step; the program computes 1.452e+16 (1.20 x)" in text
  assert "fits: the peak is 10 % of what there is" in text
  assert "all-gather                    fsdp                      32         3.000" in text
  assert "573 ms a step at 40% of peak speed: 457,140 tokens/s" in text
  assert "3,814,697 steps, 1e+12 tokens: 25.3 days, 38,889 device hours, 77,778 at 2" in text
  assert "note        Attention is BlockwiseAttention" in text


def test_json_holds_the_same_with_sums_of_collectives():
  answer = json.loads(json.dumps(as_json(LARGE, mfu=0.4, tokens=1e12, price=2.0)))
  assert answer["parameters"] == 6_738_415_616
  assert answer["flops_per_step"] == 12_080_884_010_188_800
  assert answer["bytes_per_device"]["peak"] == 6 * GIB
  assert answer["collectives"] == [
    {"kind": "all-gather", "axes": ["fsdp"], "count": 32, "bytes": 3 * GIB}
  ]
  assert answer["fits"] is True and answer["within_budget"] is True
  assert answer["run"]["device_hours"] == pytest.approx(38889, rel=1e-3)
  assert answer["run"]["cost"] == pytest.approx(77778, rel=1e-3)


def test_json_says_where_a_steps_time_goes_and_lists_kernels_when_asked():
  small = Kernel("norm", "reductions", 1, 0, 10**9, 0, 0, "", "")
  large = Kernel("up", "products", 2, 10**14, 10**9, 0, 0, "", "layers/feed_forward.py:9")
  rates = Rates(flops=1e15, memory=1e12, pause=0.0)
  known = dataclasses.replace(LARGE, kernels=[small, large], rates=rates, exchange_seconds=0.2)
  asked = {"mfu": 0.4, "tokens": None, "price": 0.0}
  answer = json.loads(json.dumps(as_json(known, **asked)))
  step = answer["step"]
  assert (step["products"], step["memory"], step["exchanges"]) == (0.1, 0.002, 0.2)
  assert step["seconds"] == pytest.approx(0.302) and step["bound"] == pytest.approx(0.301)
  assert step["mfu"] == pytest.approx(12_080_884_010_188_800 / (64 * 989.4e12 * 0.302))
  assert "kernels" not in answer and as_json(LARGE, **asked)["step"] is None
  listed = as_json(known, kernels=True, **asked)["kernels"]
  assert [each["name"] for each in listed] == ["up", "norm"]
  assert listed[0]["place"] == "layers/feed_forward.py:9"


def test_a_step_with_a_choice_is_told_by_its_dearest_and_its_cheapest_branch():
  small = Kernel("whole", "products", 1, 10**12, 10**9, 0, 0, "", "")
  large = dataclasses.replace(small, name="packed", bytes=3 * 10**9)
  choice = Kernel("cond", "choices", 1, 0, 0, 0, 0, "", "")
  known = dataclasses.replace(
    LARGE, kernels=[choice, large], cheapest_kernels=[choice, small], rates=Rates(1e15, 1e12, 0)
  )
  asked = {"mfu": 0.4, "tokens": None, "price": 0.0}
  answer = as_json(known, **asked)
  assert answer["step"]["bytes"] == 3 * 10**9 and answer["cheapest_step"]["bytes"] == 10**9
  said = report(known, "toy", **asked)
  assert said.index("memory, 3 GB") < said.index("the same by the cheapest branch")
  assert said.index("the same by the cheapest branch") < said.index("memory, 1 GB")
  assert as_json(LARGE, **asked)["cheapest_step"] is None


def test_jax_leaves_a_part_of_a_gpu_to_others(monkeypatch):
  monkeypatch.delenv("XLA_PYTHON_CLIENT_MEM_FRACTION", raising=False)
  assert usable_bytes(parse("h100:1x8")) == int(0.75 * 84_942_979_072)
  monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.9")
  assert usable_bytes(parse("h100:1x8")) == int(0.9 * 84_942_979_072)
  assert usable_bytes(parse("v5p:4x4x4")) == int(95.74 * GIB)


@pytest.mark.parametrize(
  ("ends", "last"),
  [
    (
      "kill -SEGV $$",
      "it died of SIGSEGV (exit code 139), most often a fault of its own; this is",
    ),
    (
      "kill -KILL $$",
      "it died of SIGKILL (exit code 137), most often the system had no memory",
    ),
    ("exit 3", "the frame of an error"),
  ],
)
def test_a_compiler_that_dies_is_named_with_what_it_died_of(ends, last, tmp_path, monkeypatch):
  compiler = tmp_path / "python"
  compiler.write_text(f"#!/bin/sh\necho the frame of an error >&2\n{ends}\n")
  compiler.chmod(0o755)
  monkeypatch.setattr(sys, "executable", str(compiler))
  with pytest.raises(CompileError) as caught:
    plan(toy_config(), "toy", parse("cpu:2"))
  assert str(caught.value).splitlines()[0] == "the frame of an error"
  assert str(caught.value).splitlines()[-1].startswith(last)
