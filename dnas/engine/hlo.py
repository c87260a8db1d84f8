"""What a compiled program does, read from the text of its schedule: kernels, bytes and operations.

The text is that of `jax.stages.Compiled.as_text()`, XLA's HLO after all passes, on a CPU, a GPU or a TPU. It says what the
program does, not how long that takes: what lies in a cache, and what runs beside something else, cannot be seen in it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id",
        "opt-barrier", "optimization-barrier", "add-dependency"}
"""Operations that do nothing when the program runs."""
FREE_CALLS = {"AllocateBuffer"}
"""Targets of custom calls that do nothing."""
LIBRARIES = ("__cublas$", "__cudnn$")
"""Beginnings of the targets of custom calls whose second result is room to work in, which few kernels use."""
TRANSFERS = {"copy-start", "slice-start", "dynamic-slice-start", "dynamic-update-slice-start"}
"""Copies between the device's memories that run beside its kernels."""
SLICES = {"slice", "dynamic-slice", "gather"}
"""Operations that read only the part of their operand that they return."""
ON_SCALARS = {"fusion", "custom-call", "copy", "reduce"}
"""Operations that are kernels even if they see scalars only; others are counters of loops."""


class Work(NamedTuple):
    """What a program does.

    kernels: fusions, custom calls, copies and other operations that run one by one. bytes: operands and results of all
    kernels, by their shapes. device_bytes: those in the device's main memory, and copies between it and memory on the
    chip; equal to `bytes` where a program names no other memory. operations: multiplications and additions of matrix
    products and convolutions, those with zeros in padding included.

    Kernels in a loop count as often as it runs; if the text does not say how often, once. Of a conditional the branch
    with the most bytes counts. What is read or updated by slices counts as the slices, in fusions too; other operations
    that use a part of an operand count as if they used all of it.
    """

    kernels: int = 0
    bytes: int = 0
    device_bytes: int = 0
    operations: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(*(mine + theirs for mine, theirs in zip(self, other)))

    def __mul__(self, times: int) -> Work:
        return Work(*(number * times for number in self))


class Array(NamedTuple):
    """An array in a program's text. space: number of the memory in which it lies; 0 is the device's main memory."""

    dims: tuple[int, ...]
    size: int
    space: int


class Instruction(NamedTuple):
    """A line of a program. shapes: the arrays of its result; operands: names; rest: its attributes, as text."""

    name: str
    shapes: tuple[Array, ...]
    opcode: str
    operands: tuple[str, ...]
    rest: str
    root: bool


def work(text: str) -> Work:
    """What the program with this text does in one run. Raises ValueError for a text without an entry computation."""
    computations, entry = parse(text)
    return _Program(computations).of(entry)


def parse(text: str) -> tuple[dict[str, dict[str, Instruction]], str]:
    """The computations of a program, each {name: instruction} in the order of the schedule, and the name of the first."""
    computations: dict[str, dict[str, Instruction]] = {}
    entry, here = None, None
    for line in text.splitlines():
        header = re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line)
        if header:
            here = computations[header[2]] = {}
            entry = header[2] if header[1] else entry
        elif here is not None and (match := re.match(r"\s+(ROOT )?%?([\w.\-]+) = (.*)", line)):
            here[match[2]] = _instruction(match[2], match[3], bool(match[1]))
    if entry is None:
        raise ValueError("the text is not a program: it has no line that begins with ENTRY")
    return computations, entry


def scheduled(text: str) -> Iterator[tuple[Instruction, int]]:
    """The lines of a program and of all computations that it calls, those of every branch of a conditional too, and how
    often each runs; in a loop of which the text does not say how often it runs, once."""
    computations, entry = parse(text)
    program, waiting = _Program(computations), [(entry, 1)]
    while waiting:
        name, times = waiting.pop()
        for line in computations[name].values():
            yield line, times
            called = _called(line)
            turns = program.turns(computations[name], line) if line.opcode == "while" else 1
            inner = [called.get("calls"), called.get("to_apply"), called.get("body"), *called["branches"]]
            waiting += [(each, times * turns) for each in inner if each in computations]


