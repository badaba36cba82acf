"""Data sets of Hugging Face as problems: saved, as Parquet, by name from the cache; splits that share nothing."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from tsd.config import TaskConfig
from tsd.tasks import make_task
from tsd.tasks.questions import Questions
from tsd.types import Problem, Split

datasets = pytest.importorskip("datasets", reason="needs pip install 'tsd[datasets]'")

SPLITS: tuple[Split, ...] = get_args(Split)
Rows = list[dict[str, object]]


def rows(count: int, first: int = 0, question: str = "question", answer: str = "answer") -> Rows:
    """GSM8K's form."""
    return [
        {question: f"Ada has {n} shells and {n} more. How many?", answer: f"{n} + {n} = {2 * n}\n#### {2 * n:,}"}
        for n in range(first, first + count)
    ]


def save(directory: Path, **splits: Rows) -> str:
    tables = {name: datasets.Dataset.from_list(table) for name, table in splits.items()}
    datasets.DatasetDict(tables).save_to_disk(str(directory))
    return str(directory)


def words(path: str, columns: Mapping[str, str] | None = None) -> Questions:
    task = make_task(msgspec.convert({"name": "words", "path": path, "columns": columns or {}}, TaskConfig))
    assert isinstance(task, Questions)
    return task


def answers(task: Questions) -> dict[Split, set[int]]:
    return {split: {int(task.expected(one).replace(",", "")) for one in task.splits[split]} for split in SPLITS}


def test_a_data_sets_own_splits_are_kept_and_the_one_it_lacks_is_cut_from_its_training_split(tmp_path: Path) -> None:
    found = answers(words(save(tmp_path / "d", train=rows(600), test=rows(50, 1000))))
    assert found["heldout"] == {2 * n for n in range(1000, 1050)}
    assert found["train"] | found["validation"] == {2 * n for n in range(600)}
    assert 10 < len(found["validation"]) < 60
    assert not found["train"] & found["validation"]


def test_all_three_splits_of_its_own_are_taken_as_they_are(tmp_path: Path) -> None:
    path = save(tmp_path / "d", train=rows(40), validation=rows(3, 100), test=rows(5, 200), challenge=rows(9, 300))
    assert {split: len(found) for split, found in answers(words(path)).items()} == {
        "train": 40,
        "validation": 3,
        "heldout": 5,
    }


def test_a_problem_of_two_splits_is_kept_from_training(tmp_path: Path) -> None:
    found = answers(words(save(tmp_path / "d", train=rows(100) + rows(100), test=rows(20, 90))))
    assert sum(map(len, found.values())) == 110
    assert found["heldout"] == {2 * n for n in range(90, 110)}
    assert not found["heldout"] & (found["train"] | found["validation"])


def parquet(table: Rows, place: Path) -> str:
    datasets.Dataset.from_list(table).to_parquet(str(place / "p.parquet"))
    return str(place / "p.parquet")


def one_table(table: Rows, place: Path) -> str:
    datasets.Dataset.from_list(table).save_to_disk(str(place / "d"))
    return str(place / "d")


def folder(table: Rows, place: Path) -> str:
    """As a data set's repository is cloned."""
    (place / "clone").mkdir()
    datasets.Dataset.from_list(table).to_parquet(str(place / "clone" / "train-00000.parquet"))
    return str(place / "clone")


