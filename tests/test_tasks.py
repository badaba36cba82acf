"""Tasks by name: built in, registered by a package, or in a file of one's own; and word problems."""

import json
from fractions import Fraction
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.support.command import tsd
from tests.support.launching import launched
from tests.support.runs import MOCK, TSD
from tsd.config import TaskConfig, load_config
from tsd.model.files import model_path
from tsd.model.text import HfCodec
from tsd.tasks import make_task
from tsd.tasks.answers import SIGNS, ask
from tsd.tasks.countdown import Countdown
from tsd.tasks.outside import GROUP
from tsd.tasks.questions import EXACT, ILLEGAL, WRONG
from tsd.tasks.words import Words, read_number
from tsd.types import Problem, Split, Task

ROOT = Path(__file__).parent.parent
SPLITS: tuple[Split, ...] = get_args(Split)


class Registered(Countdown):
    """What a package would register."""

    name = "registered"

    def __init__(self, config: TaskConfig) -> None:
        if config.options.get("fails"):
            raise RuntimeError("two\nlines")
        super().__init__(config)


def unfinished(config: TaskConfig) -> object:
    return Problem("no task", "")


NO_TASK = "text"
REGISTERED = [
    EntryPoint(name, f"tests.test_tasks:{of}", GROUP)
    for name, of in (("mine", "Registered"), ("gone", "absent"), ("text", "NO_TASK"), ("half", "unfinished"))
]


def made(name: str, **options: bool) -> Task:
    return make_task(TaskConfig(name=name, options=dict(options)), REGISTERED)


def test_a_task_is_built_in_or_registered() -> None:
    assert made("countdown").name == "countdown"
    assert made("mine").name == "registered"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "mien",
            "expected one of countdown, gone, half, math, mine, reasoning-gym, text, words, or FILE.py:CLASS, found 'm",
        ),
        ("gone", "'gone' cannot be loaded: AttributeError"),
        ("text", r"'text' cannot be loaded: TypeError\('expected a callable, found str'\)"),
        ("half", "'half' cannot be loaded: TypeError.*what it makes has no name, parse, problems, prompt, grade"),
        ("/nowhere/mine.py:Mine", "'/nowhere/mine.py:Mine' cannot be loaded: FileNotFoundError"),
        (f"{__file__}:Absent", "cannot be loaded: AttributeError"),
        (f"{__file__}:", "cannot be loaded: AttributeError"),
    ],
)
def test_a_task_that_cannot_be_is_refused_in_one_line(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=rf"^task\.name: .*{message}") as found:
        made(name)
    assert len(str(found.value).splitlines()) == 1


def test_a_task_that_fails_while_it_is_made_is_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match=r"cannot be loaded: RuntimeError\('two\\nlines'\) at .*test_tasks\.py:\d+$"):
        made("mine", fails=True)


@pytest.mark.parametrize("text", ["def Mine(", "import absent_module", "1 / 0"])
def test_a_file_that_is_no_program_is_refused_in_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(ValueError, match=r"mine\.py:Mine' cannot be loaded: ") as found:
        made(f"{tmp_path}/mine.py:Mine")
    assert len(str(found.value).splitlines()) == 1


def test_a_launch_refuses_an_unknown_task_before_anything_starts(tmp_path: Path) -> None:
    with launched([*TSD, *MOCK, "--set", "task.name=coutdown", "--run-dir", str(tmp_path / "run")]) as run:
        output, _ = run.process.communicate(timeout=50)
    assert run.process.returncode == 2
    assert output.startswith("error: task.name: expected one of countdown, math, reasoning-gym, words")
    assert len(output.splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.timeout(90)
def test_a_package_registers_a_task_for_every_command(tmp_path: Path) -> None:
    """The package is a module and its metadata in a folder of their own."""
    metadata = tmp_path / "package" / "more-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: more\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[{GROUP}]\npairs = more:Pairs\n")
    source = "from tsd.tasks.countdown import Countdown as Pairs\n"
    (tmp_path / "package" / "more.py").write_text(source)
    sizes = ("--train", "30", "--validation", "2", "--heldout", "2", "--numbers", "2", "--out", str(tmp_path / "data"))
    command = ["env", f"PYTHONPATH={tmp_path / 'package'}", *TSD[:-1], "data", *sizes, "--set", "task.name=pairs"]
    with launched(command) as run:
        output, _ = run.process.communicate(timeout=50)
    assert run.process.returncode == 0, output
    lines = (tmp_path / "data" / "train.jsonl").read_text().splitlines()
    assert {len(json.loads(line)["input"]) for line in lines} == {2}


