"""python -m conformer_jax.benchmark --config=configs/pretrain.py:tiny [--steps=20]
    [--profile=DIR] [--output=FILE.json]
python -m conformer_jax.benchmark --config=configs/pretrain.py:tiny --vary=data.clip_s=1,5,10
python -m conformer_jax.benchmark --config=configs/finetune.py:tiny --sounds=DIR
python -m conformer_jax.benchmark --config=configs/pretrain.py:tiny --data
    --config.data.prepared=DIR

How fast a config trains, evaluates, infers and reads its audio on this machine, and with --profile
where the step's time goes. With --vary only the training step, once for each value of one field.
With --sounds how fast a model of the config's size tags and embeds the recordings of a folder, with
--data how fast the config's sound is read and how many such hosts feed a chip.
docs/performance.md says how each figure is measured.
"""

import ast
import json
import logging
import pathlib

import jax
from absl import app, flags

from conformer_jax.command import overrides, using
from conformer_jax.errors import TOO_LITTLE_MEMORY, UserError
from conformer_jax.measuring import listening, measure, profiling, reading
from conformer_jax.training import distributed, host_memory, progress


def describe(result: dict) -> str:
    """The figures of `measure.measure` in words."""
    c, m, start, step, memory = (
        result[section] for section in ("config", "machine", "start", "step", "memory")
    )
    batch = f"{c['batch_size']} of {c['clip_s']:g} s a step"
    low, high = step["quartiles_s"]
    least, most = step["range_s"]
    reading, loop, evaluation = result["input"], result["loop"], result["evaluation"]
    rows = [
        ("config", f"{c['name']}, {c['parameters']:,} parameters, {c['dtype']}"),
        ("machine", f"{m['devices']} x {m['device_kind']}, {m['cores']} cores, jax {m['jax']}"),
        ("training step", f"{_time(step['median_s'])}, median of {step['count']}"),
        ("", f"quartiles {_time(low)} and {_time(high)}, from {_time(least)} to {_time(most)}"),
        ("speed", f"{step['clips_per_s']:.3g} clips/s, {batch}"),
        ("", f"{step['audio_hours_per_hour']:.3g} hours of audio an hour"),
        ("matrix products", f"{_work(step['model_flops'])} a step"),
        ("", f"{_work(step['model_flops_per_s'])}/s, {_mfu(step)}"),
        ("memory", f"peak {_size(memory['peak_bytes'])} {memory['peak_source'] or ''}".rstrip()),
        ("", f"a step's arguments {_size(memory.get('step_argument_bytes'))}, "
             f"working space {_size(memory.get('step_temp_bytes'))}"),
        ("start", f"lowering {_time(start['lower_s'])}, compiling {_time(start['compile_s'])}"),
        ("", f"first step done {_time(start['process_to_first_step_s'])} after the process began"),
        ("input alone", f"{reading['batches_per_s']:.3g} batches/s, "
                        f"{reading['clips_per_s']:.3g} clips/s ({reading['loader']})"),
        ("input and steps", f"{_time(loop['median_s'])} a step, {loop['clips_per_s']:.3g} clips/s, "
                            f"{loop['stall_share']:.1%} of it waiting for the next batch"),
        ("evaluation", f"{evaluation['clips_per_s']:.3g} clips/s, {c['eval_batch_size']} a step"),
    ]  # fmt: skip
    if inference := result["inference"]:
        factor = inference["real_time_factor"]
        rows.append(
            ("inference", f"{_time(inference['median_s'])} a clip, real-time factor {factor:.3g}")
        )
    lines = [f"{name:<16} {text}" for name, text in rows]
    if result["profile"]:
        lines += ["", profiling.table(result["profile"])]
    return "\n".join(lines)


def describe_sounds(result: dict) -> str:
    """The figures of `listening.measure_folder` in words."""
    c, m, memory = (result[section] for section in ("config", "machine", "memory"))
    tag = result["tag"]
    best = max(result["model_alone"], key=result["model_alone"].get)
    rows = [
        ("config", f"{c['name']}, {c['parameters']:,} parameters, windows of {c['clip_s']:g} s"),
        ("machine", f"{m['devices']} x {m['device_kind']}, {m['cores_used']} of {m['cores']} "
                    f"cores, jax {m['jax']}"),
        ("sounds", f"{tag['files']} files, {tag['sound_s'] / 60:.1f} minutes, "
                   f"{tag['bad']} not usable"),
        ("model alone", f"{_hours(result['model_alone'][best])}, {best} windows at once; "
                        f"used are {c['batch']}"),
    ]  # fmt: skip
    for name in ("tag", "embed"):
        one = result[name]
        rows.append((name, f"{_hours(one['speed'])}, {one['of_model_alone']:.0%} of the model"))
    rows.append(("decoding", f"{_hours(result['decoding']['speed'])}, one thread"))
    if speeds := result["onnxruntime"]:
        best = max(speeds, key=speeds.get)
        rows.append(("onnxruntime", f"{_hours(speeds[best])}, {best} windows at once"))
    else:
        rows.append(("onnxruntime", "not measured: pip install 'conformer_jax[export]'"))
    rows.append(("memory", f"{_size(memory['loaded_bytes'])} with the model loaded, at most "
                           f"{_size(memory['more_bytes'])} more"))  # fmt: skip
    return "\n".join(f"{name:<16} {text}" for name, text in rows)


