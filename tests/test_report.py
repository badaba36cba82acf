"""What `tsd report` says of runs: figures, a terminal's tables, JSON, and a page that a browser shows."""

import json
import re
import shutil
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.support.launching import launched
from tests.support.rows import update_row
from tests.support.runs import MOCK, TSD, finish
from tests.support.trees import HOSTILE, a_tree, end, step
from tsd.cli.app import app, exit_code
from tsd.config import Config, load_config, save_config
from tsd.learn.checkpoint import TrainState, save_checkpoint
from tsd.learn.policy_learner import PolicyLearner
from tsd.learn.ranks import Ranks
from tsd.model.files import model_path
from tsd.observe.metrics import EventRow, GeneratorRow, MetricsRow, MetricsWriter, PhaseRow
from tsd.report.course import NUM_POINTS, courses, curves, speed
from tsd.report.examples import Example, Examples, search_examples
from tsd.report.figures import DASH, differences, evaluations, flow, learning, settings, tables
from tsd.report.page import page
from tsd.report.run import RunReport, flagged, read_run, read_runs
from tsd.report.terminal import draw
from tsd.run.rundir import locked

pytestmark = pytest.mark.timeout(120)  # the first test waits for the run, too


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run on the mock engine."""
    run_dir = tmp_path_factory.mktemp("report") / "ended"
    with launched([*TSD, *MOCK, "--run-dir", str(run_dir)]) as run:
        finish(run, 100)
    return run_dir


@pytest.fixture
def cut_short(ended: Path, tmp_path: Path) -> Path:
    """The same, as if killed in the middle of a row of metrics after its first checkpoint, with another seed."""
    run_dir = tmp_path / "cut"
    shutil.copytree(ended, run_dir)
    rows = (ended / "metrics.jsonl").read_text().splitlines(keepends=True)
    upto = next(i for i, row in enumerate(rows) if "update-000010" in row)
    (run_dir / "metrics.jsonl").write_text("".join(rows[:upto]) + rows[upto][:20])
    shutil.rmtree(run_dir / "checkpoints" / "update-000012")
    for name in ("after.json", "summary.json"):
        (run_dir / name).unlink()
    save_config(load_config(run_dir / "config.toml", ["seed=7", "method.c_puct=2.0"]), run_dir / "config.toml")
    return run_dir


def cells(run: RunReport) -> dict[str, str]:
    """By label, what the tables say of one run."""
    return {label: shown for table in tables([run]) for label, (shown,) in table.rows}


def in_a_terminal(runs: tuple[RunReport, ...], width: int) -> str:
    console = Console(width=width, color_system=None, force_terminal=True)
    with console.capture() as captured:
        console.print(draw(runs, width))
    return captured.get()


def report(*words: str) -> int:
    return exit_code(partial(app, ["report", *words], standalone_mode=False))


def test_an_ended_run_is_told_from_its_files(ended: Path) -> None:
    shown, summary = cells(read_run(ended, "ended")), json.loads((ended / "summary.json").read_text())
    assert (shown["state"], shown["updates"], shown["trajectories trained on"]) == ("done", "12 of 12", "192")
    after, books = summary["after"], summary["books"]
    low, high = after["ci95"]
    assert shown["mean@16 after"] == f"{after['mean_at_k']:.1%} [{low:.1%}, {high:.1%}]"
    assert shown["pass@16"] == f"{summary['before']['pass_at_k']:.1%} → {after['pass_at_k']:.1%}"
    assert (shown["trajectories produced"], shown["trained"]) == (str(books["produced"]), "192")
    assert (shown["lost"], shown["launches"], shown["processes restarted"]) == ("0", "1", "0")
    assert re.fullmatch(r"-?0\.\d{3} → 0\.\d{3}", shown["reward"])


def test_a_run_that_was_cut_short_shows_what_is_known_and_dashes(cut_short: Path) -> None:
    run = read_run(cut_short, "cut")
    shown = cells(run)
    assert (shown["state"], shown["updates"]) == ("killed", "10 of 12")
    assert shown["mean@16 before"].endswith("%]")
    assert shown["mean@16 after"] == DASH
    assert shown["legal answers"].endswith(f"→ {DASH}")
    assert (shown["trained"], shown["lost"]) == ("160", "0")
    assert len(page([run], [])) > 10_000


def test_a_run_of_a_living_launcher_is_in_its_phase(cut_short: Path) -> None:
    with locked(cut_short):
        assert read_run(cut_short, "cut").state == "training"


def test_a_run_that_has_only_begun_is_all_dashes(tmp_path: Path) -> None:
    save_config(Config(), tmp_path / "config.toml")
    run = read_run(tmp_path, "new")
    asked = [evaluations([run]), learning([run]), flow([run])]
    shown = [
        cell for table in asked for label, (cell,) in table.rows if not label.startswith(("launches", "pro", "li"))
    ]
    assert set(shown) <= {DASH, f"{DASH} → {DASH}"}
    assert "no checkpoint yet" in page([run], [Examples(found=(Example(problem="p", before=a_tree(), after=None),))])


def test_several_runs_stand_beside_each_other_with_the_settings_that_differ(ended: Path, cut_short: Path) -> None:
    runs = read_runs([ended, cut_short])
    assert [run.name for run in runs] == ["ended", "cut"]
    assert differences(runs).rows == (("seed", ("0", "7")), ("method.c_puct", ("1.5", "2.0")))
    assert "engine.kind" in dict(differences(runs[:1]).rows)
    wide, narrow = in_a_terminal(runs, 100), in_a_terminal(runs, 60)
    assert re.search(r"state +done +killed", wide)
    assert re.search(r"method.c_puct +2\.0 *\n", narrow), "differences are between all runs, wherever they stand"


def test_runs_of_one_name_go_by_their_paths(ended: Path, tmp_path: Path) -> None:
    shutil.copytree(ended, tmp_path / "ended")
    assert [run.name for run in read_runs([ended, tmp_path / "ended"])] == [str(ended), str(tmp_path / "ended")]


def test_settings_are_named_as_the_command_line_takes_them() -> None:
    found = settings(load_config(None, ["reward.weights={task=0.5,length=1.0}"]))
    assert (found["method.kind"], found["method.agents"], found["method.solutions"]) == ("index", "16", "3")
    assert json.loads(found["reward.weights"]) == {"task": 0.5, "length": 1.0}


def test_curves_have_few_points_and_leave_out_what_is_no_number() -> None:
    updates = [update_row(n, n, exact_share=float("nan") if n == 300 else n / 1000) for n in range(1, 1001)]
    drawn = curves(updates)
    assert len(drawn.update) == NUM_POINTS
    assert (drawn.update[-1], drawn.generated_tokens[-1], drawn.seconds[-1]) == (1000, 10_000_000, 5000.0)
    assert all(value is not None and value == value for value in drawn.figures["exact_share"])
    assert set(drawn.figures["logprob_gap"]) == {None}
    assert set(drawn.figures["generated_per_s"]) == {2000.0}
    course = courses(updates)["exact_share"]
    assert (course.start, course.end) == pytest.approx((0.0055, 0.9955))
    assert (course.lowest, course.highest) == (0.001, 1.0)


def test_without_updates_there_are_no_curves() -> None:
    assert curves([]).update == ()
    assert courses([]) == {}


def test_generators_add_up() -> None:
    def row(generator: int, rate: float) -> GeneratorRow:
        return GeneratorRow(
            generator=generator,
            version=0,
            num_trees=1,
            num_simulations=1,
            generated_tokens=1,
            simulations_per_s=rate,
            tokens_per_s=10 * rate,
            solved_share=None,
            loop_lag_s=rate / 1000,
        )

    updates = [update_row(1, 0), update_row(2, 0)]
    found = speed([row(0, 1), row(0, 3), row(1, 5), *updates], updates)
    assert (found.simulations_per_s, found.generated_per_s, found.worst_lag_s) == (7, 70, 0.005)
    assert found.waited_share == pytest.approx(0.06)


def test_what_a_run_flagged_is_told_once_of_each_kind() -> None:
    said = ["update 3: the policy has collapsed: entropy 0.0040 nats a token", "checkpoint /x/update-000003"]
    said += ["update 9: the policy has collapsed: entropy 2e-05 nats a token", "trains from update 0"]
    rows: list[MetricsRow] = []
    rows += [EventRow(source="trainer-0", text=one, is_warning=one.startswith("update")) for one in said]
    rows += [PhaseRow(phase="failed", about="no space"), PhaseRow(phase="training")]
    assert flagged(rows) == (f"{said[2]} (2 times; this was the last)", "failed: no space")


def test_json_has_the_same_figures(ended: Path, cut_short: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report(str(ended), str(cut_short), "--json") == 0
    first, second = json.loads(capsys.readouterr().out)["runs"]
    assert (first["state"], first["num_lost"], first["after"]["k"]) == ("done", 0, 16)
    assert (second["state"], second["after"], second["config"]["seed"]) == ("killed", None, 7)
    assert len(first["curves"]["figures"]["reward_mean"]) == 12


def test_what_is_no_run_is_one_line(ended: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(ended, damaged)
    (damaged / "after.json").write_text("{")
    for directory, problem in ((tmp_path, "not a run directory"), (damaged, "no evaluation that")):
        assert report(str(ended), str(directory)) == 2
        error = capsys.readouterr().err
        assert problem in error
        assert error.startswith("error: ")
        assert error.count("\n") == 1


def test_the_command_writes_a_page_that_asks_the_network_for_nothing(ended: Path, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    assert report(str(ended), "--html", str(file)) == 0
    document = file.read_text(encoding="utf-8")
    assert "http" not in document.replace("http-equiv", "")
    assert not re.search(r"\bsrc=|\bhref=|@import|url\(", document)
    assert document.count("<article>") == 3
    assert document.count("<h4>after") == 3
    assert "the whole tree: " in document


def test_trees_are_left_out_when_asked(ended: Path, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    assert report(str(ended), "--html", str(file), "--no-trees") == 0
    assert "Left out, as asked for" in file.read_text(encoding="utf-8")


def test_a_model_that_is_gone_is_the_reason_why_there_are_no_trees(tmp_path: Path) -> None:
    save_config(load_config(None, ["model.path=/gone"]), tmp_path / "config.toml")
    found = search_examples(read_run(tmp_path, "gone"))
    assert found.found == ()
    assert "/gone" in (found.left_out or "")
    assert "Left out: model.path: expected" in page([read_run(tmp_path, "gone")], [found])


def test_the_start_and_the_checkpoint_of_a_real_model_search_the_same_problems(tmp_path: Path) -> None:
    config = load_config(None)
    start = model_path(config.model.path)
    learner = PolicyLearner(config, start, None, Ranks())
    save_config(config, tmp_path / "config.toml")

    def save(directory: Path) -> None:
        learner.save(directory)
        shutil.copy(start / "calibration.json", directory)

    save_checkpoint(tmp_path, TrainState(update=7), save)
    found = search_examples(read_run(tmp_path, "real")).found
    assert len({one.problem for one in found}) == 3
    for one in found:
        assert one.after is not None
        assert [node.text for node in one.before.nodes] == [node.text for node in one.after.nodes], "of equal models"


def hostile_run(ended: Path, tmp_path: Path) -> tuple[RunReport, Examples]:
    """Text that would run, wherever a run or a model can put it."""
    run_dir = tmp_path / "<img onerror=alert(1)>{{DATA}}"
    shutil.copytree(ended, run_dir)
    save_config(load_config(run_dir / "config.toml", [f"model.path={json.dumps(HOSTILE)}"]), run_dir / "config.toml")
    with MetricsWriter(run_dir) as metrics:
        metrics.event("trainer-0", f"update 3: {HOSTILE}", is_warning=True)
    tree = a_tree(step(0, 2, HOSTILE), step(0, 1), end(1, 1, -1, HOSTILE))
    return read_run(run_dir, run_dir.name), Examples(found=(Example(problem=HOSTILE, before=tree, after=tree),))


def test_hostile_text_is_shown_and_inert(ended: Path, tmp_path: Path) -> None:
    run, trees = hostile_run(ended, tmp_path)
    document = page([run], [trees])
    assert document.count("</script>") == document.count("<script") == 2
    assert "<img" not in document
    assert "&lt;img onerror=alert(1)&gt;{{DATA}}" in document
    assert "&lt;/script&gt;&lt;script&gt;document.title=&quot;run&quot;&lt;/script&gt;" in document
    assert "\x1b" not in document + in_a_terminal((run,), 100)
    assert "\\x1b[2J[bold]" in in_a_terminal((run,), 200)


def chromium(tmp_path: Path, file: Path, *options: str) -> str:
    command = ("chromium", "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}")
    done = subprocess.run(
        [*command, *options, file.as_uri()], capture_output=True, text=True, timeout=100, check=True, cwd=tmp_path
    )
    return done.stdout


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium: apt install chromium")
@pytest.mark.timeout(180)
def test_a_browser_draws_the_curves_and_runs_nothing_of_a_run(ended: Path, tmp_path: Path) -> None:
    run, trees = hostile_run(ended, tmp_path)
    file, picture = tmp_path / "report.html", tmp_path / "report.png"
    file.write_text(page([run, read_run(ended, "ended")], [trees, Examples(left_out="a reason")]), encoding="utf-8")
    shown = chromium(tmp_path, file, "--dump-dom")
    assert "<title>tsd report: &lt;img onerror=alert(1)&gt;{{DATA}}, ended</title>" in shown
    assert shown.count("<figure data-curve=") == len(drawn_curves(run)) + 1
    assert shown.count('class="curve"') == 2 * shown.count("<figure data-curve=")
    assert "NaN" not in shown
    chromium(tmp_path, file, "--window-size=1200,2000", f"--screenshot={picture}")
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert picture.stat().st_size > 50_000, "something was drawn"


def drawn_curves(run: RunReport) -> set[str]:
    """Those with a number; a loss that is not in use is 0 throughout and not drawn."""
    figures: dict[str, Any] = dict(run.curves.figures)
    return {
        name for name, values in figures.items() if any(v is not None and (v or name != "visit_loss") for v in values)
    }
