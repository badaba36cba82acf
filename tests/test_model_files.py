"""A model is looked over before it is used: what is not whole is one line that names the file and its tensors."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.support.command import tsd
from tests.support.engines import CASES, CONFIG, make_model
from tsd.config import Config, save_config
from tsd.engine.vllm_start import start_engine
from tsd.learn.checkpoint import CHECKSUM_FILE, TrainState, save_checkpoint
from tsd.learn.policy_learner import PolicyLearner, load_policy
from tsd.learn.ranks import Ranks
from tsd.model.files import INDEX_FILE, VALUE_HEAD_FILE, WEIGHTS_FILE, model_path
from tsd.model.policy import Policy

NORM, EMBEDDING = "model.norm.weight", "model.embed_tokens.weight"
Tensors = dict[str, Tensor]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Path(shutil.copytree(model_path("builtin:countdown-tiny"), tmp_path / "model"))


def change(path: Path, how: Callable[[Tensors], object]) -> None:
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    how(tensors)
    path.unlink()  # it may still be mapped
    save_file(tensors, path, {"format": "pt"})


def set_one(name: str, value: float) -> Callable[[Tensors], object]:
    return lambda tensors: tensors[name].view(-1)[-1:].fill_(value)


def no_layer(tensors: Tensors) -> None:
    for name in [name for name in tensors if name.startswith("model.layers.3.")]:
        del tensors[name]


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


DAMAGES: tuple[tuple[Callable[[Path], object], str], ...] = (
    (lambda m: cut(m / WEIGHTS_FILE, 0), r"model\.safetensors of 0 bytes is cut or damaged"),
    (lambda m: cut(m / WEIGHTS_FILE, 5), r"model\.safetensors of 5 bytes is cut or damaged"),
    (lambda m: cut(m / WEIGHTS_FILE, 999), r"model\.safetensors of 999 bytes is cut or damaged"),
    (lambda m: cut(m / WEIGHTS_FILE, 3_000_000), r"model\.safetensors of 3,000,000 bytes is cut or damaged"),
    (lambda m: (m / WEIGHTS_FILE).write_text("version https://git-lfs"), r"model\.safetensors of 23 bytes is cut"),
    (lambda m: (m / WEIGHTS_FILE).unlink(), r"model\.safetensors is missing"),
    (lambda m: (m / WEIGHTS_FILE).rename(m / INDEX_FILE), r"model\.safetensors\.index\.json is no index of tensors"),
    (lambda m: change(m / WEIGHTS_FILE, lambda t: t.pop(NORM)), r"model\.safetensors lacks model\.norm\.weight;"),
    (
        lambda m: change(m / WEIGHTS_FILE, no_layer),
        r"lacks model\.layers\.3\.input_layernorm\.weight, \S+, \S+ and 9 more;",
    ),
    (
        lambda m: change(m / WEIGHTS_FILE, lambda t: t.update(gate=torch.ones(1))),
        r"model\.safetensors holds gate, which config\.json has no place for;",
    ),
    (
        lambda m: change(m / WEIGHTS_FILE, lambda t: t.update({NORM: torch.ones(64)})),
        r"does not fit config\.json: it holds model\.norm\.weight of shape \[64\], not \[128\];",
    ),
    (lambda m: change(m / WEIGHTS_FILE, set_one(NORM, float("nan"))), r"NaN or infinite, in model\.norm\.weight;"),
    (lambda m: change(m / WEIGHTS_FILE, set_one(EMBEDDING, float("-inf"))), r"or infinite, in model\.embed_tokens"),
    (lambda m: cut(m / VALUE_HEAD_FILE, 100), r"value_head\.safetensors of 100 bytes is cut or damaged"),
    (
        lambda m: change(m / VALUE_HEAD_FILE, lambda t: t.pop("value_head.out.bias")),
        r"value_head\.safetensors lacks value_head\.out\.bias;",
    ),
    (
        lambda m: change(m / VALUE_HEAD_FILE, set_one("value_head.out.weight", float("nan"))),
        r"value_head\.safetensors holds numbers that are NaN or infinite, in value_head\.out\.weight;",
    ),
    (lambda m: cut(m / "config.json", 40), r"config\.json cannot be read"),
)


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
def test_a_model_that_is_not_whole_is_one_line_with_file_tensors_and_remedy(
    damage: Callable[[Path], object], message: str, model: Path
) -> None:
    damage(model)
    line = rf"^model\.path: cannot load the model in {model}: .*{message}"
    with pytest.raises(ValueError, match=line) as found:
        Policy.load(model)
    assert "copy or download the model again, or name another" in str(found.value)
    assert len(str(found.value).splitlines()) == 1


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_models_as_others_write_them_are_whole(case: object, tmp_path: Path) -> None:
    """Tied and not, sharded and not, with a value head and without; with what old ones hold beside their tensors."""
    make_model(case, tmp_path)  # type: ignore[arg-type]
    for path in tmp_path.glob("model*.safetensors"):
        change(path, lambda tensors: tensors.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}))
    assert NORM in Policy.look_over(tmp_path)


def test_a_tied_models_output_layer_may_be_there_a_second_time(model: Path) -> None:
    change(model / WEIGHTS_FILE, lambda tensors: tensors.update({"lm_head.weight": tensors[EMBEDDING].clone()}))
    Policy.load(model)


def test_a_shard_that_is_missing_is_named(tmp_path: Path) -> None:
    make_model(CASES[1], tmp_path)
    shard = sorted(tmp_path.glob("model-*.safetensors"))[-1]
    shard.unlink()
    with pytest.raises(ValueError, match=f"{shard.name} is missing; copy or download the model again"):
        Policy.load(tmp_path)


def test_commands_refuse_it_with_exit_code_2(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(model / WEIGHTS_FILE, lambda tensors: tensors.pop(NORM))
    (model.parent / "x.jsonl").write_text('{"input":[2,3],"target":6}\n')
    for command in (("solve", "2 3 = 6"), ("eval", "--data", str(model.parent / "x.jsonl"))):
        assert tsd(*command, "--model", str(model)) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: model.path: cannot load the model in {model}: model.safetensors lacks")


def test_vllm_is_not_given_it(model: Path) -> None:
    change(model / WEIGHTS_FILE, set_one(NORM, float("nan")))
    with pytest.raises(ValueError, match="NaN or infinite"):
        start_engine(
            model,
            CONFIG,
            temperature=1.0,
            dtype="float32",
            head_dtype="float32",
            seed=0,
            shares_gpu=False,
            stops=("</step>", "</answer>"),
        )


@pytest.mark.parametrize("lora_rank", [0, 2])
def test_a_checkpoint_without_its_value_head_is_refused_wherever_it_is_loaded(lora_rank: int, tmp_path: Path) -> None:
    """Also one from before there were checksums."""
    start = model_path(Config().model.path)
    save_config(Config(), tmp_path / "config.toml")
    checkpoint = save_checkpoint(tmp_path, TrainState(update=7), PolicyLearner(Config(), start, None, Ranks()).save)
    (checkpoint / VALUE_HEAD_FILE).unlink()
    (checkpoint / CHECKSUM_FILE).unlink()
    with pytest.raises(ValueError, match=r"value_head\.safetensors is missing"):
        load_policy(start, checkpoint, lora_rank)
    assert tsd("export", str(tmp_path), "--out", str(tmp_path / "out")) == 2
    assert not (tmp_path / "out").exists()


def test_a_plain_model_needs_no_value_head(model: Path) -> None:
    (model / VALUE_HEAD_FILE).unlink()
    assert not Policy.load(model).value_head.out.weight.any()
