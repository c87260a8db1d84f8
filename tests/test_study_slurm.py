"""Studies on Slurm: an array that is submitted once, killed, and submitted again, and what is shown of it meanwhile."""

import json
import os
import signal
import time

import pytest

import dnas
from dnas.runs import lock, study_folder
from dnas.runs.files import read_json
from dnas.runs.study_folder import State, holding, states
from dnas.studies import worker
from dnas.studies.plan import plan_study
from dnas.studies.slurm import script
from tests.test_load import refused, said
from tests.test_study import FAST, STUDY, contents, write_study

SBATCH = """#!/bin/sh
# Takes arrays as sbatch does: prints a new job id; runs the tasks one after another if there is a file "run".
cd -P . && echo "$PWD $*" >> "{fake}/calls"
if [ -e "{fake}/refuse" ]; then echo "sbatch: error: invalid partition specified: gpuu" >&2; exit 1; fi
number=$(($(cat "{fake}/calls" | wc -l) + 999))
if [ -e "{fake}/run" ]; then
    last=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\).*/\\1/p' "$2")
    (for task in $(seq 0 "$last"); do
        SLURM_ARRAY_TASK_ID=$task sh "$2" > "logs/slurm-${{number}}_$task.log" 2>&1
    done) < /dev/null > /dev/null 2>&1 &
fi
echo "$number;cluster"
"""
BOTH = {"methods": ["darts", FAST]}


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """A folder on the PATH with an sbatch of its own and no squeue; what lies there says what sbatch does."""
    folder = tmp_path / "fake"
    folder.mkdir()
    program(folder, "sbatch", SBATCH.format(fake=folder))
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


def program(folder, name, text):
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)


def submit(folder, **changes):
    return dnas.study({**STUDY, **changes}, folder, launcher="slurm", trust=True, progress=False)


def calls(fake):
    return (fake / "calls").read_text().splitlines() if (fake / "calls").exists() else []


def task(folder, name):
    """Carries a task out as its script does."""
    return worker.main([str(folder / "slurm" / f"{name}.json")])


def statuses(folder):
    declared = read_json(folder / "study.json")
    searches = [(label, seed) for label, *_ in declared["methods"] for seed in declared["seeds"]]
    now = states(folder, searches, declared["selections"], dict.fromkeys(label for label, _ in searches))
    return {search: state.status for search, state in now.items()}


def test_without_slurm_nothing_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    file = write_study(tmp_path / "mine.toml")
    assert "launcher slurm needs the command sbatch" in refused(
        capsys, "study", file, "--run", tmp_path / "s", "--launcher", "slurm", "--trust")
    assert not (tmp_path / "s").exists()
    with pytest.raises(ValueError, match="launcher is 'pbs'; it must be local or slurm"):
        dnas.study(STUDY, tmp_path / "s", launcher="pbs", trust=True)


def test_an_array_is_submitted_once_and_what_was_killed_again(fake, tmp_path, capsys):
    folder, slurm = tmp_path / "a study", {"partition": "gpu", "mem": 4000, "exclusive": True}
    file = write_study(tmp_path / "mine.toml", **BOTH, seeds=[0], slurm=slurm)
    command = ["study", file, "--run", folder, "--trust", "--cache", "off", "--launcher", "slurm", "--jobs", "1"]
    out = said(capsys, *command)
    assert "Slurm job 1000: 2 tasks, at most 1 at once" in out and "missing: 2 searches" in out
    assert calls(fake) == [f"{folder} --parsable slurm/1/array.sh"]
    lines = (folder / "slurm/1/array.sh").read_text().splitlines()
    assert {"#SBATCH --array=0-1%1", '#SBATCH --partition="gpu"', '#SBATCH --mem="4000"', "#SBATCH --exclusive",
            '#SBATCH --job-name="dnas-a_study"', '#SBATCH --output="logs/slurm-%A_%a.log"'} <= set(lines)
    assert lines[-1].endswith('-P -m dnas.studies.worker "slurm/1/$SLURM_ARRAY_TASK_ID.json"')
    assert set(statuses(folder).values()) == {"queued"}
    assert "nothing to submit: of 2 searches 2 queued" in said(capsys, *command) and len(calls(fake)) == 1
    assert task(folder, "1/0") == 0
    assert statuses(folder) == {("darts", 0): "done", ("fast", 0): "queued"}
    report = said(capsys, "study", "report", folder)  # while the other task waits
    assert "missing: 1 searches" in report and "each seed" in report
    with holding(folder, "fast", [0], print):  # the other task is at work
        (folder / "slurm/1/1.begun").touch()
        assert list(statuses(folder).values()) == ["done", "running"]
        assert "1 done, 1 running" in said(capsys, *command)
    assert list(statuses(folder).values()) == ["done", "waiting"]  # it was killed
    assert "Slurm job 1001: 1 task, at most" in said(capsys, *command)
    assert [read_json(folder / "slurm/2/0.json")[key] for key in ("label", "seeds")] == ["fast", [0]]
    assert task(folder, "2/0") == 0
    result = dnas.study_report(folder)
    assert len(result.entries) == 2 and not result.failures and not result.missing
    before = contents(folder / "runs")
    assert task(folder, "1/1") == 0 and contents(folder / "runs") == before  # a task that was submitted twice


