"""Collectives are read off a program with their kind, axes, times and bytes."""

import pytest

from runners.devices.collectives import Collective, by_kind, collectives
from runners.devices.hlo import Program

MESH = {"data": 1, "fsdp": 4, "sequence": 1, "expert": 1, "tensor": 2}

LOOP = """HloModule jit_step

%body (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %p = (s32[], f32[8]{0}) parameter(0)
  %all-reduce.1 = f32[8]{0} all-reduce(%x), channel_id=1,
    replica_groups={{0,1},{2,3},{4,5},{6,7}},
    to_apply=%add, metadata={op_name="jit(step)/stack/while/body/up"}
}

%condition (p: (s32[], f32[8])) -> pred[] {
  %constant.1 = s32[]{:T(128)} constant(7)
  ROOT %compare = pred[] compare(%i, %constant.1), direction=LT
}

ENTRY %main (p: f32[8]) -> f32[8] {
  %while.1 = (s32[], f32[8]{0}) while(%tuple), condition=%condition, body=%body%KNOWN%
  ROOT %all-gather.1 = bf16[32,2]{1,0} all-gather(%y),
    replica_groups=[2,4]<=[4,2]T(1,0), dimensions={0}
}
"""


def _program(line: str) -> Program:
  return Program(f"ENTRY %main (p: f32[8]) -> f32[8] {{\n  %x = {line}\n}}\n")


def _one(line: str) -> Collective:
  (found,) = collectives(_program(line), MESH)
  return found


@pytest.mark.parametrize(
  ("groups", "axes"),
  [
    ("replica_groups={{0,1},{2,3},{4,5},{6,7}}", ("tensor",)),
    ("replica_groups={{0,2,4,6},{1,3,5,7}}", ("fsdp",)),
    ("replica_groups={}", ("fsdp", "tensor")),
    ("replica_groups=[4,2]<=[8]", ("tensor",)),
    ("replica_groups=[2,4]<=[4,2]T(1,0)", ("fsdp",)),
    ("replica_groups=[1,8]<=[8]", ("fsdp", "tensor")),
    ("replica_groups=mesh['axis_0'=4,'axis_1'=2] {'axis_0'}", ("fsdp",)),
    ("replica_groups=mesh['axis_0'=4,'axis_1'=1,'axis_2'=2] {'axis_2'}", ("tensor",)),
    ("replica_groups=mesh['axis_0'=2,'axis_1'=4]", ("fsdp", "tensor")),
    ("replica_groups=mesh['axis_0'=4,'axis_1'=2] {'axis_0':(1)2}", ("?",)),
    ("source_target_pairs={{0,2},{2,4},{4,6},{6,0},{1,3},{3,5},{5,7},{7,1}}", ("fsdp",)),
  ],
)
def test_groups_of_devices_are_axes_of_the_mesh(groups, axes):
  assert _one(f"f32[8]{{0}} all-reduce(%y), channel_id=1, {groups}, to_apply=%add").axes == axes


@pytest.mark.parametrize(
  ("line", "kind", "size"),
  [
    ("bf16[64,128]{1,0} all-gather(%y)", "all-gather", 64 * 128 * 2),
    ("(f32[4]{0}, bf16[6]{0}) all-reduce(%y, %z)", "all-reduce", 4 * 4 + 6 * 2),
    ("(f32[4]{0}, f32[8]{0}) all-reduce-start(%y, %z)", "all-reduce", 48),
    ("(f32[2]{0}, f32[8]{0}) all-gather-start(%y)", "all-gather", 32),
    (
      "((f32[2]{0}, bf16[4,2]{1,0}), (f32[8]{0}, /*index=1*/bf16[16,2]{1,0}))"
      " all-gather-start(%y)",
      "all-gather",
      32 + 64,
    ),
    ("((f32[8]{0}), f32[2]{0}) reduce-scatter-start(%y)", "reduce-scatter", 32),
    ("f32[2]{0} reduce-scatter(%y)", "reduce-scatter", 32),
    (
      "(bf16[1,128]{1,0:T(8,128)(2,1)S(1)}, bf16[1,128]{1,0}, u32[]{:S(2)}, u32[]{:S(2)})"
      " collective-permute-start(%y)",
      "collective-permute",
      256,
    ),
  ],
)
def test_bytes_are_those_of_the_larger_side_on_a_device(line, kind, size):
  found = _one(f"{line}, channel_id=1, replica_groups={{{{0,2,4,6}},{{1,3,5,7}}}}")
  assert (found.kind, found.axes, found.bytes) == (kind, ("fsdp",), size)


@pytest.mark.parametrize(
  ("known", "times"),
  [(', backend_config={"known_trip_count":{"n":"5"}}', 5), ("", 7)],
  ids=["said by the compiler", "read off the condition"],
)
def test_a_loop_counts_as_often_as_it_runs(known, times):
  assert collectives(Program(LOOP.replace("%KNOWN%", known)), MESH) == [
    Collective("all-reduce", ("tensor",), times, times * 32, "jit(step)/stack/while/body/up"),
    Collective("all-gather", ("fsdp",), 1, 128, ""),
  ]


