"""`runner import` of a parameter file written by Large World Model's own code.

The file does not record the number of heads or theta; the experiment supplies them. Layers may
be scanned (along either axis) or not, in the file as in our model.
"""

from collections.abc import Mapping
from pathlib import Path

import fiddle as fdl
import jax
import numpy as np

from layers.errors import UserError
from runners.array_names import named_arrays
from runners.interchange.imported_run import check_free, param_shapes, write_run
from runners.interchange.params_reading import ParamsReader
from runners.interchange.safetensors_files import Described
from runners.interchange.streamed_arrays import Stream
from runners.interchange.tensor_names import LWM

_ROOTS = ("transformer", "lm_head", "vision_head")  # the model's top-level names
_SCANNED = "transformer/h/scan_decoder/"


def import_stream(
  file: str, workdir: str, config: fdl.Config, exp: str, scan_axis: int | None = None
) -> None:
  """Writes a run from a file called streaming_params or streaming_train_state.

  Args:
    file: their file; from a train state only the parameters are taken.
    workdir: a folder without a run.
    config: config of a Trainer with the same model.
    exp: the name of the experiment that made `config`.
    scan_axis: the axis of their scanned layers; None: deduced from the shapes.

  Raises:
    UserError: the file cannot be read, its model differs, or `workdir` has a run.
  """
  check_free(workdir)
  shapes = param_shapes(fdl.build(config.model))
  num_layers = config.model.num_layers
  tensors = LayerTensors(file, num_layers, scan_axis)
  names = {name: tuple(x.shape) for name, x in named_arrays(shapes)}
  reader = ParamsReader(tensors, LWM, num_layers, names)
  write_run(Path(workdir), config, exp, shapes, reader.read, source=file)
  num_params = sum(x.size for x in jax.tree.leaves(shapes))
  heads, width = next(x for n, x in names.items() if n.endswith("/query/kernel"))[-2:]
  print(f"imported    {num_params:,} parameters of {file}")
  print(f"            as {heads} heads of {width}, which that file does not say")
  print(f"workdir     {workdir}: a checkpoint of step 0, as a model of {exp}")


class LayerTensors:
  """The parameters in a file, one tensor for each layer, as `ParamsReader` reads them.

  Attributes:
    tensors: name -> shape and dtype.
  """

  def __init__(self, file: str, num_layers: int, scan_axis: int | None = None):
    self._stream = Stream(file)
    self.tensors: dict[str, Described] = {}
    self._places: dict[str, tuple[str, int | None, int]] = {}  # in the file: name, layer, axis
    known = {_below_params(name): name for name in self._stream.arrays}
    known = {name: at for name, at in known.items() if name.split("/")[0] in _ROOTS}
    if not known:
      raise UserError(f"{file} holds no parameters of a language model")
    shapes = {name: self._stream.arrays[at].shape for name, at in known.items()}
    scanned = {name: x for name, x in shapes.items() if name.startswith(_SCANNED)}
    axis = _scan_axis(file, scanned, num_layers, scan_axis) if scanned else 0
    for name, at in known.items():
      shape, dtype = shapes[name], self._stream.arrays[at].dtype
      if name not in scanned:
        self._add(name, shape, dtype, (at, None, 0))
        continue
      for layer in range(num_layers):
        numbered = f"transformer/h/{layer}/{name.removeprefix(_SCANNED)}"
        self._add(numbered, shape[:axis] + shape[axis + 1 :], dtype, (at, layer, axis))

  def _add(
    self,
    name: str,
    shape: tuple[int, ...],
    dtype: np.dtype,
    place: tuple[str, int | None, int],
  ) -> None:
    self.tensors[name] = Described(shape, dtype)
    self._places[name] = place

  def read(self, name: str) -> np.ndarray:
    """A tensor of one layer, perhaps a view of the file."""
    at, layer, axis = self._places[name]
    shape = self._stream.arrays[at].shape
    if layer is None:
      return self._stream.read(at).reshape(shape)
    if axis == 1:
      return self._stream.read(at).reshape(shape)[:, layer]
    size = int(np.prod(shape[1:], dtype=np.int64))
    return self._stream.read(at, layer * size, (layer + 1) * size).reshape(shape[1:])


def _scan_axis(
  file: str, shapes: Mapping[str, tuple[int, ...]], num_layers: int, asked: int | None
) -> int:
  """The axis along which all of these arrays have the model's layers.

  Raises:
    UserError: neither axis fits, or both do.
  """
  without = {
    axis: [n for n, shape in shapes.items() if shape[axis : axis + 1] != (num_layers,)]
    for axis in (0, 1)
  }
  possible = [axis for axis, names in without.items() if not names]
  if asked is None and len(possible) == 2:
    raise UserError(
      f"{file}: a model as deep as it is wide ({num_layers}) may have its layers along either "
      "axis; say which: --scan_axis=0, as LWM's code has it unless told otherwise, or "
      "--scan_axis=1"
    )
  if asked in possible or asked is None and possible:
    return possible[0] if asked is None else asked
  axis = asked or 0
  name = without[axis][0]
  raise UserError(
    f"{file}: {name[:100]!r} is {shapes[name][:8]}, without the {num_layers} layers of this "
    f"model along axis {axis}"
  )


def _below_params(name: str) -> str:
  while name.startswith("params/"):
    name = name.removeprefix("params/")
  return name