def jsonl(table: Rows, place: Path) -> str:
    (place / "p.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in table))
    return str(place / "p.jsonl")


FORMS = (parquet, one_table, folder, jsonl)


@pytest.mark.parametrize("write", FORMS)
def test_one_table_is_cut_in_the_same_way_whatever_its_form_and_columns(
    write: Callable[[Rows, Path], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    path = write(rows(300, question="problem", answer="solution"), tmp_path)
    found = answers(words(path, {"question": "problem", "answer": "solution"}))
    (tmp_path / "plain").mkdir()
    assert found == answers(words(jsonl(rows(300), tmp_path / "plain")))
    assert all(found.values())


def test_a_problem_is_read_back_whatever_columns_it_came_from(tmp_path: Path) -> None:
    task = words(one_table(rows(20, question="problem"), tmp_path), {"question": "problem"})
    problem: Problem = next(task.problems("train", 1, seed=0))
    assert task.parse(problem.text) == problem
    assert task.parse('{"problem":"2 + 3?","answer":"5"}').text == '{"question":"2 + 3?","answer":"5"}'


@pytest.mark.parametrize("write", FORMS)
@pytest.mark.parametrize(
    ("row", "columns", "message"),
    [
        (
            {"problem": "2 + 3?", "answer": "5"},
            {},
            "expected a column 'question', found 'problem', 'answer'; name yours",
        ),
        (
            {"question": "?", "answer": "5"},
            {"answer": "final"},
            "",
        ),
        ({"question": "2 + 3?", "answer": "many"}, {}, "expected an answer that is a number, .* found 'many'"),
        ({"question": "2 + 3?", "answer": ["5"]}, {}, r"expected .*got `array` - at `\$\.answer`"),
        ({"question": None, "answer": "5"}, {}, r"expected .*got `null` - at `\$\.question`"),
    ],
)
def test_a_row_that_does_not_fit_is_one_line_with_its_place_and_the_remedy(
    write: Callable[[Rows, Path], str],
    row: dict[str, object],
    columns: dict[str, str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    path = write([row], tmp_path)
    if not message:  # a row that has the problem's own names is taken
        assert words(path, columns)
        return
    with pytest.raises(ValueError, match=rf"^task\.path: {path}(:1:| \w*,? ?row 1:|, row 1:) {message}") as found:
        words(path, columns)
    assert len(str(found.value).splitlines()) == 1


def test_splits_of_other_names_are_listed_with_the_remedy(tmp_path: Path) -> None:
    path = save(tmp_path / "d", train_sft=rows(3), test_sft=rows(3))
    with pytest.raises(ValueError, match=r"expected a split 'train' in .*, found 'train_sft', 'test_sft'; rename"):
        words(path)


def run(program: str, place: Path) -> str:
    """In a process whose cache is its own, and which is not connected."""
    cache = f"import os; os.environ.update(HF_HOME={str(place / 'cache')!r}, HF_HUB_OFFLINE='1')\n"
    done = subprocess.run(
        [sys.executable, "-c", cache + program], cwd=place, capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


ASK = """
from tsd.config import TaskConfig
from tsd.tasks import make_task
try:
    task = make_task(TaskConfig(name="words", path="hf:{name}"))
    print(sum(map(len, task.splits.values())))
except ValueError as error:
    print(error)
"""


def fill_cache(cache: Path, owner: str, name: str, config: str) -> None:
    """With what lies there once a data set was loaded by its name."""
    datasets.Dataset.from_list(rows(30)).to_parquet(str(cache / "rows.parquet"))
    datasets.load_dataset("parquet", data_files=str(cache / "rows.parquet"), cache_dir=str(cache / "datasets"))
    (made,) = (cache / "datasets" / "parquet").glob("*/*/*/")
    place = cache / "datasets" / f"{owner}___{name}" / config / "0.0.0" / made.name
    place.parent.mkdir(parents=True)
    made.rename(place)
    (place / "parquet-train.arrow").rename(place / f"{name}-train.arrow")
    info = json.loads((place / "dataset_info.json").read_text()) | {"dataset_name": name, "config_name": config}
    (place / "dataset_info.json").write_text(json.dumps(info))


@pytest.mark.parametrize("path", ["openai/gsm8k", "openai/gsm8k:main"])
def test_a_data_set_by_name_is_taken_from_the_cache_where_there_is_no_network(path: str, tmp_path: Path) -> None:
    fill_cache(tmp_path / "cache", "openai", "gsm8k", "main")
    assert run(ASK.format(name=path), tmp_path) == "30\n"


@pytest.mark.parametrize("path", ["openai/gsm8k:main", "nobody/nothing", "", "a:b:c"])
def test_a_data_set_that_cannot_be_loaded_is_one_line(path: str, tmp_path: Path) -> None:
    (line,) = run(ASK.format(name=path), tmp_path).splitlines()
    assert line.startswith(f"task.path: cannot load hf:{path}: ")
    assert line.endswith("; expected hf:NAME or hf:NAME:CONFIG, or a path")


def test_without_the_library_the_line_says_what_to_install(tmp_path: Path) -> None:
    program = "import sys; sys.modules['datasets'] = None\n" + ASK.format(name="openai/gsm8k:main")
    assert run(program, tmp_path) == (
        "task.path: reading hf:openai/gsm8k:main needs Hugging Face's datasets: pip install 'tsd[datasets]'\n"
    )


def test_a_setting_that_names_no_column_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="Invalid enum value 'qestion'"):
        msgspec.convert({"columns": {"qestion": "problem"}}, TaskConfig)
