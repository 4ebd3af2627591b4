"""A file of overrides gives a config or one short line, and nothing that it names is called."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.error_lines import MAX_LINE, error_lines
from experiments.overrides import Override, apply_overrides
from layers.errors import UserError
from tests.canary import CALLS, FUZZ, NAMES
from tests.experiments.test_fuzz_overrides import BASE

KEYS = (
  *("seed", "num_steps", "model.epsilon", "optimizer", "optimizer.learning_rate.peak", "x"),
  *(
    "callbacks+",
    "callbacks",
    "eval_data",
    "eval_data['x']",
    "sharding",
    "''",
    "1",
    "~",
    "[a]",
  ),
  *("mesh", "writers+", "init_from", "checkpoints.metric", "<<", "{a: 1}", "2001-01-01", "? x"),
)
VALUES = (
  *(
    "1",
    "-1",
    "'x'",
    "@x",
    "'@adamw()'",
    "'@adamw(b1='",
    "[1,2",
    "{a: b}",
    "~",
    ".nan",
    "0b12",
  ),
  *(
    "!!python/name:os.system",
    "!!python/object/apply:os.system ['x']",
    "!!binary xx",
    "!!set {a}",
  ),
  *(
    "!!timestamp 2001-99-99",
    "!!timestamp 200x",
    "2001-12-14",
    "!!bool x",
    "!!int ''",
    "!!float x",
  ),
  *(
    "'" + "9" * 5000 + "'",
    "9" * 400,
    "0x" + "f" * 9000,
    "&a [*a]",
    "[" * 300,
    "[" * 999 + "]" * 999,
  ),
  *(
    "1:99:99",
    "1:" * 400 + "1",
    "é",
    '"\\ud800"',
    '"\\0"',
    "\u2028",
    "|\n  x",
    "<<",
    "*a",
    "&a",
    "!!omap [a]",
  ),
  *(
    "'~~~~1'",
    "'-True'",
    "'_reference_1'",
    "true",
    "{}",
    "[]",
    "{<<: &b {a: 1}, <<: *b}",
    "*b",
  ),
  *(f"'@{name}()'" for name in NAMES),
  *(f"'{name}'" for name in NAMES),
)
FORMS = (
  *(
    "exp: gpt2.Nano\nset:\n  {k}: {v}\n",
    "set: {{ {k}: {v} }}\nexp: gpt2.Nano\n",
    "exp: {v}\n",
  ),
  *("unset: [{k}]\n", "unset: {v}\n", "fiddlers: [{v}]\n", "fiddlers: {v}\n", "? {v}\n: {k}\n"),
  *(
    "set: &a\n  {k}: *a\n",
    "set: &a {{seed: [*a]}}\n",
    "<<: {v}\n",
    "set: {{model: &m [1, *m]}}\n",
  ),
  *(
    "--- {v}\n--- {v}\n",
    "%YAML 9.9\n---\nexp: x\n",
    "config: {v}\nexp: {k}\n",
    "{v}",
    "set: {{<<: {v}}}\n",
  ),
  *(
    "set: {{seed: &x [{v},{v}], mesh: &y [*x,*x], x: [*y,*y]}}\n",
    '{{"config": {{}}, "exp": "{k}"}}',
  ),
)


@st.composite
def files(draw):
  """A form with keys and values of those above, and sometimes a text in the middle of it."""
  pick = st.sampled_from
  text = draw(pick(FORMS)).format(k=draw(pick(KEYS)), v=draw(pick(VALUES)))
  if draw(st.booleans()):
    at = draw(st.integers(0, min(len(text), 60)))
    text = text[:at] + draw(st.text(max_size=3) | pick("*&{[\t:-'\"!%@`,")) + text[at:]
  return text


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp("fuzz")


@pytest.mark.slow
@FUZZ
@given(text=files(), suffix=st.sampled_from((".yaml", ".yaml", ".json")))
def test_whatever_a_file_holds_a_config_or_one_short_line_comes_out(folder, text, suffix):
  file = folder / f"file{suffix}"
  file.write_bytes(text.encode("utf-8", "surrogatepass"))
  try:
    apply_overrides(BASE, [Override("config", str(file))])
  except UserError as error:
    (line,) = error_lines(error)
    assert len(line) <= MAX_LINE + 5 and line.isprintable()
  assert not CALLS
