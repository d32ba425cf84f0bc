"""Where a step's time goes: on a program and on events written by hand."""

import jax
import pytest

from conformer_jax.measuring import hlo, profiling, trace
from conformer_jax.measuring.trace import Event

NAME = "jit(step)/jvp(Model)/encoder/block_0"
BACK = "jit(step)/transpose(jvp(Model))/encoder/block_0"

PROGRAM = f"""HloModule jit_step, is_scheduled=true

%mixed (p: f32[4,10]) -> f32[4,10] {{
  %p = f32[4,10]{{1,0}} parameter(0)
  %keep = f32[4,10]{{1,0}} xor(%p, %p), metadata={{op_name="{NAME}/attention/dropout/xor"}}
  %mean = f32[4]{{0}} reduce(%p, %p), to_apply=%sum, metadata={{op_name="{NAME}/norm/reduce_sum"}}
  %wide = f32[4,10]{{1,0}} broadcast(%mean), metadata={{op_name="{NAME}/norm/sub"}}
  %less = f32[4,10]{{1,0}} subtract(%keep, %wide), metadata={{op_name="{BACK}/norm/sub"}}
  ROOT %plus = f32[4,10]{{1,0}} add(%less, %p), metadata={{op_name="{NAME}/add"}}
}}

%product (p: f32[4,10]) -> f32[4,10] {{
  %p.1 = f32[4,10]{{1,0}} parameter(0)
  %dot.1 = f32[4,10]{{1,0}} dot(%p.1, %p.1), metadata={{op_name="{BACK}/attention/out/dot_general"}}
  ROOT %silu = f32[4,10]{{1,0}} tanh(%dot.1), metadata={{op_name="{NAME}/jit(silu)/tanh"}}
}}

%body (t: (s32[], f32[4])) -> (s32[], f32[4]) {{
  %bits = u32[4]{{0}} add(%a, %b), metadata={{op_name="jit(step)/jit(_uniform)/while/add"}}
}}

ENTRY %main (p: f32[4,10]) -> f32[4,10] {{
  %x = f32[4,10]{{1,0}} parameter(0), metadata={{op_name="train_state.params[\\'kernel\\']"}}
  %copy.1 = f32[4,10]{{1,0}} copy(%x)
  %copy.2 = f32[4,10]{{1,0}} copy(%nowhere)
  %fusion.1 = f32[4,10]{{1,0}} fusion(%copy.1), kind=kLoop, calls=%mixed
  %fusion.2 = f32[4,10]{{1,0}} fusion(%fusion.1), kind=kCustom, calls=%product
  %loop = (s32[], f32[4]{{0}}) while(%t), condition=%c, body=%body, metadata={{op_name="w"}}
  %sum.1 = f32[4]{{0}} all-reduce(%fusion.2), to_apply=%add, metadata={{op_name="{BACK}/norm/mul"}}
  ROOT %end = f32[4]{{0}} copy(%fusion.2)
}}
"""


def test_instructions_of_a_program():
    found = hlo.instructions(PROGRAM)
    assert {"copy.1", "fusion.1", "loop", "sum.1", "bits"} <= set(found)
    assert "dot.1" not in found  # in the body of its fusion
    fusion = found["fusion.2"]
    assert (fusion.opcode, fusion.elements, fusion.operands) == ("fusion", 40, ("fusion.1",))
    assert fusion.op_name == ""
    assert fusion.body["dot.1"].op_name == f"{BACK}/attention/out/dot_general"
    assert found["loop"].elements == 5
    assert found["x"].op_name == r"train_state.params[\'kernel\']"


