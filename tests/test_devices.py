"""The `--gpus` grammar, the machine's GPUs and the plan."""

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tsd.config import Config, load_config
from tsd.config.devices import Placement, bind, parse_gpus, visible_gpus
from tsd.engine import engine_model, make_engine
from tsd.run.plan import Memory, Plan, fitting, generator_memory, make_plan, model_size, render_plan, trainer_memory

ALL_GPUS = "0-5:gen,6-7:train"
CONFIGS = Path(__file__).parent.parent / "configs"
CARD = 80e9
"""Less than a GPU of 80 GB has."""


@pytest.mark.parametrize(
    ("spec", "gen", "train"),
    [
        (ALL_GPUS, ("0", "1", "2", "3", "4", "5"), ("6", "7")),
        ("cpu:gen,cpu:train", ("cpu",), ("cpu",)),
        ("cpu:gen,cpu:gen,cpu:train,cpu:train", ("cpu", "cpu"), ("cpu", "cpu")),
        ("0,2-3:gen, 5:train", ("0", "2", "3"), ("5",)),
        ("1:train,0:gen", ("0",), ("1",)),
        ("0:gen,cpu:train", ("0",), ("cpu",)),
        ("0+1:gen,2:train", ("0+1",), ("2",)),
        ("0+1,2 + 3:gen,4-5:train", ("0+1", "2+3"), ("4", "5")),
    ],
)
def test_a_spec_places_devices(spec: str, gen: tuple[str, ...], train: tuple[str, ...]) -> None:
    assert parse_gpus(spec) == Placement(gen, train)


@pytest.mark.parametrize(
    ("spec", "position", "problem"),
    [
        ("", 1, "expected cpu"),
        ("0-5:gem,6-7:train", 5, "expected gen or train, found 'gem'"),
        ("0-5:gen,x:train", 9, "found 'x'"),
        ("0:gen, 5-2:train", 8, "backwards"),
        ("0:gen,3:train,3:train", 15, "GPU 3 has two trainers"),
        ("0:gen,1:train,2", 16, "expected :gen or :train"),
        ("0:gen", 6, "no device has the role train"),
        ("0:gen,1:train,cpu:train", 24, "all on GPUs or all on the CPU"),
        ("0-99999:gen,1:train", 1, "no machine has a GPU 99999"),
        ("٣:gen,1:train", 1, "expected cpu"),
        ("0+0:gen,1:train", 1, "a GPU stands twice in 0+0"),
        ("0+cpu:gen,1:train", 1, "expected a GPU's number on each side of +, found 'cpu'"),
        ("0+:gen,1:train", 1, "on each side of +, found ''"),
        ("0-1+2:gen,3:train", 1, "on each side of +, found '0-1'"),
        ("0+1,1+2:gen,3:train", 5, "GPU 1 is part of two generators"),
        ("0:gen,1+2:train", 7, "trainers split the model by themselves; write 1,2"),
        ("0+1:gen,2:gen,3:train", 9, "expected as many GPUs as the generator on 0+1 has, found 2"),
    ],
)
def test_a_bad_spec_is_refused_with_position_and_example(spec: str, position: int, problem: str) -> None:
    with pytest.raises(ValueError, match=f"character {position}: ") as refusal:
        parse_gpus(spec)
    assert problem in str(refusal.value)
    assert "for example 0-5:gen,6-7:train" in str(refusal.value)


@given(st.text("0123456789-+,: cpugentrai", max_size=30))
@example("0:gen,0:train")
def test_any_text_is_a_placement_or_a_refusal(spec: str) -> None:
    try:
        placement = parse_gpus(spec)
    except ValueError:
        return
    assert placement.gen
    assert placement.train
    assert len(set(placement.gpus)) == len(placement.gpus)


def test_gpus_are_those_the_environment_leaves_visible() -> None:
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "4, 6"}) == ("4", "6")
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": ""}) == visible_gpus({"CUDA_VISIBLE_DEVICES": "-1"}) == ()


def test_a_placement_is_bound_to_the_visible_gpus() -> None:
    assert bind(parse_gpus("0:gen,1:train"), ("4", "6")) == Placement(("4",), ("6",))
    assert bind(parse_gpus("0+2:gen,1:train"), ("4", "6", "7")) == Placement(("4+7",), ("6",))
    assert bind(parse_gpus("cpu:gen,cpu:train"), ()) == Placement(("cpu",), ("cpu",))


