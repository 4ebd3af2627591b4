"""An objective asks and the runner answers; what nobody would hear is an error, not a loss."""

import dataclasses

import fiddle as fdl
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from layers.errors import UserError
from layers.feed_forward import FeedForward
from layers.reports import report
from runners.assembly import assemble
from runners.forward import ModelForward
from runners.train_step import TrainStep
from tasks.auxiliary_losses import WithReports
from tasks.language_modeling import NextToken
from tasks.objective import with_rows
from tests.runners import toy_run


class Twice(nn.Module):
  """A product with one weight, and how often it was called while it learned."""

  @nn.compact
  def __call__(self, x):
    calls = self.variable("calls", "count", lambda: jnp.zeros(()))
    if self.is_mutable_collection("calls") and not self.is_initializing():
      calls.value += 1
    weight = self.param("weight", nn.initializers.ones, ())
    report(self, "input", x.sum(), x.size)
    return weight * x

  def negated(self, x):
    return -self(x)


def _forward(training):
  rows = with_rows({"x": jnp.arange(3.0)})
  variables = {"calls": {"count": jnp.zeros(())}}
  key = jax.random.key(0) if training else None
  return ModelForward(Twice(), {"weight": jnp.float32(2)}, variables, rows, key), rows


def test_forward_gives_output_reports_and_variables_and_says_what_it_is():
  forward, batch = _forward(training=True)
  output, reports, variables = forward(batch["x"])
  np.testing.assert_array_equal(output, [0, 2, 4])
  assert (reports["input"].total, reports["input"].weight) == (3, 3)
  assert variables["calls"]["count"] == 1
  assert forward.training and forward.params == {"weight": 2}
  np.testing.assert_array_equal(forward.rows, [0, 1, 2])


def test_a_second_call_may_have_parameters_and_a_method_and_the_variables_of_the_first():
  forward, batch = _forward(training=True)
  first = forward(batch["x"])
  params = {"weight": jnp.float32(5)}
  second = forward(batch["x"], method="negated", params=params, variables=first.variables)
  np.testing.assert_array_equal(second.output, [0, -5, -10])
  assert second.variables["calls"]["count"] == 2


def test_in_evaluation_no_variable_changes_and_reports_are_heard():
  forward, batch = _forward(training=False)
  answer = forward(batch["x"])
  assert not forward.training and answer.variables["calls"]["count"] == 0
  assert answer.reports["input"].total == 3


class Sowing(FeedForward):
  """Leaves what it says in a collection of its own making."""

  def __call__(self, x, tokens):
    if not self.is_initializing():
      self.sow("losses", "mine", x.sum())
    return super().__call__(x, tokens)


class Late(FeedForward):
  """Reports in a step and not where its parameters are made."""

  def __call__(self, x, tokens):
    if not self.is_initializing():
      report(self, "late", 1.0, 1.0)
    return super().__call__(x, tokens)


class Early(FeedForward):
  def __call__(self, x, tokens):
    report(self, "early", 1.0, 1.0)
    return super().__call__(x, tokens)


class Remembering(FeedForward):
  """Begins a variable as something computed from its inputs."""

  @nn.compact
  def __call__(self, x, tokens):
    self.variable("memory", "mean", lambda: x.mean())
    return super().__call__(x, tokens)


class Deaf(NextToken):
  """Keeps the reports to itself."""

  def loss(self, forward, batch, totals):
    return super().loss(forward, batch, totals)._replace(reports={})


class Counting(FeedForward):
  """Keeps how often it was called."""

  @nn.compact
  def __call__(self, x, tokens):
    self.variable("calls", "count", lambda: jnp.zeros(()))
    return super().__call__(x, tokens)


class Forgetful(NextToken):
  """Keeps the variables to itself."""

  def loss(self, forward, batch, totals):
    return super().loss(forward, batch, totals)._replace(variables={})


class Untold(TrainStep):
  def update(self, parts, state, found):
    return super().update(parts, state, found)[0], {"untold": found.loss}


class Silent(TrainStep):
  statistics = ("promised",)


class Taken(TrainStep):
  statistics = ("loss",)


def _step(kind=FeedForward, **fields):
  config = toy_run.toy_config(**fields)
  config.model.block.feed_forward = fdl.Config(kind)
  assembly = assemble(config, "unused")
  jax.eval_shape(assembly.train_step(), assembly.initializer.abstract, assembly.batches[0])


@pytest.mark.parametrize(
  ("fields", "said"),
  [
    ({"kind": Sowing}, "a layer of Decoder writes to losses, a collection that nobody reads"),
    ({"kind": Late}, "the report 'late' comes in a step and was not announced"),
    ({"kind": Early, "objective": fdl.Config(Deaf)}, "the report 'early' was announced and"),
    ({"kind": Remembering}, "a variable of Remembering begins as something computed|of Block"),
    (
      {"kind": Counting, "objective": fdl.Config(Forgetful)},
      r"Forgetful.loss hands on other variables than the state has \(calls\)",
    ),
    ({"step": fdl.Config(Untold)}, "the statistic 'untold' comes in a step and was not"),
    ({"step": fdl.Config(Silent)}, "the statistic 'promised' was announced and does not come"),
    ({"step": fdl.Config(Taken)}, "'loss' is logged by the NextToken and by the step"),
    (
      {
        "objective": fdl.Config(
          WithReports, objective=fdl.Config(NextToken), weights={"earli": 1.0}
        ),
        "kind": Early,
      },
      "objective.weights names 'earli', which no layer reports: did you mean early",
    ),
  ],
  ids=lambda x: "" if isinstance(x, str) else "-".join(map(str, x)),
)
def test_what_would_be_lost_without_a_word_is_refused_by_name(fields, said):
  with pytest.raises(UserError, match=said):
    _step(**fields)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Older(NextToken):
  """As objectives were written when `apply` gave the output alone."""

  def loss(self, apply, batch, totals):
    logits = apply(*self.model_inputs(batch))
    return logits.mean(), self.empty_metrics()


class OlderInside(NextToken):
  def loss(self, forward, batch, totals):
    found = super().loss(forward, batch, totals)
    return found.loss, found.metrics


@pytest.mark.parametrize("kind", [Older, OlderInside])
def test_an_objective_of_the_older_form_is_told_in_one_line_what_changed(kind):
  with pytest.raises(UserError, match=f"{kind.__name__}.loss .*return.*Outcome") as error:
    _step(objective=fdl.Config(kind))
  assert "\n" not in str(error.value) and "answer.outcome(loss, metrics)" in str(error.value)


def test_an_auxiliary_loss_is_added_with_its_weight_and_reported_apart():
  losses = {}
  for weight in (0.0, 0.5):
    kind = fdl.Config(NextToken)
    objective = fdl.Config(WithReports, objective=kind, weights={"early": weight})
    config = toy_run.toy_config(objective=objective)
    config.model.block.feed_forward = fdl.Config(Early)
    assembly, state = toy_run.begin(config)
    state, (loss,) = toy_run.take_steps(assembly, state, 1)
    losses[weight] = loss, float(state.metrics.objective.loss.compute())
    assert state.metrics.reports["early"].total == 1.0
  assert losses[0.0][0] == losses[0.0][1] == losses[0.5][1]
  np.testing.assert_allclose(losses[0.5][0], losses[0.0][0] + 0.5, rtol=1e-6)