@pytest.mark.parametrize(
    ("op_name", "part"),
    [
        (f"{NAME}/feed_forward_in/expand/dot_general", "matrix products"),
        (f"{BACK}/attention/qkv/dot_general", "matrix products"),
        (f"{NAME}/attention/bqhd,bkhd->bhqk/dot_general", "attention"),
        (f"{NAME}/attention/jit(softmax)/exp", "attention"),
        (f"{NAME}/attention/dropout/select_n", "dropout and randomness"),
        (f"{NAME}/attention/norm/mul", "norms"),
        (f"{BACK}/convolution/group_norm/mul", "norms"),
        (f"{NAME}/convolution/depthwise/mul", "depthwise convolution"),
        (f"{NAME}/convolution/jit(glu)/mul", "activations, biases, residuals"),
        ("jit(step)/jvp(Model)/features/dot_general", "features"),
        ("jit(step)/transpose(jvp(loss))/bmd,bnd->bmn/dot_general", "loss"),
        ("jit(step)/jvp()/mul", "loss"),
        ("jit(step)/jvp(Model)/quantizer/logits/dot_general", "matrix products"),
        ("jit(step)/jvp(Model)/quantizer/vmap(jit(_gumbel))/log", "dropout and randomness"),
        ("jit(step)/jvp(Model)/quantizer/jit(softmax)/exp", "loss"),
        ("jit(step)/vmap(jit(_threefry_split))/while/body/add", "dropout and randomness"),
        ("jit(step)/optimizer/jit(_where)/select_n", "optimizer"),
        ("jit(step)/transpose(jvp(Model))/from_features/scatter-add", "other"),
        ("", "unattributed"),
    ],
)
def test_the_part_of_an_operation(op_name, part):
    assert profiling.category(op_name) == part


def test_a_collective_is_one_whatever_its_name():
    assert profiling.category(f"{BACK}/norm/mul", "all-reduce-start") == "collectives"


def test_shares_of_instructions():
    attribution = profiling.Attribution(PROGRAM)
    activations = "activations, biases, residuals"
    # Four instructions of 40 elements each, of which the reduction reads as many.
    assert attribution.shares("fusion.1") == {
        ("dropout and randomness", False): 0.25,
        ("norms", False): 0.25,
        ("norms", True): 0.25,
        (activations, False): 0.25,
    }
    assert attribution.shares("fusion.2") == {("matrix products", True): 1.0}
    assert attribution.shares("copy.1") == {("optimizer", False): 1.0}
    assert attribution.shares("copy.2") == {("unattributed", False): 1.0}
    assert attribution.shares("end") == {("matrix products", True): 1.0}  # of what it reads


RANKS = {"loop": 2, "sum.1": 1}


def busy(*events):
    return trace.busy(events, lambda op: RANKS.get(op, 0))


def test_two_threads_that_are_busy_share_the_wall_time():
    times, total = busy(Event("1", 0, 10, "a"), Event("2", 4, 8, "b"), Event("2", 12, 14, "b"))
    assert times == {"a": 4 + 4 / 2 + 2, "b": 4 / 2 + 2}
    assert total == 14  # from 10 to 12 nothing ran


def test_the_innermost_event_counts():
    events = [Event("1", 0, 10, "a"), Event("1", 2, 5, "b"), Event("1", 2, 3), Event("1", 6, 6)]
    assert busy(*events) == ({"a": 2 + 5, "b": 2}, 10)


def test_a_loop_counts_while_nothing_in_it_runs_on_any_thread():
    times, _ = busy(Event("1", 0, 10, "loop"), Event("1", 1, 3, "a"), Event("2", 5, 9, "a"))
    assert times == {"loop": 4, "a": 6}


def test_only_the_exposed_time_of_a_collective_counts():
    assert busy(Event("1", 0, 6, "a"), Event("2", 2, 9, "sum.1"))[0] == {"a": 6, "sum.1": 3}


def test_work_handed_to_other_threads_belongs_to_the_operation():
    times, total = busy(
        Event("1", 0, 4, "a"),
        Event("1", 1, 1, sends=7),
        Event("2", 2, 10, task=7),
        Event("2", 3, 3, sends=8),  # and on from there
        Event("2", 5, 7),  # something else of the runtime's in between
        Event("3", 11, 12, task=8),
        Event("3", 12, 13, task=99),  # of nobody known
        Event("1", 12.5, 14, "b"),
    )
    assert times == {"a": 8 - 2 + 2 + 1, "b": 1.5}
    assert total == 14


