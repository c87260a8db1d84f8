"""A search, a training or a selection on several devices is that of a single device up to rounding, and the devices exchange
no more than they must. They are parts of a CPU, in a process of its own, see tests/toy_devices.py."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest

from dnas.api.estimate import estimate
from dnas.engine.mesh import bytes_sent, collectives, create_mesh, describe, device_count, layout, refuse_undivided
from tests import toy_devices

ROOT = Path(__file__).parent.parent
FLAGS = "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0"


def facts_of(part, folder):
    out = folder / "facts.json"
    env = os.environ | {"XLA_FLAGS": FLAGS, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-m", "tests.toy_devices", part, str(out)], cwd=ROOT, env=env, text=True,
                          capture_output=True)
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text())


@pytest.fixture(scope="module")
def facts(tmp_path_factory):
    return facts_of("programs", tmp_path_factory.mktemp("programs"))


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    return facts_of("commands", tmp_path_factory.mktemp("commands"))


@pytest.mark.heavy
def test_a_batch_is_divided_and_its_statistics_are_those_of_the_whole(facts):
    alone, four = facts["steps"]["alone"], facts["steps"]["1"]
    assert four["worst"] < 1e-12
    assert list(four["exchanged"]) == ["all-reduce"] and 0 < four["exchanged"]["all-reduce"][0] <= 20
    assert four["flops"] < 0.3 * alone["flops"] and four["memory"] < 0.5 * alone["memory"]


@pytest.mark.heavy
def test_lanes_exchange_nothing(facts):
    alone = facts["steps"]["alone"]
    for lanes, width in (4, 4), (6, 8):
        program = facts["steps"][str(lanes)]
        assert program["exchanged"] == {} and program["worst"] < 1e-12 and program["width"] == width
    assert facts["steps"]["4"]["flops"] < 1.01 * alone["flops"]


@pytest.mark.heavy
def test_two_lanes_have_two_devices_each(facts):
    two = facts["steps"]["2"]
    assert two["worst"] < 1e-12 and two["width"] == 2 and list(two["exchanged"]) == ["all-reduce"]


@pytest.mark.heavy
def test_off_a_cpu_batch_norm_exchanges_two_sums_of_each_channel_at_a_time(facts):
    assert facts["norms"] == {"all-reduce": [2, 2 * 2 * 4 * 4]}  # forwards and backwards, 4 channels in float32


@pytest.mark.heavy
def test_exchanges_count_as_often_as_they_run_and_cost_what_a_ring_sends(facts):
    assert facts["loop"] == {"all-reduce": [5, 5 * 4 * 4]}
    text = ("HloModule f\n\nENTRY %main (x: f32[8]) -> f32[32] {\n  %x = f32[8]{0} parameter(0)\n"
            "  %begun = (f32[8]{0}, f32[32]{0}) all-gather-start(%x), dimensions={0}\n"
            "  ROOT %y = f32[32]{0} all-gather-done(%begun)\n}\n")
    assert collectives(SimpleNamespace(as_text=lambda: text)) == {"all-gather": (1, 128)}
    assert bytes_sent({"all-reduce": (3, 400), "all-gather": (1, 128)}, 4) == 2 * 300 + 96
    assert bytes_sent({}, 4) == bytes_sent({"all-reduce": (3, 400)}, 1) == 0


@pytest.mark.heavy
def test_a_depthwise_convolution_of_several_edges_gathers_nothing(facts):
    edges = facts["edges"]
    assert list(edges["exchanged"]) == ["all-reduce"] and edges["worst"] < 1e-11


@pytest.mark.heavy
def test_evaluations_deal_out_whole_batches(facts):
    assert facts["scores"] == {"worst": 0, "examples": [72, 26]}


@pytest.mark.heavy
def test_a_training_is_that_of_one_device(facts):
    assert facts["trained"]["worst"] < 1e-4 and facts["trained"]["devices"] == 1


@pytest.mark.heavy
def test_programs_of_one_device_do_not_depend_on_others(facts):
    assert len(jax.devices()) == 1 and facts["devices"] == 4
    assert facts["texts"] == toy_devices.texts()


@pytest.mark.heavy
def test_programs_of_a_mesh_are_not_taken_for_one_another(facts):
    assert facts["cached"] == {"devices": [[0, 1], [2, 3]], "files": [0, 1]}


@pytest.mark.heavy
def test_an_estimate_is_of_each_device_and_says_what_they_exchange(said):
    code, text = said["estimate"]
    line = r"devices       4: the memory is that of each; each sends at least 5,\d\d\d bytes a step\n"
    assert code == 0 and re.search(line, text)


@pytest.mark.heavy
def test_a_run_records_its_devices_and_says_that_it_continues_on_others(said):
    assert said["environment"] == {"lane": 1, "data": 4} and "devices 4\n" in said["search"][1]
    assert "begun on" not in said["complete"][1]
    assert "devices begun on 4, continued on 1: equal up to rounding, not to the bit" in said["continued"][1]
    assert [said[name][0] for name in ("search", "complete", "again", "continued", "train")] == [0] * 5
    assert "devices   4\n" in said["train"][1] and said["loaded"] == 1


@pytest.mark.heavy
def test_a_run_that_continues_on_as_many_devices_ends_with_the_same_bits(said):
    assert said["same bits"] and "begun on" not in said["again"][1]


@pytest.mark.heavy
def test_a_selection_is_that_of_one_device(said):
    assert [code for code, _ in said["select"]] == [0, 0] and "devices    4\n" in said["select"][1][1]
    assert all(row == pytest.approx(other, abs=1e-4) for row, other in zip(*said["scores"]))


@pytest.mark.heavy
def test_a_search_in_memory_ends_on_one_device(said):
    assert said["in memory"] == {"devices": 1, "epochs": 1}


@pytest.mark.heavy
def test_a_batch_that_does_not_divide_is_refused(facts):
    code, said = facts["uneven"]
    nearest = "batch 30 does not divide among 4 devices; the nearest that does is 28; or choose fewer devices"
    assert code == 2 and said == f"dnas: error: {nearest}\n" and not facts["written"]
    with pytest.raises(ValueError, match="the nearest that does is 32"):
        refuse_undivided(31, 4)
    with pytest.raises(ValueError, match="the nearest that does is 28"):
        refuse_undivided(31, 4, most=31)
    with pytest.raises(ValueError, match="^batch 3 does not divide among 4 devices; choose fewer devices$"):
        refuse_undivided(3, 4, most=3)
    with pytest.raises(ValueError, match="^batch 30 does not divide among 4 devices; choose fewer devices$"):
        refuse_undivided(30, 4, most=0)
    refuse_undivided(31, 4, lanes=4)
    refuse_undivided(31, 1)


def test_each_of_several_searches_gets_devices_of_its_own():
    sizes = {(4, 1): (1, 4), (4, 2): (2, 2), (4, 3): (4, 1), (4, 9): (4, 1), (6, 2): (2, 3), (6, 4): (6, 1), (1, 5): (1, 1)}
    assert {key: layout(*key) for key in sizes} == sizes
    assert describe({"lane": 1, "data": 4}) == "4" and describe({"lane": 2, "data": 3}) == "6 (3 to a search)"


def test_a_number_of_devices_that_there_are_not_is_refused():
    assert device_count(None) == device_count("all") == device_count(1) == 1 and create_mesh(1) is None
    for devices in (0, 2, True, "two", 1.0):
        with pytest.raises(ValueError, match=f"^devices is {devices!r}; it must be all, or a whole number from 1 to 1, "):
            device_count(devices)


def test_a_chip_is_estimated_alone():
    for devices in (4, "all"):
        with pytest.raises(ValueError, match=f"^devices is {devices!r}; with a platform or a chip it must be 1, "):
            estimate(toy_devices.SPACE, toy_devices.METHOD, toy_devices.DATA, batch=16, devices=devices, chip="h100")
