"""Rows of metrics as a run writes them."""

from tsd.observe.metrics import UpdateRow


def update_row(number: int, time_s: float, **fields: float) -> UpdateRow:
    return UpdateRow(
        time_s=time_s,
        update=number,
        num_updates=200,
        version=number // 8,
        loss=0.1234,
        policy_loss=-0.0123,
        value_loss=0.111,
        kl=0.00123,
        entropy=1.23,
        grad_norm=0.0999,
        ratio_mean=1.002,
        logprob_gap=None,
        reward_mean=-0.2 + number / 200,
        exact_share=fields.get("exact_share", number / 200),
        age_mean=0.4,
        num_trajectories=32 * number,
        generated_tokens=10_000 * number,
        num_refused={"stale": 3, "invalid": 1},
        tokens_per_s=12_345.0,
        wait_s=0.3,
        elapsed_s=5.0 * number,
    )
