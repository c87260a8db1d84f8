"""The search loop: advances lanes epoch by epoch, evaluates and records them, and saves and restores their state."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from dnas.algorithms.decisions import Stop, checked_decisions, stop_of, undecided
from dnas.algorithms.method import Algorithm, Method
from dnas.algorithms.players import SearchState, of_network, started_from, weights_fit
from dnas.algorithms.schedules import ENGINE
from dnas.data import Dataset, epoch_indices, steps_per_epoch
from dnas.data.batches import by_importance, drawn_indices
from dnas.engine.compile import compile_diagnosis, compile_evaluation, on_device
from dnas.engine.diagnose import collapse, skips
from dnas.engine.host import initial
from dnas.engine.importance import compile_importance
from dnas.engine.lanes import Epoch, EpochEnd, NonFiniteLoss, advance_lanes, start_lanes
from dnas.engine.mesh import on_one
from dnas.engine.progress import SILENT, Display, display, shared
from dnas.engine.records import counts, entropy, of_split, refuse_non_finite, tagged
from dnas.runs import checkpoint
from dnas.runs.directory import RunDirectory
from dnas.runs.index import number
from dnas.runs.recorder import Begun, SearchRecorder, open_search_recorder
from dnas.task import Task, task_of
from dnas.types import Array, Genotype, SearchSpace


class Result(NamedTuple):
    """The result of a search.

    state: the last state; genotype: selected by the method's rule; gates: those by which the supernet is evaluated.
    holdout: {"loss": in nats or squared units, and each metric of the task} of the supernet, with batch statistics.
    records: a mapping for each epoch, the lines of metrics.jsonl; seconds: spent by this process.
    stopped: why it ended before its last epoch; None if it did not.
    trajectory: the logits `[epochs + 1, E, K]` of each group, the first before any step.
    """

    state: SearchState
    genotype: Genotype
    gates: Mapping[str, Array]
    holdout: Mapping[str, float]
    records: list[dict[str, Any]]
    seconds: float
    stopped: Stop | None = None
    trajectory: Mapping[str, np.ndarray] = {}

    def __repr__(self) -> str:
        metrics = ", ".join(f"{name} {value:.4g}" for name, value in self.holdout.items())
        return f"<result of a search of {len(self.records)} epochs: hold-out {metrics}; {self.genotype!r}>"


class Lane(NamedTuple):
    """One of several searches of a space by one program: its method, its seed, and its run directory if it has one.

    method: those of all lanes may differ in numbers only, as by `Method.replace`. name: for messages.
    begins: where it begins, if not before its first epoch. restarted: the epochs at its beginning that its schedules leave
    out, where weights and steps began anew after them.
    """

    method: Method
    seed: int = 0
    run: RunDirectory | None = None
    name: str = ""
    begins: Begun | None = None
    restarted: int = 0


def search(space: SearchSpace, method: Method, data: Dataset, *, epochs: int, batch: int, seed: int = 0,
           run: RunDirectory | None = None, progress: bool = True, diagnose: int = 0, stop_on_collapse: bool = False,
           start: SearchState | None = None, mesh: Mesh | None = None, key: Any = None,
           seconds: float | None = None) -> Result:
    """Searches `space` by `method` on the train and valid splits, with an evaluation on the hold-out split after each epoch.

    The same arguments give the same bits, on the same number of devices. With `run` the results are written into its
    directory, and an interrupted search continues from its last whole checkpoint.

    diagnose: epochs between diagnoses (see `dnas.engine.diagnose`), 0 for none. A collapse is reported, and with
        `stop_on_collapse` ends the search with the genotype of the epoch before it.
    start: the state of another search of this space, or `of_network`, see `started_from`.
    mesh: the devices, see `dnas.engine.mesh.create_mesh`; `batch` must divide by its axis `data`. None: the default device.
    key: see `dnas.engine.compile.program_key`; None to trace the programs in each process.
    seconds: see `search_lanes`.

    Raises ValueError for a batch larger than a split and a start that does not fit, NonFiniteLoss, and the errors of
    `dnas.runs.checkpoint` and `dnas.runs.directory`.
    """
    [result] = search_lanes(space, [Lane(method, seed, run)], data, epochs=epochs, batch=batch, progress=progress,
                            diagnose=diagnose, stop_on_collapse=stop_on_collapse, start=start, mesh=mesh, key=key,
                            seconds=seconds)
    if isinstance(result, NonFiniteLoss):
        raise result
    return result


def search_lanes(space: SearchSpace, lanes: Sequence[Lane], data: Dataset, *, epochs: int, batch: int, progress: bool = True,
                 diagnose: int = 0, stop_on_collapse: bool = False, start: SearchState | None = None,
                 at_once: bool | None = None, mesh: Mesh | None = None, key: Any = None,
                 seconds: float | None = None, until: int | None = None) -> list[Result | NonFiniteLoss]:
    """Several searches by one program, each equal to `search` by itself up to rounding.

    Lanes that were interrupted at different epochs advance in groups until all are level.
    until: the epoch after which they end, of the `epochs` over which their schedules go; None for the last.
    at_once: see `dnas.engine.lanes.start_lanes`; in turn, as on a CPU, each is equal to `search` bit for bit.
    seconds: of a search's epochs, those before an interruption included, after which it ends; the first epoch that passes
        them is its last. Of lanes that advance at once each has an equal share of the time.

    A search whose loss is not finite ends with the error in place of its result; the others continue.
    Raises ValueError if two lanes are the same or differ in more than numbers, and the errors of `search`.
    """
    began, steps, task = time.monotonic(), steps_per_epoch(data, batch), task_of(data)
    _check_lanes(lanes)
    algorithm = lanes[0].method.bind(space, task)
    until = epochs if until is None else until
    hypers = [lane.method.numbers_of(epochs=epochs - lane.restarted, steps=steps) for lane in lanes]
    inputs = input_shape(data, batch)
    check_search(space, lanes[0].method, inputs, epochs=epochs, diagnose=diagnose, start=start)
    latest = [_latest(algorithm, inputs, hyper, lane, start) for lane, hyper in zip(lanes, hypers)]
    rules = [rule for rule in (lanes[0].method.stop, collapse if stop_on_collapse else None) if rule]

    with contextlib.ExitStack() as stack:
        done = [last.epoch * steps for last in latest]
        shown = stack.enter_context(display(task, until, steps * len(lanes), sum(done))) if progress else SILENT
        displays, finish_epoch = [shown], lambda: None
        if len(lanes) > 1:
            displays, finish_epoch = shared(shown, task, _names(lanes), done)
        active = [stack.enter_context(_Search.open(space, task, algorithm, data, lane, hyper, last, one, rules,
                                                   epochs=epochs, until=until, batch=batch, steps=steps,
                                                   seconds=seconds))
                  for lane, hyper, last, one in zip(lanes, hypers, latest, displays)]
        if any(one.going for one in active):
            with shown.compiling("the search step and the evaluation"):
                examples, first = on_device(data, mesh), active[0]
                program = start_lanes(algorithm, data, examples, first.state, first.hyper, steps, batch, len(lanes),
                                      at_once=at_once, key=key)
                gates = algorithm.gates(first.state, first.hyper)
                evaluate = compile_evaluation(space, task, data, examples, first.state, gates, batch, key=key)
                importance = compile_importance(algorithm, data, examples, first.state, first.hyper, batch, key=key) \
                    if algorithm.importance else None
                program = program()
                inspect = compile_diagnosis(algorithm, data, examples, first.state, first.hyper, batch) \
                    if diagnose else None
            if len(lanes) > 1:
                shown.say(program.note)
        while any(one.going for one in active):
            epoch = min(one.epoch for one in active if one.going)
            due = {place: one.next_epoch(importance) for place, one in enumerate(active) if one.going and one.epoch == epoch}
            for place, end in advance_lanes(program, due).items():
                if isinstance(end, NonFiniteLoss):
                    active[place].fail(end)
                    if len(lanes) > 1:
                        displays[place].say(str(end))
                    continue
                diagnosis = inspect if inspect and (epoch + 1) % diagnose == 0 else None
                active[place].finish_epoch(end, evaluate, diagnosis)
            finish_epoch()
        return [one.result(began) for one in active]


def check_search(space: SearchSpace, method: Method, inputs: jax.ShapeDtypeStruct, *, epochs: int, diagnose: int,
                 start: SearchState | None) -> None:
    """Raises ValueError, in one line, if the method says that it cannot search so. inputs: see `input_shape`."""
    fresh = start and of_network(*jax.eval_shape(lambda key: space.init(key, inputs), jax.random.key(0)))
    method.check_search(space, {"epochs": epochs, "diagnose": diagnose, "weights": bool(start and weights_fit(fresh, start)),
                                "decisions": start and start.decisions or undecided(space.groups)})


class _Search:
    """One search between its epochs: its state, its recorder and its display."""

    @classmethod
    @contextlib.contextmanager
    def open(cls, space: SearchSpace, task: Task, algorithm: Algorithm, data: Dataset, lane: Lane, hyper: Mapping[str, Any],
             latest: checkpoint.Latest, shown: Display, rules: Sequence[Callable], **sizes: Any):
        """The search of `lane`, continued from its latest checkpoint, with its recorder open."""
        state = jax.tree.map(jnp.asarray, latest.tree)
        with open_search_recorder(lane.run, space, latest.epoch, state, lane.begins) as recorder:
            for message in latest.skipped:
                shown.say(message)
            yield cls(space, task, algorithm, data, lane, hyper, state, latest.epoch, shown, rules, recorder, **sizes)

    def __init__(self, space, task, algorithm, data, lane, hyper, state, epoch, shown, rules, recorder: SearchRecorder, *,
                 epochs: int, until: int, batch: int, steps: int, seconds: float | None):
        self.space, self.task, self.algorithm, self.data, self.lane, self.hyper = space, task, algorithm, data, lane, hyper
        self.state, self.epoch, self.shown, self.recorder = state, epoch, shown, recorder
        self.seconds = sum(number(each, "seconds") or 0 for each in lane.run.timings()) if lane.run else 0
        self.rules = [*rules, self._out_of_time]
        self.epochs, self.until, self.batch, self.steps, self.limit, self.error = epochs, until, batch, steps, seconds, None
        self.key = jax.random.fold_in(jax.random.key(lane.seed), 1)
        self.stopped, self.warned = stop_of(self.rules, self.recorder.records), False
        if epoch:
            shown.say(f"continuing after epoch {epoch} of {until}" if self.going else
                      f"all {until} epochs are done" if not self.stopped else self.stopped.reason)

    @property
    def going(self) -> bool:
        """Whether there are epochs left."""
        return self.epoch < self.until and not self.stopped and not self.error

    def next_epoch(self, importance: Callable | None) -> Epoch:
        """The arguments of the next epoch, whose examples are drawn by their importance, if any."""
        splits, before = self.data.splits, self.epoch * self.steps
        train, valid = epoch_indices(self.lane.seed, self.epoch, splits["train"], splits["valid"], self.batch)
        if importance and self.epoch:
            scores = importance(self.state, self.hyper, jax.random.fold_in(self.key, before))
            chances = by_importance(scores, self.epoch / self.epochs)
            train = drawn_indices(self.lane.seed, self.epoch, splits["train"], self.batch, chances)

        def on_metrics(metrics, done, seconds):
            refuse_non_finite(metrics, before, self.recorder.last())
            means = {name: float(np.mean(values, dtype=np.float64)) for name, values in metrics.items()}
            rate = 2 * self.batch * done / seconds
            self.shown.step(before + done, tagged(means), rate)
            return means, rate

        return Epoch(self.state, self.hyper, self.key, train, valid, on_metrics)

    def finish_epoch(self, end: EpochEnd, evaluate: Callable, inspect: Callable | None) -> None:
        """Evaluates the supernet after an epoch, applies the method's decisions, and records both."""
        self.state, (means, rate) = end.state, end.summary
        self.epoch += 1
        began = time.monotonic() - end.seconds
        gates, genotype = self.algorithm.gates(self.state, self.hyper), self.algorithm.select(self.state, self.hyper)
        mixture = evaluate(self.state, gates)
        holdout = {f"holdout_{name}": value for name, value in mixture.items()}
        record = {"epoch": self.epoch, "step": self.epoch * self.steps, **tagged(means | holdout),
                  "entropy": entropy({name: gates[name] for name in self.space.groups})}
        if inspect:
            task, discrete = self.task, evaluate(self.state, genotype.gates(self.space.groups))
            record |= {"gap": task.better * (mixture[task.metric] - discrete[task.metric]),
                       **inspect(self.state, self.hyper), "skips": skips(genotype),
                       "edges": sum(map(len, genotype.choices.values()))}
        if self.lane.method.decide:
            self.state = self._decided(record)
            record |= counts(self.state)
            genotype = self.algorithm.select(self.state, self.hyper)
        genotype.decisions(self.space.groups)  # raises if it is not of this space
        timing = {"epoch": self.epoch, "examples_per_second": rate, "seconds": time.monotonic() - began}
        self.seconds += timing["seconds"]
        self.recorder.epoch(record, timing, self.state, genotype)
        self.shown.epoch(record, rate)
        warning = collapse(self.recorder.records)
        if warning and not self.warned:
            self.shown.say(warning.reason)
        self.warned, self.stopped = bool(warning), stop_of(self.rules, self.recorder.records)
        if self.stopped and self.stopped != warning:
            self.shown.say(f"stopped after epoch {self.epoch}: {self.stopped.reason}")

    def fail(self, error: NonFiniteLoss) -> None:
        """Ends the search with an error, which is recorded in its run."""
        self.error = error
        self.recorder.fail(str(error))

    def result(self, began: float) -> Result | NonFiniteLoss:
        """The result of the search; writes the last files of its run."""
        if self.error:
            return self.error
        state = self.state = on_one(self.state)
        epoch = self.stopped.epoch if self.stopped else None
        if epoch is not None:
            state = state._replace(arch={name: jnp.asarray(rows[epoch]) for name, rows in self.recorder.trajectory.items()})
        genotype = self.algorithm.select(state, self.hyper)
        self.recorder.end(genotype)
        holdout = of_split(self.recorder.records[-1], "holdout")
        return Result(self.state, genotype, self.algorithm.gates(self.state, self.hyper), holdout, self.recorder.records,
                      time.monotonic() - began, self.stopped, self.recorder.trajectory)

    def _out_of_time(self, records: Sequence[Mapping[str, Any]]) -> Stop | None:
        """A rule to stop by. Times are no part of the records, which are the same whenever a search is repeated."""
        over = self.limit is not None and self.seconds >= self.limit
        return Stop(f"its {self.limit:g} seconds are over, after {self.seconds:.1f}") if over else None

    def _decided(self, record: Mapping[str, Any]) -> SearchState:
        """The state with the method's decisions and mask after an epoch."""
        seen = {**record, "epochs": self.epochs, "trajectory": self.recorder.trajectory}
        after = self.lane.method.decide(self.space, jax.device_get(self.state), seen)
        return self.state._replace(**checked_decisions(self.space.groups, after))


