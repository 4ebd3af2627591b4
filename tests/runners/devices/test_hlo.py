"""A program's text is read as computations of instructions, wherever their lines break."""

import pytest

from runners.devices.hlo import Array, Program, arrays, elements

PROGRAM = """HloModule jit_step

FileNames
1 "/home/me/strata/layers/attention.py"
2 "/home/me/strata/runners/optimizers.py"

FunctionNames
1 "__call__"

FileLocations
1 {file_name_id=1 function_name_id=1 line=12 end_line=12 column=2 end_column=8}
2 {file_name_id=2 function_name_id=1 line=7 end_line=9 column=2 end_column=8}

StackFrames
1 {file_location_id=2 parent_frame_id=1}
2 {file_location_id=1 parent_frame_id=1}


%inner (p: f32[4]) -> f32[4] {
  %p = f32[4]{0} parameter(0)
  ROOT %twice = f32[4]{0} add(%p, %p), metadata={op_name="jit(f)/add" stack_frame_id=2}
}

%body (q: (s32[], f32[4])) -> (s32[], f32[4]) {
  %q = (s32[], /*index=1*/f32[4]{0}) parameter(0)
  %x = f32[4]{0} get-tuple-element(%q), index=1
  %y = f32[4]{0} fusion(%x), kind=kLoop, calls=%inner
  ROOT %t = (s32[], f32[4]{0}) tuple(%x, %y)
}

ENTRY %main (a: f32[4]) -> f32[4] {
  %a = f32[4]{0} parameter(0)
  %s = (s32[], f32[4]{0}) while((s32[], f32[4]{0}) %t), condition=%c, body=%body,
    backend_config={"known_trip_count":{"n":"3"}}
  ROOT %z = f32[4]{0} custom-call(f32[4]{0:T(8,128)(2,1)} %a, %s), custom_call_target="it",
    frontend_attributes={kernel_metadata={
"block_q": 512
}}, metadata={op_name="jit(step)/flash" source_file="/home/me/code.py" source_line=5}
}
"""


@pytest.fixture(scope="module")
def program():
  return Program(PROGRAM)


def _one(program, computation, name):
  (found,) = (each for each in program.computations[computation] if each.name == name)
  return found


def test_operands_are_named_with_and_without_their_shapes(program):
  assert program.entry == "main"
  assert _one(program, "main", "z").operands == ("a", "s")
  assert _one(program, "main", "s").operands == ("t",)
  assert _one(program, "body", "q").operands == ()
  assert _one(program, "inner", "twice").operands == ("p", "p")
  assert _one(program, "inner", "twice").is_root and not _one(program, "inner", "p").is_root


def test_an_instruction_goes_on_over_lines_that_begin_anywhere(program):
  assert _one(program, "main", "z").source == "jit(step)/flash"
  assert [each.name for each in program.computations["main"]] == ["a", "s", "z"]


def test_what_runs_within_a_loop_runs_as_often(program):
  assert program.times() == {"main": 1, "body": 3, "inner": 3}


def test_a_place_is_the_innermost_line_of_code(program):
  assert program.place(_one(program, "inner", "twice")) == "layers/attention.py:12"
  assert program.place(_one(program, "main", "z")) == "me/code.py:5"
  assert program.place(_one(program, "body", "y")) == ""


def test_shapes_are_arrays_with_their_bytes():
  shape = "(bf16[2,8]{1,0:T(8,128)(2,1)S(1)}, /*index=1*/s4[3]{0}, pred[])"
  first, second, third = arrays(shape)
  assert first == Array("bf16", (2, 8), "{1,0:T(8,128)(2,1)S(1)}")
  assert [each.bytes for each in (first, second, third)] == [32, 2, 1]
  assert elements("((f32[2], s32[]), u8[4])") == ["(f32[2], s32[])", " u8[4]"]