def test_sums_are_by_kind_and_axes():
  some = [
    Collective("all-gather", ("fsdp",), 2, 10, "a"),
    Collective("all-reduce", ("fsdp",), 1, 50, "b"),
    Collective("all-gather", ("fsdp",), 3, 20, "c"),
  ]
  assert by_kind(some) == [
    Collective("all-reduce", ("fsdp",), 1, 50, ""),
    Collective("all-gather", ("fsdp",), 5, 30, ""),
  ]


def test_one_device_exchanges_nothing():
  line = "f32[8]{0} all-reduce(%y), replica_groups={{0}}, to_apply=%add"
  assert collectives(_program(line), MESH) == []


def test_a_compiled_scan_has_as_many_as_its_steps(run_with_devices):
  found = run_with_devices(
    8,
    """
import json
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import PartitionSpec as P
from runners.devices.collectives import collectives
from runners.devices.hlo import Program
mesh = jax.sharding.Mesh(np.array(jax.devices()).reshape(4, 2), ("fsdp", "tensor"))

def layer(x, w):
  return jnp.sin(jax.lax.psum(x[:, : w.shape[0]] @ w, "tensor")), None

run = jax.shard_map(
  lambda x, weights: jax.lax.scan(layer, x, weights)[0],
  mesh=mesh,
  in_specs=(P("fsdp"), P(None, "tensor")),
  out_specs=P("fsdp"),
  check_vma=False,
)
x = jax.ShapeDtypeStruct((16, 32), jnp.float32)
w = jax.ShapeDtypeStruct((5, 32, 32), jnp.float32)
hlo = jax.jit(run).lower(x, w).compile().as_text()
print(json.dumps([c[:4] for c in collectives(Program(hlo), mesh.shape)]))
""",
  )
  assert found == [["all-reduce", ["tensor"], 5, 5 * 4 * 32 * 4]]


CHOICE = """HloModule jit_step

%whole (p: bf16[4]) -> bf16[32] {
  %p = bf16[4]{0} parameter(0)
  ROOT %all-gather.1 = bf16[32]{0} all-gather(%p), channel_id=1, replica_groups={}
}

%packed (q: bf16[4]) -> bf16[32] {
  %q = bf16[4]{0} parameter(0)
  %twice = bf16[4]{0} all-reduce(%q), channel_id=2, replica_groups={}, to_apply=%add
  ROOT %all-gather.2 = bf16[32]{0} all-gather(%twice), channel_id=3, replica_groups={}
}

ENTRY %main (a: bf16[4], b: pred[]) -> bf16[32] {
  %a = bf16[4]{0} parameter(0)
  %b = pred[] parameter(1)
  ROOT %c = bf16[32]{0} conditional(%b, %a, %a), branch_computations={%whole, %packed}
}
"""


def test_of_a_choice_the_branch_counts_that_exchanges_most():
  assert [found[:4] for found in collectives(Program(CHOICE), MESH)] == [
    ("all-gather", ("fsdp", "tensor"), 1, 64),
    ("all-reduce", ("fsdp", "tensor"), 1, 8),
  ]


FUSIONS = """HloModule jit_step

%start (p: bf16[4]) -> bf16[32] {
  ROOT %all-gather.1 = bf16[32]{0} all-gather(%p), channel_id=3, replica_groups={}
}

%more (p: bf16[4]) -> bf16[32] {
  ROOT %all-gather.2 = bf16[32]{0} all-gather(%p), channel_id=3, replica_groups={}
}

%other (p: bf16[4]) -> bf16[32] {
  ROOT %all-gather.3 = bf16[32]{0} all-gather(%p), channel_id=4, replica_groups={}
}

ENTRY %main (p: bf16[4]) -> bf16[32] {
  %a = bf16[32]{0} fusion(%p), kind=kCustom, calls=%start
  %b = bf16[32]{0} fusion(%p), kind=kOutput, calls=%more
  %c = bf16[32]{0} fusion(%p), kind=kOutput, calls=%other
}
"""


def test_an_exchange_that_several_fusions_share_counts_once():
  assert [found[:4] for found in collectives(Program(FUSIONS), MESH)] == [
    ("all-gather", ("fsdp", "tensor"), 1, 64),
    ("all-gather", ("fsdp", "tensor"), 1, 64),
  ]


def test_an_exchange_without_a_place_is_named_by_its_first_user():
  gather = "%gathered = f32[8]{0} all-gather(%weight), replica_groups={{0,1}}, dimensions={0}"
  program = Program(
    "ENTRY %main (weight: f32[4]) -> f32[8] {\n"
    "  %weight = f32[4]{0} parameter(0)\n"
    f"  {gather}\n"
    "  %rounded = bf16[8]{0} convert(%gathered)\n"
    '  ROOT %product = f32[8]{0} negate(%rounded), metadata={op_name="stack/Block/up"}\n'
    "}\n"
  )
  (found,) = collectives(program, {"fsdp": 2})
  assert found.source == "stack/Block/up"
