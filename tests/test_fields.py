"""The fields of a config: ranges, what tasks read, what earlier versions saved; and none unread."""

import ast
import itertools
import json
import pathlib

import pytest

from configs import base, finetune, pretrain
from conformer_jax import fields, reading
from conformer_jax.data import synthetic
from conformer_jax.errors import UserError
from conformer_jax.models import classifier, conformer, features, wav2vec2
from conformer_jax.ranges import Each, OneOf, Within

ROOT = pathlib.Path(__file__).parents[1]


def changed(name, value, module=pretrain):
    config = module.get_config("smoke")
    config.update_from_flattened_dict({name: value})
    return config


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("data.workers", 0, "at least 1 and at most 256"),
        ("data.workers", 10**6, "at least 1 and at most 256"),
        ("data.prefetch", -1, "at least 0 and at most 1024"),
        ("data.labels_per_class", -4, "at least 0"),
        ("data.batch_size", 0, "at least 1"),
        ("data.clip_s", 0.0, "above 0 and at most 3600"),
        ("data.validation_share", 1.0, "at least 0 and below 1"),
        ("wav2vec2.num_distractors", 0, "at least 1 and at most 10000"),
        ("wav2vec2.temperature", 0.0, "above 0 and at most 100"),
        ("quantizer.temperature_end", -0.5, "above 0 and at most 100"),
        ("masking.span_length", 0, "at least 1 and at most 1000"),
        ("train.num_steps", -1, "at least 0"),
        ("optimizer.ema_decay", 1.0, "at least 0 and below 1"),
        ("optimizer.learning_rate", float("nan"), "above 0"),
        ("optimizer.learning_rate", float("inf"), "above 0"),
        ("optimizer.layer_decay", 1.1, "above 0 and at most 1"),
        ("optimizer.freeze_encoder_share", -0.1, "at least 0 and at most 1"),
        ("losses.label_smoothing", 1.5, "at least 0 and below 1"),
        ("augment.mixup_alpha", -1.0, "at least 0 and at most 100"),
        ("augment.gain_db", -1.0, "at least 0 and at most 60"),
        ("augment.mixup_share", 1.2, "at least 0 and at most 1"),
        ("conformer.dropout", 1.0, "at least 0 and below 1"),
        ("classifier.dropout", -0.1, "at least 0 and below 1"),
        ("conformer.kernel_sizes", (5, -3), "numbers, each at least 1 and at most 1023"),
        ("synthetic.snr_db", (0.0,), "2 numbers, each at least -100 and at most 200"),
        ("task", "train", "one of pretrain, finetune, linear_probe, knn, mlp_probe"),
        ("target", "quantized", "one of linear, gumbel"),
        ("classifier.pooling", "median", "one of mean, max, statistics, attention, linear_soft"),
        ("classifier.layers", "first", "one of last, all"),
        ("classifier.init", "zeros", "one of random, probe"),
        ("data.loader", "grain", "one of auto, tf, threads"),
        ("conformer.remat", "some", "one of none, products, full"),
        ("conformer.dtype", "float16", "one of float32, bfloat16"),
        ("features.mel_scale", "bark", "one of slaney, htk"),
    ],
)
def test_a_value_out_of_range_is_refused_with_field_value_and_range(name, value, words):
    with pytest.raises(UserError) as error:
        fields.check(changed(name, value))
    assert str(error.value).startswith(f"config.{name} = {value!r}: it must be {words}")
    assert "\n" not in str(error.value)


VARIANTS = [(m, v) for m in (pretrain, finetune) for v in ("", *m.VARIANTS)]


@pytest.mark.parametrize(("module", "variant"), VARIANTS)
def test_what_is_shipped_is_in_range(module, variant):
    fields.check(module.get_config(variant))


def test_every_number_has_a_range():
    ranged = {name for name, _ in fields._declared(fields._FIELDS)}
    for name, value in leaves(fields.get_config().to_dict()):
        if isinstance(value, int | float) and not isinstance(value, bool):
            assert name in ranged, name