def describe_data(result: dict) -> str:
    """The figures of `reading.measure_reading` in words."""
    c, m, opened = result["config"], result["machine"], result["open"]
    alone = result["decoding_alone"]["clips_per_s"]
    rows = [
        ("config", f"{c['name']}, {c['batch_size']} of {c['clip_s']:g} s a step, "
                   f"{c['workers']} workers"),
        ("machine", f"{m['cores_used']} of {m['cores']} cores, python {m['python']}"),
        ("opening", f"{_time(opened['seconds'])} for {opened['clips']:,} clips to train on, "
                    f"{_size(opened['more_bytes'])}"),
        ("decoding alone", f"{alone:.4g} clips/s"),
    ]  # fmt: skip
    for name, one in result["loaders"].items():
        rows.append(
            (
                f"loader {name}",
                f"{one['clips_per_s']:.4g} clips/s, {one['of_decoding_alone']:.0%} of decoding "
                f"alone; first batch after {_time(one['first_batch_s'])}",
            )
        )
    rows.append(("hosts like this", reading.hosts(result)))
    return "\n".join(f"{name:<16} {text}" for name, text in rows)


def _hours(speed):
    return f"{speed:.3g} hours of sound a minute"


def describe_vary(field: str, rows: list[dict]) -> str:
    """The figures of `measure.vary` as a table."""
    head = [field, "step", "clips/s", "hours an hour", "matrix products", "working space"]
    cells = [head] + [[str(row["value"]), *_of_one(row)] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ([c.rjust(width) for c, width in zip(row, widths, strict=True)] for row in cells)
    return "\n".join("  ".join(line) for line in lines)


def _of_one(row):
    step = row["step"]
    if step is None:
        return ["too little memory", "", "", "", ""]
    return [
        _time(step["median_s"]),
        f"{step['clips_per_s']:.3g}",
        f"{step['audio_hours_per_hour']:.3g}",
        f"{_work(step['model_flops_per_s'])}/s",
        _size(row["temp_bytes"]),
    ]


def field_and_values(text: str) -> tuple[str, list]:
    """What --vary says: 'data.clip_s=1,5' -> ('data.clip_s', [1, 5]); UserError if it does not."""
    field, _, values = text.removeprefix("config.").partition("=")
    if not field or not values:
        raise UserError(f"--vary={text}: give a field and its values, such as data.clip_s=1,5,10")
    try:
        return field, list(ast.literal_eval(f"[{values}]"))
    except (SyntaxError, ValueError):
        return field, values.split(",")


def _time(seconds):
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def _size(count):
    return "not measured" if count is None else f"{count / 2**20:,.0f} MiB"


def _work(flop):
    return f"{flop / 1e12:.4g} TFLOP" if flop >= 1e12 else f"{flop / 1e9:.4g} GFLOP"


def _mfu(step):
    if step["mfu"] is None:
        return "MFU not measured: no peak is known for this device"
    return f"MFU {step['mfu']:.1%} of {_work(step['peak_flops_per_s'])}/s ({step['peak_source']})"


def main(argv):
    """Prints the figures and writes the JSON, or ends with the user's mistake in one line."""
    del argv
    progress.set_up_logging()
    host_memory.keep_freed_memory()
    output = pathlib.Path(OUTPUT.value) if OUTPUT.value else None
    if output and not output.parent.is_dir():
        overrides.fail(f"--output={output}: there is no folder {output.parent}")
    if sum(map(bool, (VARY.value, PROFILE.value, SOUNDS.value, DATA.value))) > 1:
        overrides.fail("--vary, --profile, --sounds and --data do not go together: choose one")
    try:
        distributed.initialize()
        if VARY.value:
            field, values = field_and_values(VARY.value)
            rows = []
            for row in measure.vary(CONFIG.value, field, values, steps=STEPS.value):
                rows.append(row)
                logging.info("%s=%s: %s", field, row["value"], _of_one(row)[0])
            result = {"field": field, "machine": measure.about_machine(), "rows": rows}
            text = describe_vary(field, rows)
        elif SOUNDS.value:
            files = [one.path for one in using.inputs([SOUNDS.value])]
            result = listening.measure_folder(CONFIG.value, files)
            text = describe_sounds(result)
        elif DATA.value:
            result = reading.measure_reading(CONFIG.value)
            text = describe_data(result)
        else:
            result = measure.measure(CONFIG.value, steps=STEPS.value, profile=PROFILE.value)
            text = describe(result)
        if jax.process_index() == 0:
            print(text)
            if output:
                output.write_text(json.dumps(result, indent=1) + "\n")
    except (UserError, OSError) as error:
        overrides.fail(str(error))
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        overrides.fail(TOO_LITTLE_MEMORY)


if __name__ == "__main__":
    CONFIG = overrides.define_config_flag()
    STEPS = flags.DEFINE_integer("steps", 20, "Timed steps, of each kind.", lower_bound=1)
    PROFILE = flags.DEFINE_string("profile", None, "Folder for a trace; prints its breakdown.")
    VARY = flags.DEFINE_string("vary", None, "FIELD=VALUE,VALUE,...: times the step with each.")
    SOUNDS = flags.DEFINE_string("sounds", None, "Folder of recordings to tag and to embed.")
    DATA = flags.DEFINE_bool("data", False, "Read the config's sound, and train on nothing.")
    OUTPUT = flags.DEFINE_string("output", None, "File for the figures as JSON.")
    app.run(main, flags_parser=lambda argv: overrides.parse_flags(argv, CONFIG))
