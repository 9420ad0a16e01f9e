"""What pt2tf writes, as its consumers take it: TensorFlow, and Google's code."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from safetensors.numpy import load_file

from bertconvert import convert_back, roundtrip

from .google_code import WAYS, Job

CODE = Path(__file__).with_name("google_code.py")
STEP = 1234
# Google's float32 outputs differ from machine to machine by less; a wrong GELU differs by 1e-3.
TOLERANCE = 1e-5

# A fixture -> family, head and labels, as Google's code builds the model.
GOOGLE = {
    "pretraining": ("bert", "pretraining", 0),
    "pretraining-adam": ("bert", "pretraining", 0),
    "keras-names": ("bert", "pretraining", 0),
    "classifier": ("bert", "classifier", 3),
    "squad": ("bert", "squad", 0),
    "encoder": ("bert", "none", 0),
    "albert": ("albert", "pretraining", 0),
    "albert-relu": ("albert", "pretraining", 0),
    "albert-classifier": ("albert", "classifier", 3),
    "albert-squad": ("albert", "squad", 0),
}
QUICK = ["pretraining", "squad", "albert"]  # each graph takes half a second
OTHERS = [
    "electra", "electra-tagging", "electra-wide", "mobilebert", "mobilebert-pooler",
    "mobilebert-wide",
]  # fmt: skip

Arrays = dict[str, np.ndarray[Any, Any]]


@pytest.fixture(scope="module")
def back(
    converted: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """A fixture's name -> the folder of the checkpoint that its model becomes."""
    folders: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp("back") / name
            convert_back(converted(name), folders[name], global_step=STEP)
        return folders[name]

    return folder


@pytest.fixture(scope="module")
def computed(
    back: Callable[[str], Path],
    fixtures: Path,
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> Callable[[str, str], Arrays]:
    """A fixture's name and a way -> what Google's code computes from the new checkpoint.

    The way `original` restores the fixture itself.
    """
    made = tmp_path_factory.mktemp("outputs")
    jobs = []
    wanted = {
        item.callspec.params["name"]
        for item in request.session.items
        if isinstance(item, pytest.Function)
        and item.path == request.path
        and "computed" in item.fixturenames
    }
    for name, how in GOOGLE.items():
        if name not in wanted:
            continue
        new = tf.train.latest_checkpoint(back(name))
        places = {way: str(back(name)) if way == "folder" else new for way in WAYS}
        restores = [(way, places[way], str(made / f"{name}-{way}.npz")) for way in WAYS]
        # Only a changed modeling.py reads keras-names, which has the numbers of pretraining.
        original = "pretraining" if name == "keras-names" else name
        (index,) = (fixtures / original).glob("*.index")
        out = str(made / f"{name}-original.npz")
        restores.insert(0, ("saver", str(index.with_suffix("")), out))
        (config,) = back(name).glob("*_config.json")
        inputs = fixtures / name / "google_outputs.safetensors"
        jobs.append(Job(str(inputs), str(config), *how, restores))
    (made / "jobs.json").write_text(json.dumps(jobs))
    command = [sys.executable, CODE, made / "jobs.json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    def outputs(name: str, way: str) -> Arrays:
        with np.load(made / f"{name}-{way}.npz") as arrays:
            return dict(arrays)

    return outputs


@pytest.mark.parametrize("name", [*GOOGLE, *OTHERS])
def test_tensorflow_reads_what_was_in_the_original(
    name: str, fixtures: Path, back: Callable[[str], Path]
) -> None:
    (index,) = (fixtures / name).glob("*.index")
    original = tf.train.load_checkpoint(str(index.with_suffix("")))
    new = tf.train.load_checkpoint(str(back(name)))
    shapes = dict(tf.train.list_variables(str(back(name))))
    assert shapes.pop("global_step") == []
    assert new.get_tensor("global_step") == STEP
    assert new.get_tensor("global_step").dtype == np.int64
    common = shapes.keys() & original.get_variable_to_shape_map().keys()
    # Keras' names become Google's; all others stay.
    assert shapes.keys() == common or name == "keras-names"
    for variable in common:
        expected, found = original.get_tensor(variable), new.get_tensor(variable)
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in GOOGLE],
)
class TestGooglesCode:
    def test_computes_the_same_bit_for_bit(
        self, name: str, way: str, computed: Callable[[str, str], Arrays]
    ) -> None:
        expected = computed(name, "original")
        found = computed(name, way)
        assert expected.pop("step") == -1
        assert found.pop("step") == (STEP if way == "folder" else -1)
        assert found.keys() == expected.keys()
        for output in found:
            assert found[output].tobytes() == expected[output].tobytes()

    def test_computes_what_was_recorded(
        self, name: str, way: str, fixtures: Path, computed: Callable[[str, str], Arrays]
    ) -> None:
        recorded = load_file(fixtures / name / "google_outputs.safetensors")
        found = computed(name, way)
        assert recorded.keys() - found.keys() == {"input_ids", "input_mask", "segment_ids"}
        for output in found.keys() & recorded.keys():
            np.testing.assert_allclose(found[output], recorded[output], rtol=0, atol=TOLERANCE)


def saved_by_tensorflow(variables: Arrays, prefix: Path) -> None:
    """Save variables with a Saver of a graph of their own."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        made = [
            tf.compat.v1.get_variable(name, initializer=array, use_resource=True)
            for name, array in variables.items()
        ]
        session.run(tf.compat.v1.global_variables_initializer())
        saver = tf.compat.v1.train.Saver(made)
        saver.save(session, str(prefix), write_meta_graph=False, write_state=False)


@pytest.mark.parametrize("name", ["pretraining-adam", "keras-names", "electra", "mobilebert-wide"])
def test_a_checkpoint_has_the_bytes_that_saver_writes(
    name: str, converted: Callable[[str], Path], tmp_path: Path
) -> None:
    convert_back(converted(name), tmp_path / "out", prefix="m", global_step=STEP)
    reader = tf.train.load_checkpoint(str(tmp_path / "out" / "m"))
    variables = {v: reader.get_tensor(v) for v in reader.get_variable_to_shape_map()}
    saved_by_tensorflow(variables, tmp_path / "m")
    for ending in (".index", ".data-00000-of-00001"):
        written = (tmp_path / "out" / f"m{ending}").read_bytes()
        assert written == (tmp_path / f"m{ending}").read_bytes()


@pytest.mark.parametrize("name", ["keras-bert-tiny-pretrain", "detext-bert-hub"])
def test_a_real_checkpoint_comes_back(name: str, real: Path) -> None:
    assert roundtrip(real / name).same


def test_checkpoints_of_other_families_come_back(families: Path) -> None:
    prefixes = [path for path in families.glob("checkpoints/*/*.index") if "tf2-" not in str(path)]
    results = [roundtrip(path, head="none" if "mrpc" in str(path) else None) for path in prefixes]
    assert [result.checkpoint for result in results if not result.same] == []
    assert any(result.identical for result in results)