def test_a_machine_without_gpus_is_told_what_to_run_instead() -> None:
    with pytest.raises(ValueError, match=r"has no GPUs.* tsd launch --gpus cpu:gen,cpu:train"):
        bind(parse_gpus(ALL_GPUS), ())


def test_a_gpu_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match="asks for GPU 4, and this machine shows 4: 0-3"):
        bind(parse_gpus("0-4:gen,5:train"), ("0", "1", "2", "3"))


def _config(*overrides: str) -> Config:
    return load_config(None, ["model.path=/nowhere/Qwen2.5-1.5B-Instruct", "model.dtype=bfloat16", *overrides])


def test_the_plan_names_every_process_its_device_and_memory() -> None:
    config = _config("engine.kind=vllm", "train.batch_size=32")
    text = render_plan(make_plan(config, parse_gpus(ALL_GPUS), Path("runs/x")))
    lines = text.splitlines()
    assert [line.split()[:3] for line in lines if line.startswith(("generator-", "trainer-"))] == [
        *([f"generator-{i}", "GPU", f"{i}"] for i in range(6)),
        *([f"trainer-{i}", "GPU", f"{i + 6}"] for i in range(2)),
    ]
    for word in ("estimate from 1.5B", "runs/x", "sockets", "32 trajectories", "optimizer", "gradients", "KV cache"):
        assert word in text
    assert max(map(len, lines)) <= 100


def test_a_models_size_comes_from_its_config_file() -> None:
    size = model_size(Config())
    assert 0.7e6 < size.num_parameters < 0.9e6
    assert size.shape.cached_per_token == 2 * 4 * 2 * 32  # keys and values, layers, heads, head size
    assert "config.json" in size.source


def test_a_broken_config_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"hidden_size": 8}')
    with pytest.raises(ValueError, match=rf"{tmp_path}.*config\.json"):
        model_size(load_config(None, [f"model.path={tmp_path}"]))


@pytest.mark.parametrize("name", ["no-size-here", "v1.5", "7Beta"])
def test_a_model_of_unknown_size_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"no size such as 1\.5B"):
        model_size(load_config(None, [f"model.path=/nowhere/{name}"]))


def test_memory_follows_the_engines_precision_and_the_trainers_own() -> None:
    config = _config("engine.kind=vllm")
    size = model_size(config)
    count = size.num_parameters
    weights, gradients, optimizer, copies, activations, cache, total = trainer_memory(config, size).columns
    assert (weights, gradients, optimizer, copies, cache) == (4 * count, 4 * count, 8 * count, 8 * count, 0)
    assert total == 24 * count + activations
    assert trainer_memory(_config("loss.c_kl=0.0"), size).copies == 4 * count
    assert trainer_memory(_config("train.lora_rank=8"), size).optimizer == 0
    assert generator_memory(config, size).weights == 2 * count
    assert generator_memory(_config("engine.kind=vllm", "model.dtype=float32"), size).weights == 4 * count
    assert generator_memory(_config("engine.kind=torch", "engine.cache_mb=100"), size).cache == 1e8


@pytest.mark.parametrize(
    ("size", "count"), [("0.5B", 0.494e9), ("1.5B", 1.544e9), ("7B", 7.616e9), ("14B", 14.770e9), ("32B", 32.764e9)]
)
def test_a_model_known_by_name_alone_has_its_familys_shape(size: str, count: float) -> None:
    """As many parameters as the model's page says, but for norms and biases."""
    found = model_size(load_config(None, [f"model.path=/nowhere/Qwen2.5-{size}-Instruct"]))
    assert found.num_parameters == pytest.approx(count, rel=1e-3)


def test_memory_of_an_update_is_no_less_than_was_seen_on_a_gpu() -> None:
    """tools/results/gpu-h100.json: 1.5B's shape, 4,096 tokens, without a KL term and a published copy."""
    for checkpointing, seen_gib in (("true", 24.0), ("false", 35.2)):
        setting = f"train.activation_checkpointing={checkpointing}"
        config = _config(setting, "train.micro_batch_tokens=4096", "loss.c_kl=0.0")
        memory = trainer_memory(config, model_size(config))
        assert seen_gib <= (memory.columns[-1] - memory.copies) / 2**30 <= 1.3 * seen_gib


