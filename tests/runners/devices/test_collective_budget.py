"""A program that exchanges more than its experiment allows is found, with the place it does."""

import pytest

from layers.errors import UserError
from runners.devices.collective_budget import Allowance, violations
from runners.devices.collectives import Collective

FOUND = [
  Collective("all-gather", ("fsdp",), 8, 800, "jit(step)/while/body/closed_call/stack/up/dot"),
  Collective("all-gather", ("fsdp", "tensor"), 1, 900, "jit(step)/head/dot"),
  Collective("all-reduce", ("tensor",), 4, 100, ""),
]
STEP = {"num_layers": 2, "num_microbatches": 2}


def test_within_the_budget_nothing_is_said():
  budget = [
    Allowance(kind="all-gather", axis="fsdp", per_layer=2, per_pass=1),
    Allowance(kind="all-reduce", per_layer=1),
  ]
  assert violations(budget, FOUND, **STEP) == []


def test_what_is_too_many_is_named_with_the_places_that_exchange_most():
  budget = [Allowance(kind="all-gather", axis="fsdp", per_layer=1)]
  assert violations(budget, FOUND, **STEP) == [
    "all-gather along fsdp: 9 a step, 4 allowed: 8 x stack/up/dot; 1 x head/dot"
  ]


def test_an_exchange_without_a_name_is_still_counted():
  assert violations([Allowance(kind="all-reduce")], FOUND, **STEP) == [
    "all-reduce: 4 a step, 0 allowed: 4 x an unnamed place"
  ]


@pytest.mark.parametrize(
  ("fields", "cure"),
  [
    ({"kind": "allgather"}, "did you mean all-gather"),
    ({"kind": "all-gather", "axis": "fdsp"}, "did you mean fsdp"),
  ],
)
def test_a_misspelt_allowance_is_refused(fields, cure):
  with pytest.raises(UserError, match=cure):
    Allowance(**fields)