def _check_lanes(lanes: Sequence[Lane]) -> None:
    if not lanes:
        raise ValueError("a search needs at least one seed")
    first = lanes[0].method
    for lane in lanes[1:]:
        same = all(getattr(lane.method, part) is getattr(first, part) for part in
                   ("arch", "weights", "algorithm", "select", "decide", "stop"))
        if not same or lane.method.hyper.keys() != first.hyper.keys():
            raise ValueError("searches by one program may differ in numbers only; make their methods by Method.replace")
    settings = [(lane.seed, id(lane.begins), *sorted(lane.method.hyper.items())) for lane in lanes]
    twice = next((lane for lane, setting in zip(lanes, settings) if settings.count(setting) > 1), None)
    if twice:
        raise ValueError(f"seed {twice.seed} is named twice with the same numbers; each search needs a seed of its own")


def _names(lanes: Sequence[Lane]) -> list[str]:
    """Names of the lanes for messages: the lane's own, or its seed and the numbers in which the lanes differ."""
    differing = [name for name in lanes[0].method.hyper if len({lane.method.hyper[name] for lane in lanes}) > 1]
    return [lane.name or ", ".join([f"seed {lane.seed}", *(f"{name} {lane.method.hyper[name]:g}" for name in differing)])
            for lane in lanes]


