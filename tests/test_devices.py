"""The `--gpus` grammar, the machine's GPUs and the plan."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsd.config import Config, load_config
from tsd.config.devices import Placement, bind, parse_gpus, visible_gpus
from tsd.run.plan import generator_memory, make_plan, model_size, render_plan, trainer_memory

ALL_GPUS = "0-5:gen,6-7:train"


@pytest.mark.parametrize(
    ("spec", "gen", "train"),
    [
        (ALL_GPUS, ("0", "1", "2", "3", "4", "5"), ("6", "7")),
        ("cpu:gen,cpu:train", ("cpu",), ("cpu",)),
        ("cpu:gen,cpu:gen,cpu:train,cpu:train", ("cpu", "cpu"), ("cpu", "cpu")),
        ("0,2-3:gen, 5:train", ("0", "2", "3"), ("5",)),
        ("1:train,0:gen", ("0",), ("1",)),
        ("0:gen,cpu:train", ("0",), ("cpu",)),
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
    ],
)
def test_a_bad_spec_is_refused_with_position_and_example(spec: str, position: int, problem: str) -> None:
    with pytest.raises(ValueError, match=f"character {position}: ") as refusal:
        parse_gpus(spec)
    assert problem in str(refusal.value)
    assert "for example 0-5:gen,6-7:train" in str(refusal.value)


@given(st.text("0123456789-,: cpugentrai", max_size=30))
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
    assert size.cached_per_token == 2 * 4 * 2 * 32  # keys and values, layers, heads, head size
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
    assert trainer_memory(config, size).columns == (6e9, 6e9, 12e9, 6e9, 0.0, 30e9)
    assert trainer_memory(_config("loss.c_kl=0.0"), size).reference == 0.0
    assert generator_memory(config, size).weights == 3e9
    assert generator_memory(_config("engine.kind=vllm", "model.dtype=float32"), size).weights == 6e9
    assert generator_memory(_config("engine.kind=torch", "engine.cache_mb=100"), size).cache == 1e8
