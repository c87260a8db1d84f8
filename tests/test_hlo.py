"""Kernels, bytes and operations read from the text of compiled programs: small ones by hand, and a real one of this CPU."""

import jax
import jax.numpy as jnp
import pytest

from dnas.engine.hlo import Work, parse, scheduled, work

LOOP = """HloModule jit_f, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%update (p0: f32[10,64], p1: f32[64], p2: s32[]) -> f32[10,64] {
  %p0 = f32[10,64]{1,0} parameter(0)
  %p1 = f32[64]{0} parameter(1)
  %p2 = s32[] parameter(2)
  %zero.1 = s32[] constant(0)
  %old = f32[1,64]{1,0} dynamic-slice(%p0, %p2, %zero.1), dynamic_slice_sizes={1,64}
  %row = f32[1,64]{1,0} bitcast(%p1)
  %new = f32[1,64]{1,0} add(%old, %row)
  ROOT %in-place = f32[10,64]{1,0} dynamic-update-slice(%p0, %new, %p2, %zero.1)
}

%body (carry: (s32[], f32[10,64], f32[64])) -> (s32[], f32[10,64], f32[64]) {
  %carry = (s32[], f32[10,64]{1,0}, f32[64]{0}) parameter(0)
  %i = s32[] get-tuple-element(%carry), index=0
  %one = s32[] constant(1)
  %next = s32[] add(%i, %one)
  %rows = f32[10,64]{1,0} get-tuple-element(%carry), index=1
  %x = f32[64]{0} get-tuple-element(%carry), index=2
  %fusion.1 = f32[10,64]{1,0} fusion(%rows, %x, %i), kind=kLoop, calls=%update, metadata={op_name="a (b) c"}
  ROOT %turn = (s32[], f32[10,64]{1,0}, f32[64]{0}) tuple(%next, %fusion.1, %x)
}

%condition (carry.1: (s32[], f32[10,64], f32[64])) -> pred[] {
  %carry.1 = (s32[], f32[10,64]{1,0}, f32[64]{0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%carry.1), index=0
  %limit = s32[]{:T(128)} constant(7)
  ROOT %below = pred[]{:T(512)} compare(%i.1, %limit), direction=LT
}

ENTRY %main (x.1: f32[10,64], y: f32[64]) -> f32[10,64] {
  %x.1 = f32[10,64]{1,0} parameter(0)
  %y = f32[64]{0} parameter(1)
  %zero = s32[] constant(0)
  %start = (s32[], f32[10,64]{1,0}, f32[64]{0}) tuple(%zero, %x.1, %y)
  %while.1 = (s32[], f32[10,64]{1,0}, f32[64]{0}) while(%start), condition=%condition, body=%bodyTRIPS
  ROOT %result = f32[10,64]{1,0} get-tuple-element(%while.1), index=1
}
"""
ROW = 4 * 64
TURN = Work(1, 3 * ROW + 4, 3 * ROW + 4, 0)
"""A turn reads a row of the buffer, the other row and the counter, and writes a row; nothing else of the buffer."""


def entry(*lines, arguments="x: f32[8]"):
    """A program of these lines."""
    return f"HloModule f\n\nENTRY %main ({arguments}) -> f32[8] {{\n" + "\n".join(f"  {line}" for line in lines) + "\n}\n"


@pytest.mark.parametrize("trips, turns", [
    (', backend_config={"known_trip_count":{"n":"5"},"known_init_step":{"init":"0","step":"1"}}', 5), ("", 7)],
    ids=["said", "by the condition"])
def test_a_loop_counts_as_often_as_it_runs_and_an_update_in_place_as_its_slice(trips, turns):
    assert work(LOOP.replace("TRIPS", trips)) == TURN * turns


def test_a_loop_without_a_known_end_counts_once():
    dynamic = LOOP.replace("TRIPS", "").replace("constant(7)", "get-tuple-element(%carry.1), index=1")
    assert work(dynamic) == TURN


def test_a_limit_that_is_carried_through_the_loop_counts():
    carried = LOOP.replace("TRIPS", "").replace("{:T(128)} constant(7)", " get-tuple-element(%carry.1), index=3")
    carried = carried.replace("%start = (s32[], f32[10,64]{1,0}, f32[64]{0}) tuple(%zero, %x.1, %y)",
                              "%nine = s32[] constant(9)\n  %start = (s32[], f32[10,64]{1,0}, f32[64]{0}, /*index=3*/s32[]) "
                              "tuple(%zero, %x.1, %y, /*index=3*/%nine)")
    assert work(carried) == TURN * 9


@pytest.mark.parametrize("line, operations, moved", [
    ("ROOT %r = f32[4,6]{1,0} dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}", 2 * 4 * 5 * 6,
     4 * (20 + 30 + 24)),
    ('ROOT %r = (f32[4,6]{1,0}, s8[4194304]{0}) custom-call(%a, %b), custom_call_target="__cublas$gemm", backend_config='
     '{"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":["0"]}}}',
     2 * 4 * 5 * 6, 4 * (20 + 30 + 24)),
    ("ROOT %r = bf16[4,6]{1,0} convolution(%a, %b), dim_labels=bf_io->bf", 2 * 4 * 5 * 6, 4 * (20 + 30) + 2 * 24)])
