"""The floor of data loads without jax, and what a run with a store needs without TensorFlow."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NEEDS_TENSORFLOW = {
  "seqio_characters",
  "seqio_tasks",
  "seqio_vocabularies",
}  # reached through functions, to build
MODULES = sorted(
  path.stem
  for path in (ROOT / "input_pipelines").glob("*.py")
  if path.stem not in NEEDS_TENSORFLOW | {"__init__"}
)


@pytest.mark.parametrize("package", ["input_pipelines", "tasks"])
def test_data_loads_neither_jax_nor_tensorflow(package):
  modules = MODULES if package == "input_pipelines" else ["jsonl", "text_file", "python_stdlib"]
  names = ", ".join(f"{package}.{module}" for module in modules)
  heavy = {"jax", "grain", "tensorflow", "seqio"}
  program = f"import sys; import {names}; print(sorted({heavy} & set(sys.modules)))"
  result = subprocess.run(
    [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
  )
  assert result.stdout == "[]\n"