def _instruction(name: str, text: str, root: bool) -> Instruction:
    end = _closing(text) if text.startswith("(") else text.index(" ")
    shape, text = text[:end], text[end:].lstrip()
    opcode, _, text = text.partition("(")
    end = _closing("(" + text) - 2
    if opcode in ("constant", "parameter"):  # what is in the parentheses is a value or a number
        return Instruction(name, tuple(_arrays(shape)), opcode, (), text, root)
    return Instruction(name, tuple(_arrays(shape)), opcode, tuple(re.findall(r"%([\w.\-]+)", text[:end])), text[end + 1:],
                       root)


def _closing(text: str) -> int:
    """The position behind the parenthesis that closes the first one."""
    depth = 0
    for match in re.finditer(r"[()]", text):
        depth += 1 if match[0] == "(" else -1
        if not depth:
            return match.end()
    return len(text)


def _arrays(shape: str) -> Iterator[Array]:
    for kind, dims, layout in re.findall(r"([a-z]\w*)\[([\d,<=]*)\](\{[^}]*\})?", shape):
        dims = tuple(int(dim.removeprefix("<=")) for dim in dims.split(",") if dim)
        bits = re.search(r"\d+", kind)
        size = math.prod(dims) * (int(bits[0]) if bits else 8 if kind == "pred" else 0) // 8
        space = re.search(r"S\((\d+)\)", layout)
        yield Array(dims, size, int(space[1]) if space else 0)


class _Program:
    """Adds up the computations of a program, each once."""

    def __init__(self, computations: Mapping[str, Mapping[str, Instruction]]):
        self.computations, self.known = computations, {}

    def of(self, name: str) -> Work:
        """The work of a computation that is scheduled line by line."""
        if name not in self.known:
            body = self.computations[name]
            self.known[name] = sum((self.line(body, line) for line in body.values()), Work())
        return self.known[name]

    def line(self, body: Mapping[str, Instruction], line: Instruction) -> Work:
        called = _called(line)
        if line.opcode in FREE or line.opcode.endswith(("-done", "-update")) or _target(line) in FREE_CALLS:
            return Work()
        if line.opcode == "while":
            return (self.of(called["body"]) + self.of(called["condition"])) * self.turns(body, line)
        if line.opcode == "conditional":
            return max((self.of(name) for name in called["branches"]), key=lambda work: work.bytes, default=Work())
        if line.opcode == "call" or line.opcode.endswith("-start") and "calls" in called:
            return self.of(called.get("to_apply") or called["calls"])
        operands = [array for name in line.operands if name in body for array in body[name].shapes]
        if line.opcode in TRANSFERS:
            return Work(device_bytes=sum(array.size for array in (*operands, line.shapes[0]) if not array.space))
        if line.opcode not in ON_SCALARS and not any(array.dims for array in (*operands, *line.shapes)):
            return Work()
        moved = self.moved(body, line)
        return Work(1, sum(size for size, _ in moved), sum(size for size, space in moved if not space),
                    self.operations(body, line))

    def turns(self, body: Mapping[str, Instruction], loop: Instruction) -> int:
        """How often a loop runs: as the text says; else the constant below which its counter must be; else 1."""
        said = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.rest)
        if said:
            return int(said[1])
        condition = self.computations[_called(loop)["condition"]]
        root = next(line for line in condition.values() if line.root)
        if root.opcode != "compare" or "direction=LT" not in root.rest:
            return 1
        limit = condition[root.operands[1]]
        if limit.opcode == "get-tuple-element" and loop.operands:  # carried through the loop
            first, index = body[loop.operands[0]], int(re.search(r"index=(\d+)", limit.rest)[1])
            limit = body.get(first.operands[index], limit) if first.opcode == "tuple" else limit
        number = re.match(r"(\d+)\)", limit.rest) if limit.opcode == "constant" else None
        return int(number[1]) if number else 1

    def moved(self, body: Mapping[str, Instruction], line: Instruction) -> list[tuple[int, int]]:
        """(bytes, memory) of each operand that a kernel reads and of each array that it writes."""
        inside = self.computations[_called(line)["calls"]] if line.opcode == "fusion" else None
        if inside is None:
            inside = {f"{line.name} {n}": Instruction(f"{line.name} {n}", body[name].shapes, "parameter", (), f"{n}", False)
                      for n, name in enumerate(line.operands) if name in body}
            inside[line.name] = line._replace(operands=tuple(inside), root=True)
        results = line.shapes[:1] if _target(line).startswith(LIBRARIES) else line.shapes
        parameters = [each for each in inside.values() if each.opcode == "parameter"]
        written = _written(inside)
        reads = [(sum(array.size for array in each.shapes), each.shapes[0].space, _read(inside, each))
                 for each in parameters if each.shapes]
        writes = [(array.size if part is None else part, array.space)
                  for array, part in zip(results, written + [None] * len(results))]
        return [(whole if part is None else min(part, whole), space) for whole, space, part in reads] + writes

    def operations(self, body: Mapping[str, Instruction], line: Instruction) -> int:
        if line.opcode == "fusion":
            inside = self.computations[_called(line)["calls"]]
            return sum(self.operations(inside, each) for each in inside.values())
        arrays = [body[name].shapes[0] for name in line.operands if name in body and body[name].shapes]
        result, target = line.shapes[0] if line.shapes else None, _target(line)
        if line.opcode == "dot" or target.startswith("__cublas$"):
            contracted = re.search(r'lhs_contracting_dim\w+"?[=:][\[{]([\d,"]*)', line.rest)
            dims = contracted[1].replace('"', "").split(",") if contracted else []
            return 2 * math.prod(result.dims) * math.prod(arrays[0].dims[int(dim)] for dim in dims if dim)
        if line.opcode != "convolution" and not target.startswith("__cudnn$conv"):
            return 0
        outputs, kernel = result, arrays[1]
        if target == "__cudnn$convBackwardInput":
            outputs = arrays[0]
        elif target == "__cudnn$convBackwardFilter":
            outputs, kernel = arrays[1], result
        features = kernel.dims[re.search(r"dim_labels=\w+_(\w+)->", line.rest)[1].index("o")]
        holes = re.search(r"lhs_dilate=([\dx]+)", line.rest)
        skipped = math.prod(map(int, holes[1].split("x"))) if holes else 1
        return 2 * math.prod(outputs.dims) * math.prod(kernel.dims) // features // skipped