def test_products(line, operations, moved):
    text = entry("%a = f32[4,5]{1,0} parameter(0)", "%b = f32[5,6]{1,0} parameter(1)", line)
    assert work(text) == Work(1, moved, moved, operations)


IMAGE, KERNEL, OUTPUT = "f32[2,8,8,3]{3,2,1,0}", "f32[5,3,3,3]{3,2,1,0}", "f32[2,8,8,5]{3,2,1,0}"
CUDNN = 'custom-call(%a, %b), window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$conv'


@pytest.mark.parametrize("first, second, line", [
    (IMAGE, KERNEL, f'ROOT %r = ({OUTPUT}, u8[64]{{0}}) {CUDNN}Forward"'),
    (OUTPUT, KERNEL, f'ROOT %r = ({IMAGE}, u8[64]{{0}}) {CUDNN}BackwardInput"'),
    (IMAGE, OUTPUT, f'ROOT %r = ({KERNEL}, u8[64]{{0}}) {CUDNN}BackwardFilter"'),
    (IMAGE, KERNEL, f"ROOT %r = {OUTPUT} convolution(%a, %b), window={{size=3x3 pad=1_1x1_1}}, dim_labels=b01f_o01i->b01f"),
    ("f32[2,4,4,3]{3,2,1,0}", KERNEL, f"ROOT %r = {OUTPUT} convolution(%a, %b), window={{size=3x3 pad=1_1x1_1 "
     "lhs_dilate=2x2}}, dim_labels=b01f_o01i->b01f")], ids=["forward", "input", "kernel", "plain", "with holes"])
def test_convolutions(first, second, line):
    found = work(entry(f"%a = {first} parameter(0)", f"%b = {second} parameter(1)", line))
    assert found.operations == 2 * 2 * 8 * 8 * 5 * 3 * 3 * 3 // (4 if "lhs_dilate" in line else 1)


def test_memory_on_the_chip_is_told_apart():
    text = entry("%x = f32[8]{0:T(128)} parameter(0)",
                 "%copy-start = (f32[8]{0:T(128)S(1)}, f32[8]{0:T(128)}, u32[]{:S(2)}) copy-start(%x)",
                 "%copy-done = f32[8]{0:T(128)S(1)} copy-done(%copy-start)",
                 '%room = f32[8]{0:T(128)S(1)} custom-call(), custom_call_target="AllocateBuffer"',
                 "ROOT %y = f32[8]{0:T(128)} negate(%copy-done)")
    assert work(text) == Work(1, 64, 64, 0)  # 32 bytes into the chip by the copy, 32 out by the kernel


def test_of_a_conditional_the_larger_branch_counts_and_a_call_counts_as_what_it_calls():
    branch = "%{0} ({0}.x: f32[{1}]) -> f32[{1}] {{\n  %{0}.x = f32[{1}]{{0}} parameter(0)\n" \
             "  ROOT %{0}.y = f32[{1}]{{0}} negate(%{0}.x)\n}}\n\n"
    text = "HloModule f\n\n" + branch.format("few", 8) + branch.format("many", 80) + entry(
        "%p = pred[] parameter(0)", "%x = f32[8]{0} parameter(1)",
        "%c = f32[8]{0} conditional(%p, %x, %x), true_computation=%few, false_computation=%many",
        "ROOT %d = f32[8]{0} call(%c), to_apply=%few").split("\n\n")[1]
    assert work(text) == Work(2, 640 + 64, 640 + 64, 0)


def test_the_lines_of_a_loop_and_of_what_it_calls_are_there_as_often_as_it_runs():
    times = {line.name: times for line, times in scheduled(LOOP.replace("TRIPS", ""))}
    assert (times["while.1"], times["fusion.1"], times["in-place"]) == (1, 7, 7)


def test_a_text_without_a_program_is_refused():
    with pytest.raises(ValueError, match="it has no line that begins with ENTRY"):
        parse("HloModule f")


def test_a_program_of_this_machine():
    def f(x, kernel, weights, rows):
        y = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        y = jax.lax.fori_loop(0, 5, lambda _, y: jnp.tanh(y @ weights), y.mean((1, 2)))
        return jax.lax.fori_loop(0, rows, lambda i, buffer: buffer.at[i].set(y * i), jnp.zeros((100, *y.shape)))

    shape = lambda *dims: jax.ShapeDtypeStruct(dims, jnp.float32)
    program = jax.jit(f).lower(shape(4, 8, 8, 16), shape(3, 3, 16, 16), shape(16, 16), jax.ShapeDtypeStruct((), "int32"))
    found = work(program.compile().as_text())
    assert found.operations == 2 * (4 * 8 * 8 * 16 * 16 * 9 + 5 * 4 * 16 * 16)
    images, buffer = 4 * 4 * 8 * 8 * 16, 4 * 100 * 4 * 16
    assert 7 <= found.kernels < 100 and 2 * images + buffer < found.bytes < 6 * images + 2 * buffer
    assert found.bytes == found.device_bytes
