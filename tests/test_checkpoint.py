"""Checkpoints: bit for bit there and back, damage noticed wherever it is, the newest whole one found."""

import os
import subprocess
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dnas.runs import checkpoint
from dnas.runs.checkpoint import CorruptCheckpoint, digest, keep, latest, newest, restore, save
from dnas.runs.files import RunWriteError


class State(NamedTuple):
    weights: Any
    tx: Any
    step: Any
    rest: Any = None


def state() -> State:
    bits = np.random.default_rng(0).integers(0, 256, 96, np.uint8)
    weights = {
        "layer/a": {"kernel": jnp.arange(6.0).reshape(2, 3), "bias": jnp.array([jnp.nan, -0.0, jnp.inf])},
        "every_bit": {name: bits.view(name) for name in ("float32", "float64", "int32", "uint32")},
        "half": jnp.asarray([1.5, -2, 3e38], jnp.bfloat16),
        "mask": jnp.array([True, False]),
        "empty": jnp.zeros((0, 4)),
        "odd": (np.int64(-3), 2.5, True, jax.random.key_data(jax.random.key(3))),
        "strided": np.arange(24.0).reshape(4, 6)[::2, ::3].T,
    }
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3)).init({"w": jnp.ones((2, 2))})
    return State(weights, tx, jnp.uint32(7))


def bits(tree):
    return [(np.asarray(x).dtype, np.shape(x), np.asarray(x).tobytes()) for x in jax.tree.leaves(tree)]


def abstract(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), np.asarray(x).dtype), tree)


@pytest.mark.parametrize("template", [lambda tree: tree, abstract])
def test_round_trip_is_bit_for_bit(tmp_path, template):
    tree = state()
    save(tmp_path / "new" / "a.safetensors", tree, {"epoch": "3", "note": "ü\n\"x\""})
    back, metadata = restore(tmp_path / "new" / "a.safetensors", template(tree))
    assert bits(back) == bits(tree)
    assert jax.tree.structure(back) == jax.tree.structure(tree)
    assert metadata == {"epoch": "3", "note": "ü\n\"x\""}
    assert all(leaf.flags.writeable for leaf in jax.tree.leaves(back))


@pytest.mark.parametrize("tree", [{}, None, (None, {}), np.float32(2), optax.EmptyState()])
def test_trees_of_few_leaves(tmp_path, tree):
    save(tmp_path / "a.safetensors", tree)
    assert bits(restore(tmp_path / "a.safetensors", tree)[0]) == bits(tree)


def test_other_readers_of_the_format_read_it(tmp_path):
    from safetensors import safe_open

    save(tmp_path / "a.safetensors", state(), {"epoch": "3"})
    with safe_open(tmp_path / "a.safetensors", framework="np") as file:
        assert file.metadata()["epoch"] == "3"
        np.testing.assert_array_equal(file.get_tensor(".weights['layer/a']['kernel']"), np.arange(6.0).reshape(2, 3))
        assert len(file.keys()) == len(jax.tree.leaves(state()))


def test_equal_states_give_equal_files(tmp_path):
    for name in "ab":
        save(tmp_path / name, state(), {"epoch": "3", "x": "1", "y": "2"})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_every_truncation_is_noticed(tmp_path):
    path = tmp_path / "a.safetensors"
    save(path, state(), {"epoch": "3"})
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    for end in {*range(12), *range(12, len(whole), 37), header - 1, header, header + 1, len(whole) - 1}:
        path.write_bytes(whole[:end])
        with pytest.raises(CorruptCheckpoint, match="a.safetensors is corrupt") as caught:
            restore(path, state())
        assert "\n" not in str(caught.value)
    path.write_bytes(whole + b"\0")
    with pytest.raises(CorruptCheckpoint):
        restore(path, state())


def test_every_flipped_bit_is_noticed(tmp_path):
    path = tmp_path / "a.safetensors"
    tree = {"w": jnp.arange(4.0), "step": jnp.int32(3)}
    save(path, tree, {"epoch": "3"})
    whole = path.read_bytes()
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        with pytest.raises(CorruptCheckpoint):
            restore(path, tree)


@pytest.mark.parametrize("content", [b"", b"hello, this is no checkpoint", b"\x02\0\0\0\0\0\0\0{}",
                                     b"\x02\0\0\0\0\0\0\0[]", b"\x08\0\0\0\0\0\0\0" + b"[" * 8, b"\xff" * 64,
                                     b'\x1d\0\0\0\0\0\0\0{"__metadata__":{"sha256":3}}'])
def test_foreign_files_are_refused(tmp_path, content):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(CorruptCheckpoint, match="a.safetensors is corrupt"):
        restore(path, {"w": jnp.ones(3)})


def test_a_file_without_digest_is_refused(tmp_path):
    from safetensors.numpy import save_file

    save_file({"['w']": np.ones(3, np.float32)}, tmp_path / "a.safetensors")
    with pytest.raises(CorruptCheckpoint, match="header"):
        restore(tmp_path / "a.safetensors", {"w": np.ones(3, np.float32)})


@pytest.mark.parametrize("template, message", [
    ({"a": np.ones(3), "b": np.ones(2)}, r"leaf \['b'\] is absent there, float64\[2\] here"),
    ({}, r"leaf \['a'\] is float64\[3\] there, absent here"),
    ({"a": np.ones((3, 1))}, r"leaf \['a'\] is float64\[3\] there, float64\[3, 1\] here"),
    ({"a": np.ones(3, np.float32)}, r"leaf \['a'\] is float64\[3\] there, float32\[3\] here"),
    (np.ones(3), r"leaf \(the whole\) is absent there"),
])
def test_another_structure_names_the_first_leaf_that_differs(tmp_path, template, message):
    save(tmp_path / "a.safetensors", {"a": np.ones(3)})
    with pytest.raises(ValueError, match=message) as caught:
        restore(tmp_path / "a.safetensors", template)
    assert not isinstance(caught.value, CorruptCheckpoint)


