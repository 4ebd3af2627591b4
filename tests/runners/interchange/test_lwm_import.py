"""A parameter file of LWM's own code becomes a run with the same logits."""

import tracemalloc

import fiddle as fdl
import flax.serialization
import jax.numpy as jnp
import msgpack
import numpy as np
import pytest

from experiments.command_line import main
from layers.chunked_cross_entropy import whole_logits
from layers.tokens import Tokens
from runners.checkpoints.listing import find_step_folder
from runners.checkpoints.reading import open_step, read_arrays
from runners.configs.files import load
from runners.interchange.streamed_arrays import Stream

L, D, F, N, H, V = 3, 16, 24, 2, 8, 32
SIZES = (
  "--exp=lwm.TextLlamaDebug",
  f"--set=model.num_layers={L}",
  f"--set=model.model_dim={D}",
  f"--set=model.block.attention.num_heads={N}",
  f"--set=model.block.feed_forward.hidden_dim={F}",
  f"--set=model.vocab_size={V}",
)
LAYER = {
  **{f"attention/{name}/kernel": (D, D) for name in ("wq", "wk", "wv", "wo")},
  "feed_forward/w1/kernel": (D, F),
  "feed_forward/w3/kernel": (D, F),
  "feed_forward/w2/kernel": (F, D),
  "attention_norm/kernel": (D,),
  "ffn_norm/kernel": (D,),
}
ENDS = {
  "transformer/wte/embedding": (V, D),
  "transformer/ln_f/kernel": (D,),
  "lm_head/kernel": (D, V),
}


def their_params(dtype="float32"):
  """Name -> array, layers apart."""
  generator = np.random.default_rng(0)
  layers = {f"transformer/h/{i}/{n}": shape for i in range(L) for n, shape in LAYER.items()}
  shapes = {**ENDS, **layers}
  return {n: generator.normal(size=s).astype(jnp.dtype(dtype)) for n, s in shapes.items()}


def scanned(params, axis):
  stacks = {
    f"transformer/h/scan_decoder/{n}": np.stack(
      [params[f"transformer/h/{i}/{n}"] for i in range(L)], axis
    )
    for n in LAYER
  }
  return {**{n: params[n] for n in ENDS}, **stacks}


def write_stream(file, arrays, prefix="params/", more=()):
  """As tux writes it: a pair (key, what flax makes of the array) for each."""
  packer = msgpack.Packer()
  with open(file, "wb") as stream:
    for key, value in more:
      stream.write(packer.pack((key, flax.serialization.to_bytes(value))))
    for name, value in arrays.items():
      key = f"{prefix}{name}".split("/")
      stream.write(packer.pack((key, flax.serialization.to_bytes(value))))
  return file


def run(*arguments, capsys):
  code = main(["runner", *map(str, arguments)])
  return code, *capsys.readouterr()


def import_into(workdir, file, *more, capsys):
  return run("import", f"--from={file}", f"--workdir={workdir}", *SIZES, *more, capsys=capsys)


def imported(workdir):
  step = open_step(find_step_folder(str(workdir)).absolute())
  arrays = read_arrays(step, list(step.arrays))
  return {name.removeprefix("params/"): x for name, x in arrays.items()}


def halves(x):
  """Rotary pairs (2 i, 2 i + 1) of each head, as pairs (i, i + H / 2)."""
  heads = x.reshape(D, N, H)
  return np.concatenate([heads[..., 0::2], heads[..., 1::2]], -1)


FORMS = {
  "layers apart": lambda params: params,
  "scanned": lambda params: scanned(params, 0),
  "scanned along axis 1": lambda params: scanned(params, 1),
}


@pytest.mark.parametrize("chunk_bytes", [2**30, 256])
@pytest.mark.parametrize("form", FORMS)
def test_every_array_is_found_whatever_form_it_has(form, chunk_bytes, tmp_path, monkeypatch):
  monkeypatch.setattr(flax.serialization, "MAX_CHUNK_SIZE", chunk_bytes)
  arrays = FORMS[form](their_params("bfloat16"))
  more = [(("step",), np.int32(7)), (("opt_state", "count"), 3)]
  stream = Stream(write_stream(tmp_path / "stream", arrays, "", more))
  assert stream.arrays.keys() - {"step", "opt_state/count"} == arrays.keys()
  for name, x in arrays.items():
    described = stream.arrays[name]
    assert (described.shape, described.dtype) == (x.shape, x.dtype)
    assert (len(described.pieces) > 1) == (x.nbytes > chunk_bytes)
    np.testing.assert_array_equal(stream.read(name), x.reshape(-1))
    np.testing.assert_array_equal(stream.read(name, 5, 14), x.reshape(-1)[5:14])