def test_choices_are_those_of_the_modules_that_read_them():
    known = {
        "classifier.pooling": classifier.POOLINGS,
        "classifier.layers": classifier.LAYERS,
        "conformer.remat": tuple(conformer.REMAT_POLICIES),
        "features.mel_scale": features.MEL_SCALES,
        "target": wav2vec2.TARGETS,
    }
    declared = dict(fields._declared(fields._FIELDS))
    for name, choices in known.items():
        assert set(declared[name].choices) == set(choices), name
    assert declared["synthetic.max_classes"].most == len(synthetic.CLASS_NAMES)


def test_a_range_in_words_and_what_it_allows():
    assert str(Within(1.0, above=0)) == "above 0"
    assert str(Within(1.0)) == "finite"
    assert not Within(1, least=0).allows(1.5)  # whole, as its default is
    assert not Within(1, least=0).allows("1")
    assert Within(1.0, above=0, most=2).allows(2)
    assert str(Each(length=2)) == "2 numbers, each finite"
    assert Each().allows(())
    assert not Each(length=2).allows((1.0,))
    assert OneOf("a", "b").default == "a"


def leaves(content, prefix=""):
    """('data.workers', 4) of every field of a config as a dict."""
    for name, value in content.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def test_configs_hand_on_what_the_package_defines():
    assert base.get_config is fields.get_config
    content = fields.saved(fields.get_config())
    assert content == json.loads(json.dumps(fields.get_config().to_dict()))
    fields.get_config().data.workers = 9  # a copy
    assert fields.get_config().data.workers == 4


def test_a_saved_config_gets_defaults_for_what_it_lacks_and_keeps_what_it_has():
    content = fields.saved(pretrain.get_config("smoke"))
    whole = json.loads(json.dumps(content))
    del content["masking"], content["optimizer"]["b2"], content["seed"]
    content["data"]["removed"] = 1
    filled = fields.with_defaults(content)
    assert filled["data"].pop("removed") == 1
    assert filled == whole
    assert "masking" not in content  # not changed


def test_folds_are_saved_as_strings():
    assert fields.saved(changed("data.eval_folds", (1, "2")))["data"]["eval_folds"] == ["1", "2"]


@pytest.mark.parametrize(
    ("name", "task", "read"),
    [
        ("masking.span_length", "pretrain", True),
        ("masking.span_length", "finetune", False),
        ("classifier.pooling", "pretrain", False),
        ("classifier.pooling", "knn", True),
        ("augment.gain_db", "linear_probe", False),
        ("losses.label_smoothing", "pretrain", False),
        ("probe.l2", "finetune", False),
        ("quantizer.num_groups", "pretrain", False),
        ("optimizer.b1", "finetune", True),
        ("synthetic.snr_db", "pretrain", True),
        ("task", "knn", True),
    ],
)
def test_which_task_reads_what(name, task, read):
    assert reading.is_read(name, fields.saved(changed("task", task))) is read


def test_what_is_read_depends_on_other_fields_too():
    assert reading.is_read("quantizer.num_groups", fields.saved(changed("target", "gumbel")))
    codes = changed("target", "gumbel")
    assert reading.is_read("quantizer.sharpness", fields.saved(codes))
    assert not reading.is_read("quantizer.code_dim", fields.saved(codes))
    codes.quantizer.logits = "linear"
    assert not reading.is_read("quantizer.sharpness", fields.saved(codes))
    assert reading.is_read("quantizer.code_dim", fields.saved(codes))
    frozen = changed("task", "linear_probe", finetune)
    assert not reading.is_read("classifier.crop_s", fields.saved(frozen))
    frozen.classifier.crops = 5
    assert reading.is_read("classifier.crop_s", fields.saved(frozen))
    tuned = changed("task", "finetune", finetune)
    assert not reading.is_read("views.noise", fields.saved(tuned))
    tuned.augment.views = 0.5
    assert reading.is_read("views.noise", fields.saved(tuned))
    assert not reading.is_read("views.mixup", fields.saved(tuned))
    own = fields.saved(changed("data.manifest", "m.csv"))
    assert not reading.is_read("synthetic.snr_db", own)
    probed = fields.saved(changed("classifier.init", "probe", finetune))
    assert reading.is_read("probe.l2", probed)
    refitted = fields.saved(changed("classifier.refit", True, finetune))
    assert reading.is_read("probe.l2", refitted)


