"""The methods there are, each with the settings that it alone has: a union that `kind` tells apart.

A method is what the generators do with a problem, and what the trainer makes of it: see `tsd.methods`.
"""

from typing import Literal

from msgspec import Struct

from tsd.config.numbers import Count, NotNegative, Share, Whole


class IndexConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="index"):
    """[method] kind = "index": search by index, one new step from the state that promises most solutions per token."""

    agents: Count = 16
    """Coroutines that search one tree together, at most."""
    max_tokens: Count = 880
    """A tree's budget, in generated tokens."""
    solutions: Whole = 3
    """End a tree when so many paths solve the problem; 0 goes on to the end of the budget."""
    give_up: Share = 0.0
    """End a tree when nothing in it promises more than this share of the solutions per token that a new problem does; 0
    goes on to the end of the budget."""
    learn_from: Literal["all", "solved"] = "all"
    """Trees that the policy learns from; V learns from all. Where most trees have no solution, "solved" keeps near
    misses and what V says of them from being most of what is learned."""


class PuctConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="puct"):
    """[method] kind = "puct": the published search, K samples of a state at once, of which pUCT chooses by Q and
    visits. The most visited path is learned from."""

    agents: Count = 16
    """Coroutines that search one tree together."""
    num_samples: Count = 4
    """K: steps sampled in one expansion."""
    simulations: Count = 64
    """A tree's budget, over all its agents."""
    max_tokens: Whole = 0
    """A tree's budget in generated tokens; 0 for none."""
    solutions: Whole = 1
    """End a tree when so many paths solve the problem; 0 goes on to the end of the budget."""
    c_puct: NotNegative = 1.5
    """Weight of the exploration term."""
    virtual_loss: NotNegative = 0.0
    """Visits lost at the worst reward that a visit in flight counts as; 0 lets it count as a visit alone (WU-UCT)."""
    prior: Literal["multiplicity", "softmax", "length-normalised"] = "multiplicity"
    """How the K samples become a prior: how often each was drawn; or times its probability, as published, or the
    probability of one of its tokens."""


class GroupsConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="groups"):
    """[method] kind = "groups": a group of samples of each problem, of which each is compared with the others (GRPO's
    way, and CISPO's)."""

    num_samples: Count = 16
    """Samples of one problem, all learned from."""
    max_tokens: Whole = 0
    """End a group when so many tokens were generated, as a tree ends; 0 for no such end."""
    solutions: Whole = 0
    """End a group when so many samples solve the problem, as a tree ends; 0 for no such end."""


class BestOfConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="best-of-n"):
    """[method] kind = "best-of-n": many samples of each problem, of which the best is learned from."""

    num_samples: Count = 64
    """Samples of one problem."""


MethodConfig = IndexConfig | PuctConfig | GroupsConfig | BestOfConfig
"""What [method] may be."""


def kind(config: Struct) -> str:
    """What a configuration's `kind` says."""
    return str(config.__struct_config__.tag)