def _latest(algorithm: Algorithm, inputs, hyper: Mapping[str, Any], lane: Lane,
            start: SearchState | None) -> checkpoint.Latest:
    """The last whole checkpoint of a search's run, else its first state."""
    state = initial(algorithm.init, jax.random.fold_in(jax.random.key(lane.seed), 0), inputs, hyper)
    latest = checkpoint.latest(lane.run.checkpoints, state) if lane.run else None
    if latest:
        checkpoint.refuse_non_finite(latest.tree, f"{lane.run.checkpoints}, epoch {latest.epoch}: the state")
    if latest or lane.begins:  # of which several lanes may hold the same arrays, and each donates its own
        return latest or checkpoint.Latest(lane.begins.epoch, jax.tree.map(jnp.array, lane.begins.state), [])
    return checkpoint.Latest(0, state if start is None else algorithm.begin(started_from(state, start)), [])


def state_shape(space: SearchSpace, method: Method, data: Dataset, batch: int) -> SearchState:
    """The shapes and types of a search's state, to read its checkpoint."""
    algorithm, inputs = method.bind(space, task_of(data)), input_shape(data, batch)
    hyper = method.hyper | ENGINE
    return jax.eval_shape(lambda key: algorithm.init(key, inputs, hyper), jax.random.key(0))


def input_shape(data: Dataset, batch: int) -> jax.ShapeDtypeStruct:
    """The shape and type of a network's inputs: normalised float32, or tokens int32."""
    return jax.ShapeDtypeStruct((batch, *data.image), jnp.int32 if data.kind == "tokens" else jnp.float32)
