"""The policy losses there are, each with the settings that it alone has, and what all of them share."""

from msgspec import Struct

from tsd.config.numbers import NotNegative, Positive, Share


class Loss(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """[loss]: L = L_policy + c_value * L_value + c_kl * KL(policy || reference)."""

    c_value: NotNegative = 1.0
    """Weight of the value loss."""
    value_reaches_trunk: bool = False
    """Whether the value loss also trains the model below the value head. On the tiny model its gradient drowns the
    policy's; the published system has it on."""
    c_kl: NotNegative = 0.02
    """Weight of the KL term, of which k3 is the estimator; 0 spares the reference model."""


class CispoConfig(Loss, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="cispo"):
    """[loss] kind = "cispo": the ratio is a weight with a ceiling, and every token keeps its gradient."""

    max_ratio: Positive = 5.0
    """The ratio's ceiling (eps_high)."""


class PpoConfig(Loss, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="ppo"):
    """[loss] kind = "ppo": a token whose ratio has moved too far has no gradient."""

    clip_low: Share = 0.2
    """The ratio is clipped below at 1 - clip_low."""
    clip_high: NotNegative = 0.2
    """The ratio is clipped above at 1 + clip_high."""


LossConfig = CispoConfig | PpoConfig
"""What [loss] may be."""
