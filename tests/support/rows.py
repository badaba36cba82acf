"""Rows of metrics as a run writes them."""

from tsd.observe.metrics import EvaluationRow, UpdateRow


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


ROW = UpdateRow(
    time_s=1_700_000_000.0,
    update=1,
    num_updates=2,
    version=3,
    loss=0.125,
    policy_loss=-0.5,
    value_loss=0.25,
    kl=0.75,
    entropy=1.5,
    grad_norm=2.5,
    ratio_mean=1.25,
    ratio_quantiles=(0.5, 1.0, 2.0),
    explained_variance=None,
    logprob_gap=0.0625,
    reward_mean=-0.125,
    rewards={"task": 0.5, "length": -0.25},
    exact_share=0.375,
    age_mean=0.5,
    ages={"0": 8, "1": 4},
    num_trajectories=64,
    generated_tokens=4096,
    num_refused={"stale": 2},
    tokens_per_s=512.0,
    wait_s=0.5,
    elapsed_s=8.0,
)


EVALUATION = EvaluationRow(when="after", num_done=20, num_problems=20, k=4, mean_at_k=0.25, ci95=(0.125, 0.5))
