"""The flags of all commands of the command line."""

from absl import flags

from experiments.override_arguments import Override


class _OverrideFlag(flags.Flag):
  """Adds each occurrence to one list that all verbs share, because their order matters."""

  def __init__(self, verb: str, help_text: str, overrides: list[Override]):
    super().__init__(flags.ArgumentParser(), None, verb, None, help_text, allow_overwrite=True)
    self._overrides = overrides

  def parse(self, argument: str | None) -> None:
    self.present += 1
    self._overrides.append(Override(self.name, argument or ""))


def define_flags() -> tuple[flags.FlagValues, list[Override]]:
  """The flags, separate from absl's global flags, which libraries extend; and the overrides."""
  values = flags.FlagValues()
  values.set_gnu_getopt(True)  # flags may stand before and after arguments
  overrides: list[Override] = []
  string, multi = flags.DEFINE_string, flags.DEFINE_multi_string
  string("exp", None, "NAME of the experiment, like gpt2.Nano", flag_values=values)
  for verb, text in {
    "set": "PATH=VALUE, or PATH+=VALUE to append; repeatable, applied in the order given",
    "unset": "PATH back to its default",
    "fiddler": "NAME(ARGUMENTS) applies a registered change",
    "config": "FILE of overrides (YAML or JSON), or config.json of a run",
    "gin_file": "FILE of gin for seqio preprocessors (@RegisteredTask)",
    "gin_bindings": "one line of it, such as trim.length=512; repeatable",
  }.items():
    flags.DEFINE_flag(_OverrideFlag(verb, text, overrides), values)
  multi("load", [], "MODULE that registers experiments, imported first", flag_values=values)
  where = "DIR (default: runs/ or sweeps/<experiment>)"
  string("workdir", None, where, flag_values=values)
  multi(
    "accept_change", [], "PATH that may differ from the run in the workdir", flag_values=values
  )
  multi("sweep", [], "PATH=V1,V2,...; several give their product", flag_values=values)
  flags.DEFINE_integer("parallel", 1, "how many points at a time", flag_values=values)
  string("sort", None, "METRIC of the table (-METRIC: largest first)", flag_values=values)
  string("step", "latest", "N, latest, best or all", flag_values=values)
  string("format", "flat", "flat, json or python", flag_values=values)
  integer, number = flags.DEFINE_integer, flags.DEFINE_float
  flags.DEFINE_boolean("sharding", False, "where each parameter lies", flag_values=values)
  integer("devices", None, "how many, for --sharding", flag_values=values)
  integer("num_rows", 4, "how many rows", flag_values=values)
  flags.DEFINE_boolean("cache", False, "only build the token store", flag_values=values)
  multi("prompt", [], "TEXT to continue", flag_values=values)
  integer("max_tokens", None, "how many to add at most", flag_values=values)
  number("temperature", 0.8, "0: greedy", flag_values=values)
  integer("top_k", None, "how many tokens to choose among", flag_values=values)
  number("top_p", None, "the probability of those to choose among", flag_values=values)
  integer("seed", 0, "of the draws", flag_values=values)
  string("cache_dir", None, "DIR of token stores (default: $STRATA_CACHE)", flag_values=values)
  string("from", None, "FOLDER of Hugging Face, or FILE of LWM", flag_values=values)
  flags.DEFINE_enum("scan_axis", None, ["0", "1"], "of LWM's layers", flag_values=values)
  string("to", None, "FOLDER to write, or FILE of a plan", flag_values=values)
  string("topology", None, "KIND:SHAPE, as v5p:4x4x4, h100:8x8, cpu:8", flag_values=values)
  flags.DEFINE_boolean("search", False, "which mesh, remat, microbatch", flag_values=values)
  number("minutes", None, "to search at most: 4", flag_values=values)
  flags.DEFINE_boolean("kernels", False, "list the dearest", flag_values=values)
  number("mfu", 0.4, "the share of peak speed to tell the time for", flag_values=values)
  number("tokens", None, "to train on; the run's", flag_values=values)
  number("price", 0.0, "of a device for an hour", flag_values=values)
  flags.DEFINE_boolean("json", False, "one JSON object", flag_values=values)
  string("dtype", None, "float32, bfloat16 or float16; the checkpoint's", flag_values=values)
  flags.DEFINE_boolean("version", False, "of this and what it runs on", flag_values=values)
  flags.DEFINE_boolean("help", False, "this text", short_name="h", flag_values=values)
  return values, overrides