# What follows looks for fields that nothing reads: such a field would be set without any effect.

SECTIONS = {n for n, v in fields.get_config().items() if not isinstance(v, str | int)}
# What tells of a run or measures it does not count.
ACTING = [
    path
    for path in sorted((ROOT / "conformer_jax").rglob("*.py"))
    if path.name not in ("fields.py", "flops.py", "dry_run.py", "benchmark.py", "compile.py")
    and path.parent.name not in ("reporting", "measuring")
]


class Reads:
    """Which fields a set of sources reads, as far as a section can be followed by its name.

    `config.data` is a section, and so is what is assigned from it, or takes it as an argument.
    """

    def __init__(self, sources):
        self.trees = [ast.parse(source) for source in sources]
        self.names = [dict() for _ in sources]  # of each file: variable -> sections
        nodes = [(file, n) for file, tree in enumerate(self.trees) for n in ast.walk(tree)]
        self.functions, self.classes = {}, {}
        for file, node in nodes:
            if isinstance(node, ast.FunctionDef):
                self.functions.setdefault(node.name, []).append((file, node))
            elif isinstance(node, ast.ClassDef):
                own = {n.target.id for n in node.body if isinstance(n, ast.AnnAssign)}
                self.classes.setdefault(node.name, set()).update(own)
        self.nodes = nodes
        while sum(len(s) for names in self.names for s in names.values()) != self._bind():
            pass

    def sections(self, file, node):
        if isinstance(node, ast.Attribute):
            return {node.attr} & SECTIONS
        return self.names[file].get(node.id, set()) if isinstance(node, ast.Name) else set()

    def _bind(self):
        """Follows sections into variables and parameters; returns how many are known."""
        for file, node in self.nodes:
            if isinstance(node, ast.Assign):
                target, value = node.targets[0], node.value
                both = isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple)
                pairs = zip(target.elts, value.elts, strict=True) if both else [(target, value)]
                for name, part in pairs:
                    self._add(file, getattr(name, "id", None), self.sections(file, part))
            elif isinstance(node, ast.Call):
                called = getattr(node.func, "attr", getattr(node.func, "id", None))
                for where, function in self.functions.get(called, []):
                    names = [a.arg for a in function.args.args]
                    given = list(zip(names, node.args, strict=False))
                    given += [(k.arg, k.value) for k in node.keywords]
                    for name, part in given:
                        self._add(where, name, self.sections(file, part))
        return sum(len(s) for names in self.names for s in names.values())

    def _add(self, file, name, found):
        if name and found:
            self.names[file].setdefault(name, set()).update(found)

    def found(self):
        """'data.workers' and, of the config itself, 'seed'."""
        result = set()
        for file, node in self.nodes:
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                if getattr(node.value, "id", None) in ("config", "one"):
                    result.add(node.attr)
                result |= {f"{s}.{node.attr}" for s in self.sections(file, node.value)}
            elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
                words = (
                    [node.slice]
                    if isinstance(node.slice, ast.Constant)
                    else ast.walk(self.trees[file])
                )
                keys = {n.value for n in words if isinstance(n, ast.Constant)}
                pairs = itertools.product(self.sections(file, node.value), keys)
                result |= {f"{section}.{key}" for section, key in pairs}
            elif isinstance(node, ast.Call):
                made = self.classes.get(getattr(node.func, "id", None), set())
                for section in [
                    s for k in node.keywords if not k.arg for s in self.sections(file, k.value)
                ]:
                    result |= {f"{section}.{field}" for field in made}
        return result


def unread(names):
    """Sorted, those of the names that no source reads."""
    found = Reads([path.read_text() for path in ACTING]).found()
    return sorted(set(names) - found)


def test_every_field_is_read_by_something():
    names = [name for name, _ in leaves(fields.get_config().to_dict())]
    made_up = ["augment.learning_rate", "conformer.beta", "data.dropout", "optimizer.l2"]
    assert unread([*names, *made_up]) == made_up