def test_a_task_leaves_searches_to_who_has_them_and_says_failures(fake, tmp_path, capsys):
    folder = tmp_path / "s"
    submit(folder)
    file = folder / "slurm/1/0.json"
    file.write_text(json.dumps(read_json(file) | {"method": {"name": "absent"}}))
    with holding(folder, "darts", [0], print):
        assert task(folder, "1/0") == 1
    assert f"in use     darts, seed 0: by process {os.getpid()}" in capsys.readouterr().out
    assert statuses(folder) == {("darts", 0): "waiting", ("darts", 1): "failed"}
    assert not (folder / "runs").exists() and "no method 'absent'" in read_json(folder / "failures/darts/1.json")["error"]


def test_what_waits_in_a_queue_has_begun(fake, tmp_path):
    folder = tmp_path / "s"
    submit(folder, **BOTH)
    for changes in {"budget": {"epochs": 2, "batch": 16}}, {"methods": [{"name": "darts", "lr": 0.5}]}:
        with pytest.raises(ValueError, match="has begun"):
            submit(folder, **{**BOTH, **changes})
    submit(folder, methods=["darts"], seeds=[0, 1, 2], selections=["magnitude", "random"])
    assert len(calls(fake)) == 2 and read_json(folder / "slurm/2/0.json")["seeds"] == [2]
    assert [label for label, *_ in read_json(folder / "study.json")["methods"]] == ["darts", "fast"]


def test_squeue_says_what_is_queued(fake, tmp_path, monkeypatch):
    folder = tmp_path / "s"
    submit(folder, **BOTH)
    program(fake, "squeue", f'#!/bin/sh\necho "$*" >> {fake}/asked\necho "1000 1 PENDING"\necho "77 N/A RUNNING"\n'
                            'echo "1000 0 COMPLETING"\n')
    assert statuses(folder) == {("darts", 0): "waiting", ("darts", 1): "waiting",  # it was cancelled before it began
                                ("fast", 0): "queued", ("fast", 1): "queued"}
    assert (fake / "asked").read_text() == "--me --noheader --array --format=%F %K %T\n"
    submit(folder, **BOTH)
    assert read_json(folder / "slurm/2/submitted.json") == {"id": "1001", "tasks": [{"label": "darts", "seeds": [0, 1]}]}
    queued = State("queued", "task 1 of Slurm job 1000")
    assert states(folder, [("fast", 0)], ["magnitude"], {"fast": None}) == {("fast", 0): queued}
    monkeypatch.setattr(study_folder, "ANSWER", 0.2)
    for text in "sleep 60", "exit 1", "echo 1000 2":
        program(fake, "squeue", f"#!/bin/sh\n{text}\n")
        began = time.monotonic()
        assert set(statuses(folder).values()) == ({"waiting"} if "echo" in text else {"queued"})
        assert time.monotonic() - began < 10


def test_what_sbatch_refuses_is_one_line_and_not_queued(fake, tmp_path, capsys):
    file, folder = write_study(tmp_path / "mine.toml"), tmp_path / "s"
    command = ["study", file, "--run", folder, "--trust", "--launcher", "slurm", "--no-progress"]
    (fake / "refuse").touch()
    assert f"sbatch did not submit {folder}/slurm/1/array.sh: sbatch: error: invalid partition specified: gpuu" in refused(
        capsys, *command)
    assert set(statuses(folder).values()) == {"waiting"}
    (fake / "refuse").unlink()
    said(capsys, *command)
    assert set(statuses(folder).values()) == {"queued"} and (folder / "slurm/2/submitted.json").exists()


@pytest.mark.parametrize("options, message", [
    ({"gres": "gpu:1\nrm"}, "gres is 'gpu:1\\nrm'; it must be a number, a text of one line"),
    ({"comment": 'a"b'}, "a text of one line without"), ({"comment": "a\\"}, "a text of one line without"),
    ({"a b": 1}, "slurm has 'a b'; an option of sbatch is a name"), ({"cpus_per_task": 2}, "such as cpus-per-task"),
    ({"array": "0-3"}, "array is set by dnas study itself"), ({"nodes": [1]}, "nodes is '[1]'"),
    ({"requeue": False}, "requeue is 'False'"), ("gpu", "slurm is gpu; it must be a table")])