@pytest.mark.parametrize("scan_here", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_every_parameter_comes_to_its_place(form, scan_here, tmp_path, capsys):
  params = their_params("bfloat16")
  file = write_stream(tmp_path / "streaming_params", FORMS[form](params))
  workdir = tmp_path / "run"
  code, out, err = import_into(
    workdir, file, f"--set=model.scan_layers={scan_here}", capsys=capsys
  )
  assert code == 0, err
  ours = imported(workdir)
  assert {str(x.dtype) for x in ours.values()} == {"bfloat16"}
  layer = lambda i, name: (
    ours[f"stack/layers/{name}"][i] if scan_here else ours[f"stack/layers/{i}/{name}"]
  )
  theirs = lambda i, name: params[f"transformer/h/{i}/{name}"]
  for i in range(L):
    for name, want in {
      "attention/query/kernel": halves(theirs(i, "attention/wq/kernel")),
      "attention/key/kernel": halves(theirs(i, "attention/wk/kernel")),
      "attention/value/kernel": theirs(i, "attention/wv/kernel").reshape(D, N, H),
      "attention/out/kernel": theirs(i, "attention/wo/kernel").reshape(N, H, D),
      "feed_forward/gate/kernel": theirs(i, "feed_forward/w1/kernel"),
      "feed_forward/up/kernel": theirs(i, "feed_forward/w3/kernel"),
      "feed_forward/down/kernel": theirs(i, "feed_forward/w2/kernel"),
      "attention_norm/scale": theirs(i, "attention_norm/kernel"),
      "feed_forward_norm/scale": theirs(i, "ffn_norm/kernel"),
    }.items():
      np.testing.assert_array_equal(layer(i, name), want, err_msg=name)
  np.testing.assert_array_equal(ours["embedding/table"], params["transformer/wte/embedding"])
  np.testing.assert_array_equal(ours["final_norm/scale"], params["transformer/ln_f/kernel"])
  np.testing.assert_array_equal(ours["head/projection/kernel"], params["lm_head/kernel"])
  assert "as 2 heads of 8" in out


def normed(x, scale):
  return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6) * scale


def turned(x):
  """x [T, N, H]: features 2 i and 2 i + 1, a complex number, turned by t theta^(-2 i / H)."""
  angles = np.outer(np.arange(len(x)), 10_000.0 ** (-np.arange(0, H, 2) / H))[:, None]
  pairs = (x[..., 0::2] + 1j * x[..., 1::2]) * np.exp(1j * angles)
  return np.stack([pairs.real, pairs.imag], -1).reshape(x.shape)


def their_logits(params, ids):
  """LWM's model in plain numpy; ids [T] gives [T, V]."""
  x = params["transformer/wte/embedding"][ids].astype(np.float64)
  mask = np.tril(np.ones((len(ids), len(ids)), bool))
  for i in range(L):
    of = lambda name, i=i: params[f"transformer/h/{i}/{name}/kernel"]
    h = normed(x, of("attention_norm"))
    q, k, v = ((h @ of(f"attention/{n}")).reshape(-1, N, H) for n in ("wq", "wk", "wv"))
    scores = np.einsum("tnh,snh->nts", turned(q), turned(k)) / np.sqrt(H)
    weights = np.exp(np.where(mask, scores, -np.inf))
    weights /= weights.sum(-1, keepdims=True)
    x = x + np.einsum("nts,snh->tnh", weights, v).reshape(-1, D) @ of("attention/wo")
    h = normed(x, of("ffn_norm"))
    gate = h @ of("feed_forward/w1")
    hidden = gate / (1 + np.exp(-gate)) * (h @ of("feed_forward/w3"))
    x = x + hidden @ of("feed_forward/w2")
  return normed(x, params["transformer/ln_f/kernel"]) @ params["lm_head/kernel"]


def test_an_imported_model_gives_their_logits(tmp_path, capsys):
  params = {n: 0.3 * x if x.ndim > 1 else x for n, x in their_params().items()}
  file = write_stream(tmp_path / "streaming_params", scanned(params, 0))
  assert import_into(tmp_path / "run", file, capsys=capsys)[0] == 0
  tree: dict = {}
  for name, x in imported(tmp_path / "run").items():
    *parents, last = name.split("/")
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
    node[last] = x
  ids = np.random.default_rng(1).integers(0, V, 24)
  model = fdl.build(load(tmp_path / "run").config.model)
  got = whole_logits(model.apply({"params": tree}, ids[None], Tokens.unpacked(1, len(ids))))[0]
  np.testing.assert_allclose(got, their_logits(params, ids), atol=1e-4, rtol=0)


def test_no_more_than_two_arrays_are_in_memory_at_a_time(tmp_path):
  layers, width, hidden = 8, 128, 512
  wide = {D: width, F: hidden}
  shapes = {n: tuple(wide.get(size, size) for size in s) for n, s in ENDS.items()}
  for name, shape in LAYER.items():
    inner = tuple(wide[size] for size in shape)
    shapes[f"transformer/h/scan_decoder/{name}"] = (layers, *inner)
  arrays = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
  file = write_stream(tmp_path / "stream", arrays)
  fields = {"num_layers": layers, "model_dim": width, "vocab_size": V}
  fields |= {"block.attention.num_heads": N, "block.feed_forward.hidden_dim": hidden}
  sets = [f"--set=model.{path}={value}" for path, value in fields.items()]
  start = ("runner", "import", f"--from={file}", SIZES[0], *sets)
  assert main([*start, f"--workdir={tmp_path / 'first'}"]) == 0  # what is made once
  weights = [x.nbytes for x in arrays.values()]
  del arrays
  tracemalloc.start()
  assert main([*start, f"--workdir={tmp_path / 'second'}"]) == 0
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert max(weights) <= peak < 2.5 * max(weights) < sum(weights)