def test_no_events_take_no_time():
    assert busy() == ({}, 0.0)
    assert busy(Event("1", 0, 5)) == ({}, 0.0)


def test_the_parts_add_up_to_the_total(tmp_path, monkeypatch):
    events = [
        Event("1", 0, 4e9, "fusion.1"),
        Event("1", 5e9, 9e9, "fusion.2"),
        Event("2", 8e9, 12e9, "sum.1"),
        Event("1", 13e9, 14e9, "copy.2"),
    ]
    monkeypatch.setattr(trace, "read_events", lambda file, known: events)
    result = profiling.breakdown(tmp_path, PROGRAM, steps=2)
    parts = result["parts"]
    assert result["total_s"] == 7
    assert sum(part["seconds"] for part in parts.values()) == pytest.approx(7)
    assert sum(part["share"] for part in parts.values()) == pytest.approx(1)
    assert parts["matrix products"] == {"seconds": 2, "share": 2 / 7, "backward_s": 2}
    assert parts["norms"] == {"seconds": 1, "share": 1 / 7, "backward_s": 0.5}
    assert parts["collectives"]["seconds"] == 1.5
    assert parts["unattributed"]["seconds"] == 0.5
    assert parts["no operation running"]["seconds"] == 1
    assert [op["name"] for op in result["operations"]][-1] == "copy.2"
    lines = profiling.table(result).splitlines()
    assert lines[0].split() == ["a", "step", "of", "7", "s", "share", "backward"]
    assert lines[1].split() == ["matrix", "products", "28.6%", "28.6%"]
    assert len(lines) == 1 + len(parts)


# As GPUs write it: several streams, the instruction as a statistic; the host's launches besides.
SPACE = """
planes { name: "/host:CPU"
  event_metadata { key: 1 value { id: 1 name: "fusion.1" } }
  lines { name: "python" timestamp_ns: 100
    events { metadata_id: 1 offset_ps: 0 duration_ps: 9000000 } } }
planes { name: "/device:GPU:1"
  event_metadata { key: 1 value { id: 1 name: "fusion.1" } }
  lines { name: "XLA Ops" timestamp_ns: 100
    events { metadata_id: 1 offset_ps: 0 duration_ps: 7000000 } } }
planes { name: "/device:GPU:0"
  event_metadata { key: 1 value { id: 1 name: "ampere_sgemm" } }
  event_metadata { key: 2 value { id: 2 name: "%sum.1 = f32[4]{0} all-reduce(%fusion.2)" } }
  event_metadata { key: 3 value { id: 3 name: "jit_step(12)" } }
  stat_metadata { key: 5 value { id: 5 name: "hlo_op" } }
  lines { id: 1 name: "Stream #1" timestamp_ns: 100
    events { metadata_id: 1 offset_ps: 0 duration_ps: 2000000
             stats { metadata_id: 5 str_value: "fusion.2" } } }
  lines { id: 2 name: "Stream #2" timestamp_ns: 100
    events { metadata_id: 2 offset_ps: 1000000 duration_ps: 4000000 } }
  lines { id: 3 name: "XLA Modules" timestamp_ns: 100
    events { metadata_id: 3 offset_ps: 0 duration_ps: 9000000 } } }
"""


def test_events_of_the_first_device_are_read(tmp_path):
    file = tmp_path / "plugins" / "x.xplane.pb"
    file.parent.mkdir()
    file.write_bytes(jax.profiler.ProfileData.text_proto_to_serialized_xspace(SPACE))
    assert trace.newest(tmp_path) == file
    events = trace.read_events(file, hlo.instructions(PROGRAM))
    assert [(e.start, e.end, e.op) for e in events if e.op] == [
        (100, 2100, "fusion.2"),
        (1100, 5100, "sum.1"),
    ]
    assert len({e.line for e in events}) == 2
    result = profiling.breakdown(file, PROGRAM, steps=1)
    assert result["parts"]["matrix products"]["seconds"] == pytest.approx(2e-6)
    assert result["parts"]["collectives"]["seconds"] == pytest.approx(3e-6)


