"""Pictures: every name is there and none overlaps another, equal input gives equal files; TensorBoard events."""

import itertools
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from dnas.reports.cells import _cell, _joined, _order, draw_genotype, terminal_cell
from dnas.reports.figures import _limits, draw_curves, draw_logits, text_width
from dnas.runs.directory import RunWriteError
from dnas.runs.tensorboard import events
from dnas.types import Choice, Genotype, Group

NB_OPS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
NB = {"cell": Group(((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3)), NB_OPS)}
DARTS_OPS = ("none", "max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3",
             "dil_conv_5x5")
DARTS = {name: Group(tuple((s, t) for t in range(2, 6) for s in range(t)), DARTS_OPS) for name in ("normal", "reduce")}


def random_genotype(groups, seed, per_node=None):
    """Random operations; on all edges, or on `per_node` random edges into each node."""
    rng = np.random.default_rng(seed)
    choices = {}
    for name, group in groups.items():
        kept = []
        for node in sorted({t for _, t in group.edges}):
            edges = [edge for edge in group.edges if edge[1] == node]
            picked = sorted(rng.permutation(len(edges))[:per_node])
            kept += [Choice(*edges[i], str(rng.choice(group.ops))) for i in picked]
        choices[name] = kept
    return Genotype("toy", {}, choices)


NB_CELL = random_genotype(NB, 1)
DARTS_CELLS = random_genotype(DARTS, 1, per_node=2)
CASES = [(NB_CELL, NB), (DARTS_CELLS, DARTS), (random_genotype(DARTS, 2), DARTS),
         (Genotype("toy", {}, {"cell": []}), NB)]


@pytest.mark.parametrize("genotype, groups", CASES)
def test_the_svg_names_every_operation_and_node(tmp_path, genotype, groups):
    draw_genotype(genotype, groups, tmp_path / "cells.svg")
    texts = ["".join(e.itertext()).strip() for e in ElementTree.parse(tmp_path / "cells.svg").iter()
             if e.tag.endswith("}text")]
    for choice in itertools.chain(*genotype.choices.values()):
        texts.remove(choice.op)
    for name, group in groups.items():
        texts.remove(f"toy: {name}")
        for node in {n for edge in group.edges for n in edge}:
            texts.remove(str(node))
    assert texts == ["out"] * (2 if groups is DARTS else 0)


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_equal_genotypes_give_equal_files(tmp_path, suffix):
    for name in "ab":
        draw_genotype(NB_CELL, NB, tmp_path / f"{name}.{suffix}")
    content = (tmp_path / f"a.{suffix}").read_bytes()
    assert content == (tmp_path / f"b.{suffix}").read_bytes()
    assert not re.search(rb"<dc:date|20\d\d-\d\d-\d\d", content)


def test_the_png_is_a_picture_with_a_white_border(tmp_path):
    from matplotlib.image import imread

    draw_genotype(DARTS_CELLS, DARTS, tmp_path / "cells.png")
    picture = imread(tmp_path / "cells.png")[..., :3]
    height, width, _ = picture.shape
    assert 1500 < width < 2500 and 700 < height < 1700
    assert picture.min() < 0.5
    for border in picture[:15], picture[-15:], picture[:, :15], picture[:, -15:]:
        assert border.min() == 1


@pytest.mark.parametrize("seed", range(40))
def test_names_lie_between_the_nodes_on_lanes_of_their_own(seed):
    """What keeps a cell legible: no name meets another, a node, or the rising part of an edge; no two ports meet."""
    group, per_node = (NB["cell"], None) if seed % 4 == 0 else (DARTS["normal"], 2 + seed % 4)
    choices = random_genotype({"cell": group}, seed, per_node).choices["cell"]
    order = _order(group)
    cell = _cell(order, choices, _joined(group, order))
    boxes = {}
    for c in choices:
        half = text_width(c.op) / 2 + 0.05
        boxes[c] = cell.slots[c] - half, cell.slots[c] + half, cell.lanes.get(c, 0)
        assert cell.x[c.source] < boxes[c][0] and boxes[c][1] < cell.x[c.target]
        assert all(x + cell.width / 2 < boxes[c][0] or boxes[c][1] < x - cell.width / 2 for x in cell.x.values())
    for (a, b, lane), (s, e, other) in itertools.combinations(boxes.values(), 2):
        assert lane != other or b < s or e < a
    for side in 1, -1:
        there = [x for c, ends in cell.ports.items() if cell.lanes[c] * side > 0 for x in ends]
        there += list(cell.exits.values()) if side < 0 else []
        assert all(b - a > 0.1 for a, b in itertools.pairwise(sorted(there)))
        assert all(min(abs(x - centre) for centre in cell.x.values()) < cell.width / 2 for x in there)