def _called(line: Instruction) -> dict:
    """Names of the computations that a line calls, by how the text calls them."""
    names = {key: name for key, name in re.findall(r"\b(calls|to_apply|body|condition)=%?([\w.\-]+)", line.rest)}
    branches = re.search(r"branch_computations=\{([^}]*)\}", line.rest)
    listed = branches[1].split(",") if branches else re.findall(r"(?:true|false)_computation=(%?[\w.\-]+)", line.rest)
    return {**names, "branches": [name.strip().removeprefix("%") for name in listed]}


def _target(line: Instruction) -> str:
    match = re.search(r'custom_call_target="([^"]*)"', line.rest)
    return match[1] if match else ""


def _read(inside: Mapping[str, Instruction], parameter: Instruction) -> int | None:
    """Bytes of a fusion's parameter that its slices read, 0 if it is only updated in place; None if all of it is read."""
    total, waiting = 0, [parameter.name]
    while waiting:
        name = waiting.pop()
        for user in (line for line in inside.values() if name in line.operands):
            if user.opcode in ("bitcast", "reshape") and not user.root:
                waiting.append(user.name)
            elif user.opcode in SLICES and user.operands[0] == name:
                total += sum(array.size for array in user.shapes)
            elif user.opcode != "dynamic-update-slice" or user.operands[0] != name:
                return None
    return total


def _written(inside: Mapping[str, Instruction]) -> list[int | None]:
    """Bytes of the slice that each result of a fusion consists of, if it is an update in place; None of others."""
    root = next(line for line in inside.values() if line.root)
    results = [inside.get(name) for name in root.operands] if root.opcode == "tuple" else [root]
    sizes = []
    for result in results:
        while result is not None and result.opcode == "bitcast":
            result = inside.get(result.operands[0])
        update = inside.get(result.operands[1]) if result is not None and result.opcode == "dynamic-update-slice" else None
        sizes.append(sum(array.size for array in update.shapes) if update else None)
    return sizes