# Word problems


def word_problems(path: Path, count: int = 60) -> Path:
    """Made-up ones, every other in the form of a worked answer."""
    lines = []
    for number in range(count):
        question = f"Ada has {number} shells and finds {2 * number} more. How many has she now?"
        answer = f"She has {number} + {2 * number}.\n#### {3 * number:,}" if number % 2 else f"{3 * number}"
        lines.append(json.dumps({"question": question, "answer": answer, "source": "made up"}))
    path.write_text("\n".join(lines) + "\n\n")
    return path


def words(path: object) -> Words:
    return Words(TaskConfig(name="words", path=str(path)))


def test_the_worked_examples_before_a_problem_are_solutions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    task = make_task(load_config(Path("configs/smollm2-cpu.toml")).task)
    *examples, last = task.prompt(task.parse("2 3 = 6"), "compact").splitlines()
    assert last == "Numbers 2 3, target 6:"
    assert len(examples) == 2
    for asked, answer in (shown.split(":") for shown in examples):
        numbers, target = asked.removeprefix("Numbers ").split(", target ")
        assert task.grade(task.parse(f"{numbers} = {target}"), answer).exact


def test_splits_of_a_file_share_no_problem_and_leave_none_out(tmp_path: Path) -> None:
    task = words(word_problems(tmp_path / "w.jsonl", 400))
    ids = {split: [problem.id for problem in task.problems(split, 999, seed=0)] for split in SPLITS}
    assert sum(map(len, ids.values())) == len(set().union(*ids.values())) == 400
    assert min(map(len, ids.values())) >= 10
    again = [problem.id for problem in task.problems("train", 20, seed=1)]
    assert set(again) < set(ids["train"])
    assert again != ids["train"][:20]


@pytest.mark.parametrize(
    ("text", "grade"),
    [
        ("<answer>1050</answer>", EXACT),
        ("so <answer> $1,050.00 </answer> it is", EXACT),
        ("<answer>7</answer><answer>1050%.</answer>", EXACT),
        ("<answer>1050</answer><answer>1051</answer>", WRONG),
        ("<answer>1050.000001</answer>", WRONG),
        ("<answer>10,50</answer>", ILLEGAL),
        ("<answer>1050 shells</answer>", EXACT),
        ("<answer></answer>", ILLEGAL),
        ("1050", ILLEGAL),
        ("<answer>1050", ILLEGAL),
    ],
)
def test_the_number_in_the_last_answer_is_what_counts(text: str, grade: object, tmp_path: Path) -> None:
    task = words(word_problems(tmp_path / "w.jsonl"))
    problem = task.parse('{"question": "How many?", "answer": "350 * 3\\n#### 1,050"}')
    assert task.grade(problem, text) == grade


@pytest.mark.parametrize("text", ["", "-", "$", "e1", "1/", "--1", "-$-1", "٣", "1,0000", "9" * 61, ".", "nan"])
def test_what_is_no_number_is_not_read_as_one(text: str) -> None:
    assert read_number(text) is None


@given(st.text(max_size=80) | st.text("0123456789,.$%-+ ", max_size=80))
@example("-$5.")
@example("+.5")
def test_reading_a_number_never_raises(text: str) -> None:
    read_number(text)
    read_number(f"-${text}%")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"question": "How many?"}', r"w\.jsonl:62: expected a column 'answer', found 'question'; name yours"),
        ('{"question": "How many?", "answer": "many"}', r"w\.jsonl:62: expected an answer that is a number, .*'many'"),
        ('{"question": "", "answer": "1"}', r"w\.jsonl:62: expected"),
        ("\udcff", r"w\.jsonl:62: 'utf-8' codec"),
        ("[" * 100_000, r"w\.jsonl:62: expected"),
    ],
)
def test_a_bad_line_of_word_problems_is_named_by_file_and_number(line: str, message: str, tmp_path: Path) -> None:
    path = word_problems(tmp_path / "w.jsonl")
    path.write_bytes(path.read_bytes() + line.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=message):
        make_task(TaskConfig(name="words", path=str(path)))


