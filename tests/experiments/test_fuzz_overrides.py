"""Whatever is set, a config or one short line comes out, and nothing named is called."""

import fiddle as fdl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.error_lines import MAX_LINE, error_lines
from experiments.overrides import Override, apply_overrides
from layers.errors import UserError
from layers.normalization import LayerNorm
from runners.callbacks import StopOnNonFinite
from runners.configs import files as config_files
from runners.configs.tree import flatten
from runners.optimizers import adamw
from runners.schedules import warmup_cosine
from runners.trainer import Trainer
from tasks.language_modeling import NextToken
from tasks.python_stdlib import PythonStdlib
from tests.canary import CALLS, FUZZ, NAMES

BASE = fdl.Config(
  Trainer,
  model=fdl.Config(LayerNorm),
  objective=fdl.Config(NextToken),
  train_data=fdl.Config(PythonStdlib),
  eval_data={"x": fdl.Config(PythonStdlib)},
  optimizer=fdl.Config(adamw, learning_rate=fdl.Config(warmup_cosine, peak=1.0)),
  callbacks=[fdl.Config(StopOnNonFinite)],
  batch_size=1,
  sequence_length=8,
)
PATHS = (
  *flatten(BASE),
  "x",
  "",
  ".",
  "[",
  "eval_data[x]",
  "callbacks[9]",
  "model..x",
  "seed[0]",
)
VALUES = (
  *(
    "1",
    "-1",
    "1e999",
    "nan",
    "None",
    "True",
    "-True",
    "'x'",
    "b'z'",
    "...",
    "1j",
    "0x" + "f" * 99,
  ),
  *(
    "9" * 400,
    "-" + "9" * 5000,
    "1e-3",
    "bfloat16",
    "é",
    "\ud800",
    "\0",
    "\n",
    "٣",
    "''",
    "~~~",
  ),
  *("@", "@@x", "@adamw()", "@adamw", "@sgdm(learning_rate=0.1)", "@warmup_cosine(peak=1e-3)"),
  *(
    "@Mixture(sources={'a': @PythonStdlib})",
    "@Jsonl(files='x')",
    "@optax:adam",
    "@jax.nn:relu",
  ),
  *(f"@{name}" for name in NAMES),
  *(f"@{name}()" for name in NAMES),
  *("_reference_0", "_reference_1", "@adamw(b1=_reference_0)", "@adamw(**{})", "@adamw()()"),
  *("lambda: 1", "f'{1}'", "[*a]", "{**a}", "a:=1", "[1,2", "{1:2,3}", "{[]:1}", "[" * 300),
  *(
    "[" * 60 + "]" * 60,
    "[" * 99 + "]" * 99,
    "-" * 3000 + "1",
    "a" * 9000,
    "(((1)))",
    "#",
    "\\",
  ),
)


@st.composite
def overrides(draw):
  """A path and a value of those above, whole, joined, cut or with something in between."""
  pick = st.sampled_from
  path = draw(pick(PATHS)) + draw(
    pick(("", "", "", ".x", "[0]", "['a']", "[", "[" + "9" * 30 + "]"))
  )
  value, other = draw(pick(VALUES)), draw(pick(VALUES))
  form = draw(
    pick(("{0}", "{0}", "{0}", "[{0}]", "({0}, {1})", "{{'a': {0}}}", "@adamw(b1={0})"))
  )
  value = form.format(value, other)
  if draw(st.booleans()):
    at = draw(st.integers(0, min(len(value), 20)))
    value = value[:at] + draw(st.text(max_size=3)) + value[at:]
  return path + draw(pick(("=", "=", "=", "+=", ""))) + value


@pytest.mark.slow
@FUZZ
@given(overrides())
def test_whatever_is_set_a_config_or_one_short_line_comes_out(text):
  try:
    config = apply_overrides(BASE, [Override("set", text)]).config
    config_files.to_text(config).encode()
    stored = config_files.to_json(config, "gpt2.Nano")
    assert not config_files.differences(config, config_files.from_json(stored, "x").config)
  except UserError as error:
    (line,) = error_lines(error)
    assert len(line) <= MAX_LINE + 5 and line.isprintable()
  assert not CALLS
