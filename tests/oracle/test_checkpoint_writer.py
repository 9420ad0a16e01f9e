"""TensorFlow reads what is written of a model's tensors, and would have written the same."""

import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import msgspec
import numpy as np
import tensorflow as tf

from bertconvert.converter.checkpoint_writer import write_checkpoint
from bertconvert.converter.plan import Entry
from bertconvert.converter.prepare import prepare

from ..arrays import DTYPES, Array, Memory, any_bits, same_bits


def saved(arrays: dict[str, Array], prefix: Path) -> None:
    """What tf.train.Saver writes of variables."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        values = [tf.compat.v1.Variable(array, name=name) for name, array in arrays.items()]
        session.run([value.initializer for value in values])
        tf.compat.v1.train.Saver(values).save(session, str(prefix), write_meta_graph=False)


def test_tensorflow_reads_the_variables_and_writes_the_same_files(
    fixtures: Path, tmp_path: Path
) -> None:
    tensors, variables, entries = {}, {}, []
    shapes = [(5,), (300, 200), (2, 3, 4), (0,), (4, 0), (), (1, 1)]
    for dtype in DTYPES:
        for op in ("identity", "transpose"):
            for shape in shapes:
                if op == "transpose" and len(shape) != 2:
                    continue
                name = f"{op}/{dtype}/of_{'x'.join(map(str, shape))}"
                variables[name] = any_bits(shape, dtype, len(entries))
                tensors[f"pt.{name}"] = variables[name].T if op == "transpose" else variables[name]
                entries.append(Entry(name, f"pt.{name}", name, op, "", shape, dtype))
    split = any_bits((6, 2, 3), "float32")  # a kernel whose heads are a dimension
    variables["kernel"], tensors["weight"] = split, split.reshape(6, 6).T
    entries.append(Entry("kernel", "weight", "kernel", "transpose", "", split.shape, "float32"))
    plan = msgspec.structs.replace(prepare(fixtures / "encoder").plan, entries=entries)
    write_checkpoint(Memory(tensors), plan, tmp_path / "m", {"global_step": 1_000_000})

    variables["global_step"] = np.array(1_000_000)
    reader = tf.train.load_checkpoint(str(tmp_path / "m"))
    assert reader.get_variable_to_shape_map().keys() == variables.keys()
    for name, array in variables.items():
        assert reader.get_variable_to_dtype_map()[name] == array.dtype
        assert same_bits(np.asarray(reader.get_tensor(name)), array)

    (tmp_path / "saver").mkdir()
    saved(variables, tmp_path / "saver" / "m")
    for file in ("m.index", "m.data-00000-of-00001"):
        assert (tmp_path / file).read_bytes() == (tmp_path / "saver" / file).read_bytes()


def test_tensorflow_reads_a_cast(fixtures: Path, tmp_path: Path) -> None:
    weight = np.random.default_rng(0).normal(size=(300, 700)).astype(np.float32)
    for dtype in ("float16", "bfloat16", "float64"):
        entry = Entry("kernel", "weight", "kernel", "transpose", "", (700, 300), dtype)
        plan = msgspec.structs.replace(prepare(fixtures / "encoder").plan, entries=[entry])
        write_checkpoint(Memory({"weight": weight}), plan, tmp_path / dtype)
        found = tf.train.load_variable(str(tmp_path / dtype), "kernel")
        assert same_bits(np.asarray(found), np.ascontiguousarray(weight.T.astype(DTYPES[dtype])))