def test_of_a_train_state_the_parameters_are_taken(tmp_path, capsys):
  params = their_params()
  moment = (("opt_state", "0", "mu", "params", "lm_head", "kernel"), np.ones((D, V)))
  more = [(("step",), np.int32(7)), (("opt_state", "0", "count"), 3), moment]
  file = write_stream(tmp_path / "train_state", scanned(params, 0), "params/params/", more)
  assert import_into(tmp_path / "run", file, capsys=capsys)[0] == 0
  np.testing.assert_array_equal(
    imported(tmp_path / "run")["head/projection/kernel"], params["lm_head/kernel"]
  )


def test_a_file_that_cannot_be_read_is_one_line(tmp_path, capsys):
  whole = write_stream(tmp_path / "stream", scanned(their_params(), 0)).read_bytes()
  for content, said in {
    b"": "cannot read",
    b"no msgpack at all": "is no streaming checkpoint, or is cut off, at byte 0",
    whole[:-1]: "is no streaming checkpoint, or is cut off",
    msgpack.packb((["step"], flax.serialization.to_bytes(np.int32(7)))): "holds no parameters",
  }.items():
    (tmp_path / "file").write_bytes(content)
    code, _, err = import_into(tmp_path / "run", tmp_path / "file", capsys=capsys)
    assert code == 2 and len(err.splitlines()) == 1 and said in err
  assert not (tmp_path / "run").exists()


def test_another_model_is_refused_with_both_shapes_and_one_without_a_name(tmp_path, capsys):
  arrays = scanned(their_params(), 0)
  file = write_stream(tmp_path / "stream", {**arrays, "vision_head/kernel": np.ones((D, 4))})
  code, _, err = import_into(tmp_path / "run", file, "--set=model.vocab_size=40", capsys=capsys)
  assert code == 2 and f"transformer/wte/embedding: ({V}, {D}) there, (40, {D}) here" in err
  assert f"vision_head/kernel ({D}, 4) is not used here" in err
  code, _, err = run("import", f"--from={file}", f"--workdir={tmp_path}/run", capsys=capsys)
  assert code == 2 and "name the experiment" in err and len(err.splitlines()) == 1


@pytest.mark.parametrize("axis", [0, 1])
def test_a_model_as_deep_as_wide_is_read_along_the_axis_that_is_said(axis, tmp_path, capsys):
  deep = 4
  shape = lambda s: tuple({D: deep, F: deep}.get(size, size) for size in s)
  generator = np.random.default_rng(0)
  draw = lambda s: generator.normal(size=shape(s)).astype(np.float32)
  layers = {n: [draw(s) for _ in range(deep)] for n, s in LAYER.items()}
  stacks = {f"transformer/h/scan_decoder/{n}": np.stack(x, axis) for n, x in layers.items()}
  file = write_stream(tmp_path / "stream", stacks | {n: draw(s) for n, s in ENDS.items()})
  fields = {"num_layers": deep, "model_dim": deep, "vocab_size": V}
  fields |= {"block.attention.num_heads": N, "block.feed_forward.hidden_dim": deep}
  sets = [f"--set=model.{path}={value}" for path, value in fields.items()]
  start = ("import", f"--from={file}", f"--workdir={tmp_path / 'run'}", SIZES[0], *sets)
  code, _, err = run(*start, capsys=capsys)
  assert code == 2 and len(err.splitlines()) == 1 and "say which: --scan_axis=0" in err
  code, _, err = run(*start, f"--scan_axis={axis}", capsys=capsys)
  assert code == 0, err
  gates = imported(tmp_path / "run")["stack/layers/feed_forward/gate/kernel"]
  np.testing.assert_array_equal(gates, np.stack(layers["feed_forward/w1/kernel"]))


def test_an_axis_without_the_layers_is_refused_and_other_sizes_tell_it(tmp_path, capsys):
  file = write_stream(tmp_path / "stream", scanned(their_params(), 1))
  code, _, err = import_into(tmp_path / "run", file, "--scan_axis=0", capsys=capsys)
  assert code == 2 and f"without the {L} layers of this model along axis 0" in err
  code, _, err = import_into(tmp_path / "run", file, "--set=model.num_layers=4", capsys=capsys)
  assert code == 2 and "without the 4 layers" in err
  assert import_into(tmp_path / "run", file, "--scan_axis=1", capsys=capsys)[0] == 0