@pytest.mark.parametrize("path", ["", "/nowhere.jsonl"])
def test_word_problems_need_a_file(path: str) -> None:
    with pytest.raises(ValueError, match=r"^task\.path: "):
        make_task(TaskConfig(name="words", path=path))


def test_data_and_eval_take_word_problems(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = ("--set", "task.name=words", "--set", f"task.path={word_problems(tmp_path / 'w.jsonl', 200)}")
    assert tsd("data", "--out", str(tmp_path / "d"), *task) == 0
    assert "train.jsonl: 1" in capsys.readouterr().out
    options = ("--data", str(tmp_path / "d" / "train.jsonl"), "--limit", "2", "--k", "2", *task)
    assert tsd("eval", "--model", "builtin:countdown-tiny", "--style", "digits", "--json", *options) == 0
    assert json.loads(capsys.readouterr().out)["num_problems"] == 2


# What a model can be asked


def test_a_model_is_not_asked_what_its_tokenizer_would_drop() -> None:
    codec = HfCodec(model_path("builtin:countdown-tiny"))
    with pytest.raises(ValueError, match=r"cannot write '\?Haemnorwy' of 'How many.*; name another model in"):
        codec.encode("How many are 2 + 3?")
    assert codec.decode(codec.encode("2 + 3\n")) == "2 + 3"


def test_an_unreadable_question_is_one_line_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = ("--set", "task.name=words", "--set", f"task.path={word_problems(tmp_path / 'w.jsonl')}")
    assert tsd("solve", '{"question": "How many are 2 + 3?", "answer": "5"}', *task) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: the model's tokenizer cannot write")


@given(st.text())
@example("State the answer: 6 + 2 =\n")
def test_digits_and_signs_are_all_that_is_left_for_the_tiny_model(question: str) -> None:
    assert set(ask(question, "digits")) <= SIGNS
    assert ask(question, "compact").strip() == question.strip()
    assert "</step>" in ask(question, "chat")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("72", "72"),
        ("72.5", "145/2"),
        ("3/4", "3/4"),
        ("1e3", "1000"),
        ("\u221272", "-72"),
        ("72 apples", "72"),
        ("5 km/h", "5"),
        ("so it is \\boxed{18}.", "18"),
        ("$1,234.50", "2469/2"),
        (".5", "1/2"),
    ],
)
def test_numbers_are_read_as_people_write_them(text: str, number: str) -> None:
    assert read_number(text) == Fraction(number)


@pytest.mark.parametrize(
    "text", ["", "abc", "--5", "1/0", "12 or 13", "72 apples and 3 pears", "3 1/2", "1,23", "9" * 70]
)
def test_what_may_be_two_numbers_or_none_is_not_guessed_at(text: str) -> None:
    assert read_number(text) is None


def test_files_as_they_are_in_the_field_are_read(tmp_path: Path) -> None:
    path = tmp_path / "words.jsonl"
    lines = [
        '{"question":"a?","answer":72}',
        "",
        '{"question":"b?","answer":72.5}',
        '{"question":"c?","answer":"#### 3/4"}',
    ]
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    answers = {json.loads(problem.text)["answer"] for split in words(path).splits.values() for problem in split}
    assert answers == {"72", "72.5", "3/4"}
    for line, problem in (
        ('{"target":98,"nums":[44,19,35]}', (44, 19, 35, 98)),
        ('{"input":[5,13],"target":31.0,"solution":"x","id":7}', (5, 13, 31)),
        ('{"numbers":[5.0,6],"target":30}', (5, 6, 30)),
    ):
        assert Countdown().parse(line).id == "countdown-" + "-".join(map(str, problem))


@pytest.mark.parametrize(
    "line",
    ['{"nums":[1],"input":[2],"target":3}', '{"target":3}', "[1]", '{"input":[5.5],"target":3}', '{"nums":[1,2]}'],
)
def test_a_line_that_is_not_clear_is_refused_with_an_example(line: str) -> None:
    with pytest.raises(ValueError, match=r'expected \{"input":\[5,13,5,9\],"target":31\} or 5 13 5 9 = 31, found'):
        Countdown().parse(line)
