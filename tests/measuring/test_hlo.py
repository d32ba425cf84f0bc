"""The reader of compiled programs: cycles, loops, collectives in every notation."""

import jax
import jax.numpy as jnp
import pytest

from conformer_jax.measuring import hlo

PROGRAM = """HloModule jit_step, is_scheduled=true

%sum (a: f32[], b: f32[]) -> f32[] {
  ROOT %c = f32[] add(%a, %b)
}

%condition.1 (p: (s32[], f32[8])) -> pred[] {
  %limit = s32[]{:T(128)} constant(11)
  ROOT %lt = pred[]{:T(512)} compare(%i, %limit), direction=LT
}

%body.1 (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %f = f32[8]{0} fusion(%x), kind=kLoop, calls=%fused, backend_config={"estimated_cycles":"100"}
  ROOT %g = f32[8,4]{1,0} all-gather(%f), replica_groups=[2,4]<=[8], dimensions={1}
}

%fused (p: f32[8]) -> f32[8] {
  ROOT %n = f32[8]{0} negate(%p)
}

ENTRY %main (p: f32[8]) -> f32[8] {
  %a = f32[8]{0} fusion(%p), kind=kLoop, calls=%fused, backend_config={"estimated_cycles":"7"}
  %w = (s32[], f32[8]) while(%t), condition=%condition.1, body=%body.1
  %r = (f32[100]{0}, bf16[10,10]{1,0}) all-reduce(%a, %b), replica_groups={{0,1},{2,3}}
  %s = (f32[16]{0}, f32[128]{0}) all-gather-start(%a), replica_groups=mesh['x'=8,'y'=2] {'x'}
  %d = f32[128]{0} all-gather-done(%s)
  ROOT %o = f32[4]{0} reduce-scatter(%a), replica_groups={}, to_apply=%sum
}
"""


def test_cycles_are_counted_as_often_as_a_loop_turns():
    assert hlo.cost(PROGRAM, 8).cycles == 7 + 11 * 100


def test_cycles_by_instruction_add_up():
    assert hlo.cycles(PROGRAM) == {"a": 7, "f": 11 * 100}


def test_bytes_sent_follow_the_groups():
    cost = hlo.cost(PROGRAM, 8)
    gathered = 11 * 8 * 4 * 4 * 3 / 4 + 128 * 4 * 7 / 8  # groups of 4, then of 8
    assert cost.sent["all-gather"] == pytest.approx(gathered)
    assert cost.sent["all-reduce"] == pytest.approx(2 * (400 + 200) / 2)  # groups of 2
    assert cost.sent["reduce-scatter"] == pytest.approx(4 * 4 * 7)  # all 8 devices
    assert cost.largest == {"all-gather": 512, "all-reduce": 600, "reduce-scatter": 16}


def test_a_program_of_one_device_sends_nothing():
    compiled = jax.jit(lambda x: jnp.tanh(x @ x)).lower(jnp.ones((8, 8))).compile()
    cost = hlo.cost(compiled.as_text(), 1)
    assert cost.sent == {}
    assert cost.cycles == 0  # the CPU compiler estimates nothing


def test_a_started_collective_counts_its_results():
    lines = [
        "  %a = ((f32[8]{0}, f32[8]{0}), (f32[64]{0}, f32[64]{0})) all-gather-start(%x, %y)",
        "  %b = (f32[64]{0}, f32[8]{0}) reduce-scatter-start(%x), replica_groups=[1,8]<=[8]",
        "  %c = (f32[16]{0}, f32[16]{0}, u32[], u32[]) collective-permute-start(%x)",
    ]
    cost = hlo.cost("\n".join(["ENTRY %main (x: f32[8]) -> f32[8] {", *lines, "}"]), 8)
    expected = {"all-gather": 512 * 7 / 8, "reduce-scatter": 32 * 7, "collective-permute": 64}
    assert cost.sent == expected