def test_bad_input_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"\.svg or \.png"):
        draw_genotype(NB_CELL, NB, tmp_path / "cells.pdf")
    with pytest.raises(ValueError, match="groups"):
        draw_genotype(NB_CELL, DARTS, tmp_path / "cells.svg")
    with pytest.raises(ValueError, match=r"shape \(3, 5, 6\)"):
        draw_logits({"cell": np.ones((3, 5, 6))}, NB, tmp_path / "logits.svg")
    with pytest.raises(ValueError, match="loss/train"):
        draw_curves([{"epoch": 1, "steps": 3}], tmp_path / "curves.svg")
    with pytest.raises(ValueError, match="cell"):
        terminal_cell(NB_CELL, DARTS)
    assert not list(tmp_path.iterdir())


def test_the_users_matplotlib_settings_neither_matter_nor_change(tmp_path):
    import matplotlib

    draw_genotype(NB_CELL, NB, tmp_path / "a.svg")
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "black", "svg.fonttype": "path"}):
        before = dict(matplotlib.rcParams)
        draw_genotype(NB_CELL, NB, tmp_path / "b.svg")
        assert dict(matplotlib.rcParams) == before
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


@pytest.mark.parametrize("epochs", [1, 30])
def test_the_logits_picture_has_one_legend_and_a_panel_an_edge(tmp_path, epochs):
    draw_logits({"cell": np.random.default_rng(0).normal(size=(epochs, 6, 5))}, NB, tmp_path / "logits.svg")
    texts = ["".join(e.itertext()).strip() for e in ElementTree.parse(tmp_path / "logits.svg").iter()
             if e.tag.endswith("}text")]
    assert all(texts.count(op) == 1 for op in NB_OPS)
    assert all(f"{s} → {t}" in texts for s, t in NB["cell"].edges)


def ticks(path):
    """The numbers on the axes of a logits' picture of 3 epochs, those of the epochs left out."""
    texts = ["".join(e.itertext()).strip() for e in ElementTree.parse(path).iter() if e.tag.endswith("}text")]
    numbers = [text for text in texts if re.fullmatch(r"[\d.]+", text)]
    return sorted({float(text) for text in numbers} - {0.0, 1.0, 2.0}), numbers


@pytest.mark.parametrize("scale, low, high", [(0.02, 19, 21), (0.3, 10, 30), (20, 0, 100)])
def test_the_axis_of_the_logits_holds_what_is_in_them(tmp_path, scale, low, high):
    """Shares between `low` and `high` %: a figure that they fill, with numbers at which they stand."""
    logits = np.zeros((3, 6, 5))
    logits[1:, :, 0], logits[1:, :, 1] = scale, -scale
    draw_logits({"cell": logits}, NB, tmp_path / "logits.svg")
    shares = 100 * NB["cell"].softmax(logits)
    assert low < shares.min() or low == 0
    found, texts = ticks(tmp_path / "logits.svg")
    assert low - 1 <= found[0] and found[-1] <= high + 1 and len(found) >= 3
    assert found[-1] - found[0] >= (shares.max() - shares.min()) / 2
    assert all(len(text.rpartition(".")[2]) <= 3 for text in texts)
    assert (tmp_path / "logits.svg").read_text().count(">uniform<") == 1


def test_logits_that_have_not_been_trained_do_not_fill_the_figure():
    noise = NB["cell"].softmax(1e-3 * np.random.default_rng(0).normal(size=(1, 6, 5)))
    low, high = _limits(list(np.moveaxis(noise, 1, 0)))
    assert high - low == pytest.approx(5e-3) and low < noise.min() and noise.max() < high
    full = [np.array([[0.0, 1.0], [0.5, 0.5]])]
    assert _limits(full) == pytest.approx((-0.03, 1.03))


def test_operations_that_an_edge_lacks_do_not_widen_the_axis(tmp_path):
    group = Group(((0, 1), (0, 2)), (("a", "b", "c"), ("a", "b")))
    draw_logits({"cell": np.zeros((3, 2, 3))}, {"cell": group}, tmp_path / "logits.svg")
    found, _ = ticks(tmp_path / "logits.svg")
    assert found[0] >= 30 and found[-1] <= 54


def test_curves_leave_out_what_is_missing(tmp_path):
    records = [{"epoch": 1, "loss": {"train": 2.0, "valid": None}, "accuracy/valid": 10.0},
               {"epoch": 2, "loss": {"train": 1}}]
    draw_curves(records, tmp_path / "curves.svg")
    text = (tmp_path / "curves.svg").read_text()
    assert all(f">{word}<" in text for word in ("loss", "accuracy", "train", "valid", "epoch"))


def test_curves_draw_the_metrics_of_the_task(tmp_path):
    records = [{"epoch": n, "loss": {"train": 2.0 / n}, "mae": {"train": 50.0, "holdout": 40.0}, "entropy": {"cell": 1.0},
                "gap": 0.1, "lr": 0.1} for n in (1, 2)]
    draw_curves(records, tmp_path / "curves.svg")
    text = (tmp_path / "curves.svg").read_text()
    assert ">mae<" in text and ">holdout<" in text
    assert not any(f">{word}<" in text for word in ("entropy", "gap", "accuracy"))


