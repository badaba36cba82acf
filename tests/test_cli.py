"""The commands as a user meets them: help, one-line errors with exit codes, JSON that is JSON."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from tests.support.command import tsd
from tsd.cli.app import app
from tsd.solve.show import COLUMNS

COMMANDS = (
    *("launch", "eval", "solve", "bench-search", "soak", "warmstart", "calibrate", "keys", "data"),
    *("serve", "tree", "watch", "export", "report", "doctor", "bugreport", "config", "scale"),
)
MODEL = "builtin:countdown-tiny"
LINES = '{"input":[2,3],"target":6}\n\n{"input":[5,13,5,9],"target":31}\n'


def problems_of(path: Path) -> list[tuple[tuple[int, ...], int]]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [(tuple(sorted(line["input"])), line["target"]) for line in lines]


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert tsd("--help") == 0
    listed = capsys.readouterr().out
    assert len(app.registered_commands) == len(COMMANDS)
    assert all(f" {command} " in listed for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help_with_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert tsd(command, "--help") == 0
    text = " ".join(capsys.readouterr().out.split())
    assert f"Examples: • tsd {'data' if command == 'eval' else command}" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("eval", "--model", "/nowhere", "--data", "x.jsonl"), "error: model.path: expected a Hugging Face model"),
        (("eval", "--model", MODEL, "--data", "/nowhere.jsonl"), "error: cannot read /nowhere.jsonl: No such file"),
        (("eval", "--model", MODEL, "--data", "x", "--temperature", "-1"), "evaluate.temperature"),
        (("eval", "--model", MODEL, "--data", "x", "--top-p", "0"), "evaluate.top_p"),
        (("eval", "--model", MODEL, "--data", "x", "--top-p", "0.9", "--search"), "error: --top-p: search samples the"),
        (("eval", "--model", MODEL, "--data", "x", "--set", "evaluate.kk=1"), "unknown field `kk`"),
        (("solve", "5 13 5 = x"), "or 5 13 5 9 = 31, found '5 13 5 = x'"),
        (("solve", "5 13 5 9 = 31", "--resume", "/nowhere.json"), "error: cannot read /nowhere.json: No such file"),
        (("solve", "5 13 5 9 = 31", "--resume", "/etc/hostname"), "is no tree that `tsd solve --tree` wrote"),
        (("bench-search", "--agents", "1,x"), "error: --agents '1,x': expected a number from 1 up"),
        (("bench-search", "--trees", "0"), "error: --trees '0': expected a number from 1 up"),
        (("bench-search", "--set", "search.agent=1"), "unknown field `agent`"),
        (("data", "--out", "/nowhere", "--numbers", "9"), "$.task.num_numbers[0]"),
        (("data", "--out", "/nowhere", "--numbers", "2"), "train problems of (2,) numbers, not 20000"),
        (("warmstart", "--out", "/proc/self/status"), "--out /proc/self/status: there is something already"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tsd(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("arguments", [("eval",), ("data", "--out"), ("bench-search", "--engine", "magic"), ("evil",)])
def test_misuse_has_exit_code_2(arguments: tuple[str, ...]) -> None:
    assert tsd(*arguments) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (LINES + '{"input":[5]}\n', r"problems.jsonl:4: expected"),
        (LINES + "\x00\n", r"problems.jsonl:4: expected"),
        ('{"input":[5,"6"],"target":3}\n', r"problems.jsonl:1: expected"),
        ("", "problems.jsonl: no problem in it"),
        ("\n\n", "problems.jsonl: no problem in it"),
    ],
)
def test_a_bad_line_is_named_by_file_and_number(
    content: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "problems.jsonl"
    path.write_text(content)
    assert tsd("eval", "--model", MODEL, "--data", str(path)) == 2
    assert message in capsys.readouterr().err


def test_bytes_that_are_no_text_are_named_by_line_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "problems.jsonl"
    path.write_bytes(LINES.encode() + b"\xff\xfe\n")
    assert tsd("eval", "--model", MODEL, "--data", str(path)) == 2
    assert "problems.jsonl:4: 'utf-8' codec" in capsys.readouterr().err


def evaluated(tmp_path: Path, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[str, str]:
    path = tmp_path / "problems.jsonl"
    path.write_text(LINES)
    assert tsd("eval", "--model", MODEL, "--data", str(path), "--k", "2", *options) == 0
    out, err = capsys.readouterr()
    return out, err


def test_eval_measures_a_model_on_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, err = evaluated(tmp_path, capsys, "--json")
    result: dict[str, Any] = json.loads(out)
    assert (result["k"], result["num_problems"], result["temperature"]) == (2, 2, 0.8)
    assert 0 <= result["ci95"][0] <= result["mean_at_k"] <= result["pass_at_k"] <= 1
    assert 0 < result["generated_tokens"] <= 2 * 2 * 200
    assert err.splitlines()[-1].startswith("2/2 problems  mean@2 ")


def test_eval_can_stop_after_some_problems_and_speak_plainly(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, _ = evaluated(tmp_path, capsys, "--limit", "1", "--temperature", "1")
    assert [line.split("  ")[0] for line in out.splitlines()] == [
        "mean@2",
        "pass@2",
        "legal answers",
        "mean reward",
        "temperature",
        "generated",
    ]
    assert "95% over 1 problems" in out


def test_a_fault_while_evaluating_is_one_line_with_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "problems.jsonl"
    path.write_text(LINES)
    assert tsd("eval", "--model", MODEL, "--data", str(path), "--set", "engine.max_sequences=8") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: expected 1 to 255 state tokens and at most 8 samples, found")


def test_a_nucleus_of_one_token_is_the_likeliest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(evaluated(tmp_path, capsys, "--top-p", "0.0001", "--json")[0])
    greedy = json.loads(evaluated(tmp_path, capsys, "--temperature", "0", "--json")[0])
    assert (found["top_p"], greedy["top_p"]) == (0.0001, 1)
    assert found["generated_tokens"] == greedy["generated_tokens"]
    out, _ = evaluated(tmp_path, capsys, "--top-p", "0.5")
    assert "temperature    0.8, top-p 0.5\n" in out


def test_at_temperature_0_every_sample_is_the_likeliest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    greedy = [json.loads(evaluated(tmp_path, capsys, "--temperature", "0", "--json")[0]) for _ in range(2)]
    assert greedy[0]["mean_at_k"] == greedy[0]["pass_at_k"]
    assert greedy[0]["generated_tokens"] == greedy[1]["generated_tokens"]
    assert greedy[0]["temperature"] == 0


def test_bench_search_prints_rows_as_json_or_as_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    options = ("bench-search", "--engine", "null", "--agents", "1,4", "--simulations", "40", "--seed", "3")
    assert tsd(*options, "--json") == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [(row["engine"], row["agents"], row["trees"], row["num_simulations"], row["seed"]) for row in rows] == [
        ("null", 1, 1, 40, 3),
        ("null", 4, 1, 40, 3),
    ]
    assert tsd(*options) == 0
    table = capsys.readouterr().out
    assert all(title in table for title, _ in COLUMNS.values())
    assert "Recommended: " in table


def test_data_writes_disjoint_files_in_the_published_form(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "problems"
    sizes = {"train": 300, "validation": 40, "heldout": 30}
    options = [text for split, size in sizes.items() for text in (f"--{split}", str(size))]
    assert tsd("data", "--out", str(out), "--numbers", "3,4", *options) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{out}/{split}.jsonl: {size} problems" for split, size in sizes.items()
    ]
    found = {split: problems_of(out / f"{split}.jsonl") for split in sizes}
    assert {split: len(set(problems)) for split, problems in found.items()} == sizes
    assert len(set().union(*found.values())) == sum(sizes.values())
    assert {len(numbers) for numbers, _ in found["train"]} == {3, 4}
    assert set(json.loads((out / "train.jsonl").read_text().splitlines()[0])) == {"input", "target"}


def test_data_overwrites_only_when_told_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "heldout.jsonl").write_text("mine")
    options = ("data", "--out", str(tmp_path), "--train", "20", "--validation", "5", "--heldout", "5")
    assert tsd(*options) == 2
    assert f"{tmp_path}/heldout.jsonl exist already; --force overwrites" in capsys.readouterr().err
    assert not (tmp_path / "train.jsonl").exists()
    assert (tmp_path / "heldout.jsonl").read_text() == "mine"
    assert tsd(*options, "--force") == 0
    assert len(problems_of(tmp_path / "heldout.jsonl")) == 5


def test_warmstart_makes_a_model_that_loads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "tiny"
    assert tsd("warmstart", "--out", str(out), "--steps", "1", "--threads", "1") == 0
    assert capsys.readouterr().out.startswith("step 1/1  loss ")
    assert AutoModelForCausalLM.from_pretrained(str(out)).config.model_type == "qwen2"
    assert tsd("warmstart", "--out", str(out), "--steps", "1") == 2


def test_warmstart_makes_models_of_other_sizes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "tinier"
    assert tsd("warmstart", "--out", str(out), "--steps", "1", "--layers", "2", "--width", "64", "--threads", "1") == 0
    config = AutoModelForCausalLM.from_pretrained(str(out)).config
    assert (config.num_hidden_layers, config.hidden_size) == (2, 64)
    assert tsd("warmstart", "--out", str(tmp_path / "odd"), "--width", "100") == 2
    assert "expected a multiple of 8" in capsys.readouterr().err


def test_solve_prints_the_best_path_and_writes_a_tree_that_can_be_gone_on_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree, problem = tmp_path / "tree.json", "5 13 5 9 = 1000"
    options = ("--engine", "mock", "--tree", str(tree), "--json")
    assert tsd("solve", problem, "--tokens", "200", *options) == 0
    first = json.loads(capsys.readouterr().out)
    assert (first["ended_by"], first["grade"]["exact"]) == ("tokens", False)
    assert first["generated_tokens"] >= 200
    assert first["steps"][-1].endswith("</answer>")
    saved = json.loads(tree.read_text())
    assert len(saved["nodes"]) == first["num_nodes"]
    assert saved["nodes"][1]["text"].startswith("<step>")
    assert tsd("solve", problem, "--tokens", "400", "--resume", str(tree), *options) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["generated_tokens"] >= 400
    assert again["num_nodes"] > first["num_nodes"]
    assert tsd("solve", "5 13 5 9 = 7", "--resume", str(tree), *options) == 2
    assert "the saved tree is of another problem or model" in capsys.readouterr().err


def test_solve_searches_with_a_real_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert tsd("solve", "2 3 4 5 = 14", "--tokens", "2000") == 0
    text = capsys.readouterr().out
    assert "solved; search ended by: solved" in text
    assert "<answer>" in text