# What a CUDA graph leaves: all kernels have its name as their operation (seen on an H200).
GRAPH = """
planes { name: "/device:GPU:0"
  event_metadata { key: 1 value { id: 1 name: "fusion_2" } }
  event_metadata { key: 2 value { id: 2 name: "sm90_xmma_gemm_f32f32_tf32f32" } }
  event_metadata { key: 3 value { id: 3 name: "fusion_1" } }
  event_metadata { key: 4 value { id: 4 name: "MemcpyD2D" } }
  stat_metadata { key: 5 value { id: 5 name: "hlo_op" } }
  lines { id: 1 name: "Stream #14(Compute,MemcpyD2D)" timestamp_ns: 100
    events { metadata_id: 1 offset_ps: 0 duration_ps: 2000000
             stats { metadata_id: 5 str_value: "command_buffer_1" } }
    events { metadata_id: 2 offset_ps: 2000000 duration_ps: 3000000
             stats { metadata_id: 5 str_value: "command_buffer_1" } }
    events { metadata_id: 3 offset_ps: 6000000 duration_ps: 4000000
             stats { metadata_id: 5 str_value: "command_buffer_1" } }
    events { metadata_id: 4 offset_ps: 10000000 duration_ps: 1000000 } }
  lines { id: 2 name: "XLA Modules" timestamp_ns: 100
    events { metadata_id: 4 offset_ps: 0 duration_ps: 11000000 } } }
"""


def test_kernels_of_a_cuda_graph_are_told_by_their_own_names(tmp_path):
    file = tmp_path / "x.xplane.pb"
    file.write_bytes(jax.profiler.ProfileData.text_proto_to_serialized_xspace(GRAPH))
    result = profiling.breakdown(file, PROGRAM, steps=1)
    assert result["total_s"] == pytest.approx(11e-6)
    seconds = {part: of["seconds"] for part, of in result["parts"].items()}
    products = seconds.pop("matrix products")  # fusion.2, and the library's kernel
    assert products == pytest.approx(5e-6)
    assert result["parts"]["matrix products"]["backward_s"] == pytest.approx(2e-6)
    assert seconds.pop("no operation running") == pytest.approx(1e-6)
    assert seconds.pop("unattributed") == pytest.approx(1e-6)
    assert sum(seconds.values()) == pytest.approx(4e-6)  # what fusion.1 is made of
    assert [op["name"] for op in result["operations"]][:2] == [
        "fusion.1",
        "sm90_xmma_gemm_f32f32_tf32f32",
    ]


def test_a_collective_of_a_cuda_graph_counts_while_nothing_else_runs(tmp_path):
    file = tmp_path / "x.xplane.pb"
    other = GRAPH.replace("Stream #14(Compute,MemcpyD2D)", "Stream #14")
    other = other.replace("XLA Modules", "Stream #15").replace(
        "MemcpyD2D", "ncclDevKernel_AllReduce"
    )
    file.write_bytes(jax.profiler.ProfileData.text_proto_to_serialized_xspace(other))
    parts = profiling.breakdown(file, PROGRAM, steps=1)["parts"]
    # Beside 9 us of other kernels: the gap, and the last microsecond.
    assert parts["collectives"]["seconds"] == pytest.approx(2e-6)
    assert parts["matrix products"]["seconds"] == pytest.approx(5e-6)


def test_estimated_cycles_are_sorted_as_times_are():
    text = PROGRAM.replace("calls=%mixed", 'calls=%mixed, backend_config={"estimated_cycles":"30"}')
    text = text.replace(
        "calls=%product", 'calls=%product, backend_config={"estimated_cycles":"90"}'
    )
    shares = profiling.estimated_shares(text)
    assert sum(shares.values()) == pytest.approx(1)
    assert next(iter(shares)) == "matrix products"
    assert shares["matrix products"] == pytest.approx(0.75)
    assert set(shares) > {"dropout and randomness", "norms"}