def test_softmax_gives_nothing_to_operations_that_an_edge_lacks():
    group = Group(((0, 1), (0, 2)), (("a", "b"), ("c",)))
    np.testing.assert_allclose(group.softmax(np.full((4, 2, 2), 900.0)), [[[0.5, 0.5], [1, 0]]] * 4)


def test_the_terminals_cell():
    genotype = Genotype("toy", {}, {"cell": [(1, 3, "avg_pool_3x3"), (0, 1, "nor_conv_3x3"), (0, 3, "skip_connect")]})
    assert terminal_cell(genotype, NB) == ("cell\n"
                                           "  1 <- 0 nor_conv_3x3\n"
                                           "  3 <- 0 skip_connect  1 avg_pool_3x3")


def read_events(folder):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    board = accumulator.EventAccumulator(str(folder), size_guidance={"scalars": 0})
    board.Reload()
    return board


def test_events_hold_the_numbers_the_gates_the_config_and_the_picture(tmp_path):
    draw_genotype(NB_CELL, NB, tmp_path / "cells.png")
    board = events(tmp_path, NB)
    board.config({"epochs": 2})
    for epoch in 1, 2:
        board.epoch({"epoch": epoch, "loss": {"train": 1 / epoch, "valid": None}, "accuracy/valid": np.float32(50)},
                    {"cell": np.zeros((6, 5))})
    board.picture(tmp_path / "cells.png", 2)
    board.close()
    found = read_events(tmp_path)
    assert [(e.step, e.value) for e in found.Scalars("loss/train")] == [(1, 1), (2, 0.5)]
    assert found.Scalars("gates/cell/1-3/nor_conv_3x3")[0].value == pytest.approx(0.2)
    assert len(found.Tags()["scalars"]) == 2 + 30
    assert found.Tags()["images"] == ["cell"]
    assert "config/text_summary" in found.Tags()["tensors"]


def test_events_hold_the_hyperparameters_and_what_to_compare_by_them(tmp_path):
    hparams = pytest.importorskip("tensorboard.plugins.hparams.metadata")
    config = {"method": {"name": "darts", "lr": 0.025, "frozen": False, "clip": None}, "data": ["a", "b"], "seed": 3,
              "genotype": {"name": "|none~0|", "schema": 1, "groups": {"cell": [{"op": "none"}]}}}
    mae = {"name": "mae", "better": -1, "percent": False}
    for name, groups, metric in ("search", NB, {}), ("train", {}, {}), ("numbers", NB, {"metric": mae}):
        (tmp_path / name).mkdir()
        board = events(tmp_path / name, groups)
        board.config(config | metric)
        board.done()
        board.close()
        content = {tag: metadata.plugin_data.content for tag, metadata in read_events(
            tmp_path / name).summary_metadata.items() if metadata.plugin_data.plugin_name == "hparams"}
        start = hparams.parse_session_start_info_plugin_data(content[hparams.SESSION_START_INFO_TAG]).hparams
        assert {key: getattr(value, value.WhichOneof("kind")) for key, value in start.items()
                if not key.startswith("metric.")} == {
            "method.name": "darts", "method.lr": 0.025, "method.frozen": False, "data": "a, b", "seed": 3,
            "genotype.name": "|none~0|"}
        assert hparams.parse_session_end_info_plugin_data(content[hparams.SESSION_END_INFO_TAG]).status == 1
        assert (hparams.EXPERIMENT_TAG in content) == bool(groups)
        if groups:  # its gates are no metrics
            found = hparams.parse_experiment_plugin_data(content[hparams.EXPERIMENT_TAG])
            assert [info.name.tag for info in found.metric_infos] == [
                f"{quantity}/{split}" for quantity in ("mae" if metric else "accuracy", "loss")
                for split in ("holdout", "test")]


def test_resumed_events_replace_what_was_written_after_the_checkpoint(tmp_path):
    for first, value, purge in (1, 1.0, None), (3, 2.0, 3):
        board = events(tmp_path, NB, purge_step=purge)
        for epoch in range(first, 5):
            board.epoch({"epoch": epoch, "loss/train": value}, {"cell": np.zeros((6, 5))})
        board.close()
        for n, path in enumerate(sorted(tmp_path.glob("events.out*"))):
            path.rename(tmp_path / f"events.out.tfevents.{n}.{first}")
    assert [(e.step, e.value) for e in read_events(tmp_path).Scalars("loss/train")] == [(1, 1), (2, 1), (3, 2), (4, 2)]


def test_events_on_a_disk_that_refuses_raise(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunWriteError):
        events(tmp_path / "file", NB)