def test_leaves_that_are_no_plain_arrays_are_refused(tmp_path):
    for leaf in jax.random.key(0), "text", np.array(["a"]), np.ones(2, ">f4"):
        with pytest.raises(ValueError, match=r"leaf \['k'\] is of type"):
            save(tmp_path / "a.safetensors", {"k": leaf})
    assert not list(tmp_path.iterdir())


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="a.safetensors does not exist"):
        restore(tmp_path / "a.safetensors", {})


def test_latest_takes_the_newest(tmp_path):
    assert latest(tmp_path, {}) is None
    assert latest(tmp_path / "absent", {}) is None
    assert newest(tmp_path) is None is newest(tmp_path / "absent")


def test_the_digest_of_a_tree_is_that_of_its_file(tmp_path):
    tree = {"w": np.arange(3.0), "n": np.int32(1)}
    for n in 1, 2:
        save(tmp_path / f"{n:05d}.safetensors", tree | {"n": np.int32(n)})
    assert newest(tmp_path) == (2, digest(tree | {"n": np.int32(2)})) == (2, latest(tmp_path, tree).digest)
    assert digest(tree) == checkpoint.read(tmp_path / "00001.safetensors").digest != newest(tmp_path)[1]
    (tmp_path / "00002.safetensors").write_bytes(b"rubbish")
    assert newest(tmp_path) == (1, digest(tree))
    for epoch in 2, 10, 100000:
        save(tmp_path / f"{epoch:05d}.safetensors", {"w": np.float32(epoch)})
    (tmp_path / "final.safetensors").write_bytes(b"")
    (tmp_path / ".99999.safetensors.1.tmp").write_bytes(b"half")
    epoch, tree, skipped, _ = latest(tmp_path, {"w": np.float32(0)})
    assert (epoch, tree["w"], skipped) == (100000, 100000, [])


def test_latest_falls_back_past_corrupt_ones_and_says_so(tmp_path):
    for epoch in 1, 2, 3:
        save(tmp_path / f"{epoch:05d}.safetensors", {"w": np.float32(epoch)})
    for epoch in 2, 3:
        path = tmp_path / f"{epoch:05d}.safetensors"
        path.write_bytes(path.read_bytes()[:-1])
    epoch, tree, skipped, _ = latest(tmp_path, {"w": np.float32(0)})
    assert (epoch, tree["w"]) == (1, 1)
    assert len(skipped) == 2
    assert "00003.safetensors is corrupt (its content" in skipped[0]
    assert skipped[0].endswith("falling back to 00002.safetensors")
    assert skipped[1].endswith("falling back to 00001.safetensors")
    keep(tmp_path, 1)
    assert latest(tmp_path, {"w": np.float32(0)}).epoch == 1


def test_latest_refuses_where_none_is_whole_and_where_the_state_is_another(tmp_path):
    save(tmp_path / "00001.safetensors", {"w": np.float32(1)})
    with pytest.raises(ValueError, match=r"leaf \['w'\]"):
        latest(tmp_path, {"w": np.float64(1)})
    (tmp_path / "00001.safetensors").write_bytes(b"")
    with pytest.raises(CorruptCheckpoint, match="none of its 1 checkpoints is whole"):
        latest(tmp_path, {"w": np.float32(1)})
    assert (tmp_path / "00001.safetensors").exists()


def test_keep_deletes_the_old_and_leftovers(tmp_path):
    for epoch in range(5):
        save(tmp_path / f"{epoch:05d}.safetensors", {})
    (tmp_path / ".00005.safetensors.1.tmp").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("mine")
    keep(tmp_path, 2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["00003.safetensors", "00004.safetensors", "notes.txt"]
    with pytest.raises(ValueError, match="at least one"):
        keep(tmp_path, 0)


def test_a_failing_write_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "00001.safetensors"
    save(path, {"w": np.float32(1)})

    def full(*_):
        raise OSError(28, "No space left on device")

    for step in "fsync", "replace":
        with monkeypatch.context() as patch, pytest.raises(RunWriteError, match="00001.safetensors: No space left"):
            patch.setattr(os, step, full)
            save(path, {"w": np.float32(2)})
        assert os.listdir(tmp_path) == [path.name]
        assert restore(path, {"w": np.float32(0)})[0]["w"] == 1


def test_killed_while_saving_there_is_a_whole_one(tmp_path):
    """A real process saves without pause and is killed at several moments; each time a checkpoint is whole."""
    script = ("import sys, itertools, numpy as np\n"
              "from dnas.runs.checkpoint import keep, save\n"
              "for i in itertools.count(1):\n"
              "    save(f'{sys.argv[1]}/{i:05d}.safetensors', {'w': np.full(200_000, i)}); keep(sys.argv[1], 2)\n"
              "    print(i, flush=True)\n")
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    for _ in range(5):
        done = int(process.stdout.readline())
    process.kill()
    process.wait()
    process.stdout.close()
    epoch, tree, skipped, _ = latest(tmp_path, {"w": np.zeros(200_000, int)})
    assert epoch >= done and not skipped and (tree["w"] == epoch).all()