def _plan(spec: str, *overrides: str) -> Plan:
    return make_plan(_config("engine.kind=vllm", *overrides), parse_gpus(spec), Path("runs/x"))


def test_a_generator_over_two_gpus_has_half_of_weights_and_cache_on_each() -> None:
    one, two = (_plan(spec).processes[0].memory for spec in ("0:gen,2:train", "0+1:gen,2:train"))
    assert (two.weights, two.cache) == (one.weights / 2, one.cache / 2)
    plan = _plan("0+1:gen,2:train")
    assert plan.needs["0"] == plan.needs["1"] == two.columns[-1]
    assert "generator-0  GPU 0+1" in render_plan(plan)
    assert "what it needs on each of its GPUs" in render_plan(plan)
    assert max(map(len, render_plan(plan).splitlines())) <= 100


def test_what_shares_a_gpu_adds_up() -> None:
    plan = _plan("0+1:gen,0-1:train")
    generator, trainer, _ = (planned.memory for planned in plan.processes)
    assert plan.needs["0"] == plan.needs["1"] == generator.columns[-1] + trainer.columns[-1]
    assert generator.cache == 512e6, "engine.cache_mb"
    assert "GPU 1 is shared by generator-0 and trainer-1" in render_plan(plan)


def test_trainers_split_all_that_stays() -> None:
    def stays(memory: Memory) -> float:
        return memory.weights + memory.gradients + memory.optimizer + memory.copies

    one, two = (_plan(spec).processes[-1].memory for spec in ("0:gen,2:train", "0:gen,2-3:train"))
    assert stays(two) == stays(one) / 2
    assert two.activations > one.activations, "layers gathered for their pass"


def _with_heads(directory: Path, num_heads: int) -> str:
    (directory / "config.json").write_text(
        '{"hidden_size": 896, "num_hidden_layers": 2, "intermediate_size": 64, "vocab_size": 100, '
        f'"num_attention_heads": 28, "num_key_value_heads": {num_heads}}}'
    )
    return f"model.path={directory}"


@pytest.mark.parametrize(
    ("spec", "kind", "num_heads", "said"),
    [
        ("0+1+2:gen,3:train", "vllm", 4, r"expected 1 or 2 or 4 GPUs .* with 4 key/value heads"),
        ("0+1:gen,2:train", "vllm", 7, r"expected 1 GPUs .* with 7 key/value heads"),
        ("0+1:gen,2:train", "torch", 4, r"engine\.kind vllm alone takes several GPUs, found torch"),
    ],
)
def test_a_generator_that_cannot_be_split_so_is_refused(
    spec: str, kind: str, num_heads: int, said: str, tmp_path: Path
) -> None:
    config = load_config(None, [_with_heads(tmp_path, num_heads), f"engine.kind={kind}"])
    with pytest.raises(ValueError, match=said):
        make_plan(config, parse_gpus(spec), Path("runs/x"))


def test_the_engine_is_told_how_many_gpus_are_its_own() -> None:
    config = load_config(None, ["engine.kind=vllm", "gpus=0+1:gen,2:train"])
    engine = make_engine(config, engine_model(config), temperature=1.0, seed=0).engine
    assert (engine.num_gpus, engine.shares_gpu) == (2, False)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["countdown-qwen2.5-1.5b", "countdown-qwen2.5-7b", "countdown-qwen2.5-14b"])
def test_the_configurations_for_eight_gpus_fit_on_them(name: str) -> None:
    config = load_config(CONFIGS / f"{name}.toml")
    plan = make_plan(config, parse_gpus(config.gpus), Path("runs/x"))
    assert sorted(plan.needs) == [str(number) for number in range(8)]
    assert max(plan.needs.values()) < CARD


def test_what_does_not_fit_comes_with_what_would() -> None:
    config = load_config(CONFIGS / "countdown-qwen2.5-14b.toml")
    assert max(make_plan(config, parse_gpus("0-3:gen,4-7:train"), Path()).needs.values()) > CARD
    spec = fitting(config, 8, CARD)
    assert max(make_plan(config, parse_gpus(spec), Path()).needs.values()) < CARD
    assert fitting(config, 1, CARD) == fitting(config, 8, 24e9) == ""
    assert fitting(load_config(None, ["engine.kind=vllm"]), 1, CARD) == "0:gen,0:train"