def test_options_of_sbatch_are_checked(options, message):
    with pytest.raises(ValueError) as error:
        plan_study({**STUDY, "slurm": options}, True)
    assert message in str(error.value)


def test_no_shell_reads_an_option():
    text = script("s", "slurm/1", 3, None, {"comment": "$(touch x) `touch x` ; touch x #"})
    assert '#SBATCH --comment="$(touch x) `touch x` ; touch x #"' in text.splitlines()
    assert "#SBATCH --array=0-2" in text.splitlines()
    assert all(line.startswith(("#", "export PYTHONPATH=", "exec ")) for line in text.splitlines())


def wait_for(condition, seconds=300):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.heavy
def test_a_task_that_was_killed_goes_on_to_the_same_end(fake, tmp_path, capsys):
    changes = {**BOTH, "budget": {"epochs": 12, "batch": 16}}
    file, folder, whole = write_study(tmp_path / "mine.toml", **changes), tmp_path / "s", tmp_path / "whole"
    command = ["study", file, "--trust", "--no-progress", "--cache", tmp_path / "cache"]
    (fake / "run").touch()
    said(capsys, *command, "--run", folder, "--launcher", "slurm")
    wait_for(lambda: any(folder.glob("runs/darts/0/checkpoints/0000[3-9].safetensors")))
    process, _ = (folder / ".study/searches/darts/0" / lock.NAME).read_text().split()
    os.kill(int(process), signal.SIGKILL)
    wait_for(lambda: set(statuses(folder).values()) == {"done", "interrupted"})  # the second task has done its part
    said(capsys, "study", "report", folder)
    said(capsys, *command, "--run", folder, "--launcher", "slurm")
    wait_for(lambda: set(statuses(folder).values()) == {"done"})
    said(capsys, *command, "--run", whole)
    said(capsys, "study", "report", folder)
    for name in "darts", "fast":
        for seed in 0, 1:
            for part in "genotype.json", "metrics.jsonl", "checkpoints/00012.safetensors":
                one, other = (top / "runs" / name / str(seed) / part for top in (folder, whole))
                assert one.read_bytes() == other.read_bytes()


def test_runs_of_a_study_are_listed_with_what_has_not_begun(fake, tmp_path, capsys):
    folder = tmp_path / "s"
    submit(folder, methods=["darts", FAST, {"name": "darts", "label": "third"}], seeds=[0])
    assert task(folder, "1/0") == 0
    for name in "1", "2":
        (folder / f"slurm/1/{name}.begun").touch()
    (folder / "failures/fast").mkdir(parents=True)
    (folder / "failures/fast/0.json").write_text('{"error": "the loss became NaN"}')
    (folder / "failures/fast/stray.json").write_text("a file of somebody else's")
    (folder / "failures/fast/1.json").symlink_to("absent")  # as one that a task removes just now
    later = {"name": "darts", "label": "late"}
    submit(folder, methods=[{"name": "darts", "label": "third"}, "darts", FAST, later], seeds=[0])
    (folder / "slurm/2/1.begun").touch()
    rows = {one.folder.parent.name: one for one in dnas.runs.index.list_runs(tmp_path)}
    assert {name: row.status for name, row in rows.items()} == {
        "darts": "done", "fast": "failed", "third": "queued", "late": "queued"}
    assert rows["fast"].note == "the loss became NaN" and rows["third"].note == "task 0 of Slurm job 1001"
    assert (rows["late"].method, rows["late"].space, rows["late"].epoch, rows["late"].seed) == ("darts", "toy", 0, 0)
    with holding(folder, "third", [0], print):
        out = said(capsys, "runs", tmp_path)
    assert f"study  {folder}: 1 done, 1 running, 1 queued, 1 failed" in out and f"process {os.getpid()}" in out
    entry = read_json(folder / "entries/darts/0.json")
    (folder / "entries/darts/0.json").unlink()
    assert "choices from it, or its ranking, are missing" in said(capsys, "runs", folder)
    for text in "{", '{"selections": 3}', '{"label": "darts"}':
        (folder / "entries/darts/0.json").write_text(text)
        assert "1 broken" in said(capsys, "runs", folder)
    assert entry["seed"] == 0
    (folder / "study.json").write_text('{"latest": 3}')
    assert "1 done" in said(capsys, "runs", folder)  # the run itself
