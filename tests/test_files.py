"""Files of a run that somebody else may have put there: read at once or refused at once, in one line, and never followed."""

import io
import json
import os
import struct
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from dnas.runs import checkpoint, files, lock
from dnas.runs.directory import load_genotype, open_run
from dnas.runs.files import read_arrays, read_bytes, read_json, records, temporary_folder, write_arrays, write_atomic
from dnas.runs.index import load_groups
from launch.main import main
from tests.test_runs import GENOTYPE, SEARCH, TRAIN, write_choice, write_run

SECRET = "a secret of the user"
READERS = {"config.json": read_json, "metrics.jsonl": records, "groups.json": read_json,
           "genotype.json": lambda path: load_genotype(path.parent),
           "arch.npz": lambda path: read_arrays(path, "restore it"),
           "00001.safetensors": lambda path: checkpoint.read(path)}


@pytest.fixture(autouse=True)
def at_once():
    """No test waits for a file, or reads one without end."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < 10


def fifo(path):
    os.mkfifo(path)


def link(path):
    (path.parent / "secret").write_text(SECRET)
    path.symlink_to(path.parent / "secret")


def sparse(path):
    """Larger than any file that is read, and takes no room."""
    with open(path, "wb") as file:
        file.truncate(2**37)


STRANGE = {fifo: "it is not an ordinary file", link: "it is a link, which is not followed",
           Path.mkdir: "it is a folder", sparse: "more than", lambda path: path.symlink_to("/dev/zero"): "it is a link"}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("make", STRANGE, ids=lambda make: make.__name__)
def test_only_ordinary_files_of_a_sensible_size_are_read(tmp_path, name, make):
    make(tmp_path / name)
    with pytest.raises(ValueError, match=STRANGE[make]) as caught:
        READERS[name](tmp_path / name)
    assert name in str(caught.value) and "\n" not in str(caught.value) and SECRET not in str(caught.value)


def test_a_link_that_a_person_names_is_followed(tmp_path):
    link(tmp_path / "a.json")
    assert read_bytes(tmp_path / "a.json", follow=True) == SECRET.encode()


@pytest.mark.parametrize("text", ['{"a": Infinity}', '{"a": NaN}', '{"a": 1e999}', "\xff", "{", "[" * 10**5, "",
                                  '{"a": ' * 60 + "1" + "}" * 60, "1" * 5000, "[1]"])
def test_what_is_no_sound_json_object(tmp_path, text):
    (tmp_path / "a.json").write_bytes(text.encode("latin1"))
    with pytest.raises(ValueError, match="a.json: no ") as caught:
        read_json(tmp_path / "a.json")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("epoch", ["1e400", "1.5", "true", "-1", str(10**30), "[]"])
def test_epochs_of_records_are_whole_numbers(tmp_path, epoch):
    (tmp_path / "a.jsonl").write_text(f'{{"epoch": {epoch}}}\n{{"epoch": 1}}\n')
    with pytest.raises(ValueError, match="line 1, is no JSON record"):
        records(tmp_path / "a.jsonl")


ARRAYS = {"b": np.asfortranarray(np.arange(6, dtype=np.int32).reshape(2, 3)), "c": np.zeros((0, 4)), "d": np.float64(3),
          "normal": np.random.default_rng(0).normal(size=(3, 14, 8)).astype(np.float32)}


def test_arrays_come_back(tmp_path):
    write_arrays(tmp_path / "a.npz", ARRAYS)
    back = read_arrays(tmp_path / "a.npz", "restore it")
    assert back.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(back[name], array, strict=True)
    back["normal"][0] = 1  # they can be written to


def npy(shape, dtype="<f4", data=b""):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"shape": shape, "fortran_order": False, "descr": dtype})
    return header.getvalue() + data


def archive(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in members.items():
            file.writestr(name, content)


def bomb(path):
    archive(path, {"a.npy": npy((2**25,), data=bytes(2**27))}, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 2**20


def overlapping(path):
    """A thousand entries, all of them the same bytes."""
    write_arrays(path, {"a": np.zeros(10**5)})
    whole = path.read_bytes()
    start = whole.rindex(b"PK\1\2")
    entries, end = whole[start:-22], bytearray(whole[-22:])
    end[8:12], end[12:16] = struct.pack("<HH", 1000, 1000), struct.pack("<I", 1000 * len(entries))
    path.write_bytes(whole[:start] + 1000 * entries + end)


def many(path):
    """A list of more arrays than there can be."""
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 65000, 65000, 10**8, 0, 0)
    path.write_bytes(bytes(10**6) + end)


@pytest.mark.parametrize("make, why", [
    (bomb, "it is compressed"), (overlapping, "larger than the file"), (many, "not a whole archive"),
    (lambda path: archive(path, {"a.npy": npy((10**9, 10**9))}), "not as its header says"),
    (lambda path: archive(path, {"a.npy": npy((2,), "|O", bytes(16))}), "not as its header says"),
    (lambda path: archive(path, {"a.npy": b"garbage"}), "magic"),
    (lambda path: archive(path, {"a.npy": npy((-1,), data=bytes(4))}), ""),
    (lambda path: np.savez(path, a=np.array([{}])), ""),
    (lambda path: path.write_bytes(b"garbage" * 99), "not a whole archive"),
    (lambda path: path.write_bytes(b""), "not a whole archive")])
def test_what_is_no_archive_of_arrays(tmp_path, make, why):
    make(tmp_path / "arch.npz")
    with pytest.raises(ValueError, match=f"arch.npz is missing or corrupt .*{why}.*; restore it") as caught:
        read_arrays(tmp_path / "arch.npz", "restore it")
    assert "pickle" not in str(caught.value) and "\n" not in str(caught.value)


def rewritten(path, change):
    """A checkpoint whose header was changed, with the digest that it needs."""
    content = path.read_bytes()
    size = 8 + int.from_bytes(content[:8], "little")
    header, body = json.loads(content[8:size]), content[size:]
    body = change(header, body) or body
    header["__metadata__"]["sha256"] = "0" * 64
    text = json.dumps(header, separators=(",", ":")).encode()
    head = struct.pack("<Q", len(text)) + text
    path.write_bytes(head.replace(b"0" * 64, checkpoint._digest(head, body).encode()) + body)


def test_arrays_of_a_checkpoint_have_bytes_of_their_own(tmp_path):
    tree = {"a": np.ones(4, np.float32), "b": np.zeros(4, np.float32)}
    for change in (lambda header, body: header["['b']"].update(data_offsets=[0, 16]),
                   lambda header, body: header["['b']"].update(data_offsets=[8, 24]),
                   lambda header, body: body + bytes(8), lambda header, body: body[:24],
                   lambda header, body: header["['b']"].update(shape=[2])):
        checkpoint.save(tmp_path / "a.safetensors", tree)
        rewritten(tmp_path / "a.safetensors", change)
        with pytest.raises(checkpoint.CorruptCheckpoint, match="its arrays "):
            checkpoint.read(tmp_path / "a.safetensors")


def test_a_large_checkpoint_is_read_only_where_it_fits(tmp_path, monkeypatch):
    """Of a file beyond AT_ONCE the header decides; and every byte is checked all the same."""
    tree, path = {"a": np.ones(1000, np.float32)}, tmp_path / "00001.safetensors"
    checkpoint.save(path, tree)
    monkeypatch.setattr(checkpoint, "AT_ONCE", 100)
    assert checkpoint.restore(path, tree)[0]["a"].sum() == 1000
    assert checkpoint.latest(tmp_path, tree).digest == checkpoint.digest(tree)
    with pytest.raises(ValueError, match="leaf .* is float32\\[1000\\] there, float32\\[2\\] here"):
        checkpoint.restore(path, {"a": np.ones(2, np.float32)})
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    with pytest.raises(checkpoint.CorruptCheckpoint, match="does not match its SHA-256"):
        checkpoint.restore(path, tree)
    with open(path, "r+b") as file:
        file.truncate(10**10)
    with pytest.raises(checkpoint.CorruptCheckpoint, match="its arrays have 4000 bytes"):
        checkpoint.restore(path, tree)


def test_what_is_written_goes_nowhere_else(tmp_path):
    """Through no link that lies where it is written, however it is called."""
    (tmp_path / "precious").write_text(SECRET)
    for name in "a.json", f".a.json.{os.getpid()}.tmp", "b.jsonl":
        (tmp_path / name).symlink_to(tmp_path / "precious")
    write_atomic(tmp_path / "a.json", "mine")
    with pytest.raises(files.RunWriteError):
        files.append_record(tmp_path / "b.jsonl", {"epoch": 1})
    assert (tmp_path / "precious").read_text() == SECRET and (tmp_path / "a.json").read_text() == "mine"
    for name in "checkpoints", "selections", "trained":
        folder = tmp_path / f"run {name}"
        open_run(folder, {"epochs": 1}).close()
        (tmp_path / "00001.safetensors").write_text(SECRET)
        (folder / name).symlink_to(tmp_path)
        with pytest.raises(ValueError, match=f"{name} is a link"):
            open_run(folder, {"epochs": 1})
        if name == "checkpoints":
            with pytest.raises(ValueError, match="is a link"):
                checkpoint.latest(folder / name, {})


def said(capsys, *argv):
    capsys.readouterr()
    code = main(list(map(str, argv)))
    return code, *capsys.readouterr()


NAMES = ("config.json", "environment.json", "metrics.jsonl", "timing.jsonl", "results.json", "failed.json", "run.lock")


@pytest.mark.parametrize("make", [fifo, link, sparse], ids=lambda make: make.__name__)
def test_one_bad_run_does_not_keep_the_others_from_being_listed(tmp_path, capsys, make):
    for name in NAMES:
        folder = write_run(tmp_path / "runs" / name, SEARCH)
        (folder / name).unlink(missing_ok=True)
        make(folder / name)
    write_run(tmp_path / "runs" / "good", TRAIN)
    code, out, _ = said(capsys, "runs", tmp_path / "runs")
    lines = {Path(line.split("  ")[0]).name: line for line in out.splitlines()[1:]}
    assert code == 0 and lines.keys() == {*NAMES, "good"} and SECRET not in out
    assert all(("broken" in lines[name]) == (name != "run.lock") for name in NAMES) and "broken" not in lines["good"]


def test_a_page_carries_nothing_that_a_link_points_to(tmp_path, capsys):
    """Neither a file nor a folder of the run that is a link."""
    elsewhere = write_choice(write_run(tmp_path / "elsewhere", SEARCH), "private")
    (elsewhere / "cells.svg").write_text(f"<svg>{SECRET}</svg>")
    (tmp_path / "secret.svg").write_text(f"<svg>{SECRET}</svg>")
    plain = write_run(tmp_path / "plain", SEARCH)
    size = len(said(capsys, "report", plain) and (plain / "report.html").read_text())
    for case in "pictures", "selections", "one selection":
        run = write_run(tmp_path / case, SEARCH)
        if case == "selections":
            (run / "selections").symlink_to(elsewhere.parent)
        elif case == "one selection":
            (run / "selections").mkdir()
            (run / "selections" / "private").symlink_to(elsewhere)
        else:
            (run / "groups.json").unlink()  # so that what lies there would do
            for name in "cells.svg", "logits.svg", "duplicates.png":
                (run / name).symlink_to(tmp_path / "secret.svg")
        assert said(capsys, "report", run)[0] == 0
        page = (run / "report.html").read_text()
        assert len(page) < size + 1000 and "private" not in page and "1,234" not in page
    for name in "groups.json", "genotype.json", "results.json", "arch.npz":
        (run / name).unlink(missing_ok=True)
        (run / name).symlink_to(tmp_path / "secret.svg")
        code, _, err = said(capsys, "report", run)
        assert code == 2 and err.count("\n") == 1 and name in err and SECRET not in err
        (run / name).unlink()


@pytest.mark.parametrize("groups", [
    '{"cell": {"edges": [[0, Infinity]], "ops": ["a"]}}', '{"cell": {"edges": [[0, 1.5]], "ops": ["a"]}}',
    '{"cell": {"edges": [[0, 1]], "ops": ["\\ud800"]}}', '{"\\u001b[2J": {"edges": [[0, 1]], "ops": ["a"]}}',
    '{"cell": {"edges": [[0, 1, 2]], "ops": ["a"]}}', '{"cell": 1}', '{"cell": {"edges": [[0, true]], "ops": ["a"]}}'])
def test_groups_that_are_none(tmp_path, groups):
    (tmp_path / "groups.json").write_text(groups)
    with pytest.raises(ValueError, match="groups.json: no ") as caught:
        load_groups(tmp_path)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["\ud800", "\x1b[31m", "\u202e"])
def test_names_in_a_genotype_can_be_printed(tmp_path, capsys, name):
    text = GENOTYPE.to_json()
    for old in '"toy"', '"conv"', '"cell"':
        (tmp_path / "genotype.json").write_text(text.replace(old, json.dumps(name)))
        for command in "show", "evaluate":
            code, out, err = said(capsys, command, tmp_path / "genotype.json")
            assert code == 2 and not out and "all names printable" in err and err[:-1].isprintable()


def test_what_killed_processes_left_is_removed(tmp_path):
    """Temporary files in all folders of a run, and the folders of exports that no process holds any more."""
    open_run(tmp_path / "run", {"epochs": 1}).close()
    for folder in "", "checkpoints", "trained":
        (tmp_path / "run" / folder).mkdir(exist_ok=True)
        (tmp_path / "run" / folder / ".x.json.1.tmp").write_text("half")
    (tmp_path / "run" / ".export-abcd1234.tmp" / "files").mkdir(parents=True)
    with temporary_folder(tmp_path / "run", "export") as used:
        assert not (tmp_path / "run" / ".export-abcd1234.tmp").exists() and used.is_dir()
        (tmp_path / "run" / ".export-defg5678.tmp").mkdir()
        open_run(tmp_path / "run", {"epochs": 1}).close()
        assert used.is_dir() and list((tmp_path / "run").rglob(".*.tmp")) == [used.parent]
    assert not list((tmp_path / "run").rglob(".*"))


def test_a_full_disk_is_said_when_the_lock_is_let_go(tmp_path):
    """Where not even the lock could be written, closing it does not hide why."""
    script = ("import resource, signal, sys; from pathlib import Path; from dnas.runs import lock; "
              "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)); held = lock.take(Path(sys.argv[1])); held.close()")
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, env=env)
    assert done.returncode == 0 and not done.stderr
    assert (tmp_path / lock.NAME).read_text() == ""
