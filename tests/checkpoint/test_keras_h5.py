"""Files of Keras, read by the names that its variables had; what else HDF5 offers is refused."""

import pickle
import random
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from bertconvert import CheckpointError, open_checkpoint
from bertconvert.converter.checkpoint import keras_h5

from ..helpers import deadline
from .h5_writer import write_h5, write_layers

KERNEL = np.arange(12, dtype=np.float32).reshape(3, 4)
WORDS = np.linspace(-1, 1, 40, dtype=np.float32).reshape(10, 4)
LAYERS = {
    "main": {
        "model/main/words/weight:0": WORDS,
        "model/main/dense/kernel:0": KERNEL,
        "model/main/dense/bias:0": KERNEL[1],
    },
    "head": {"model/main/words/weight:0": WORDS, "model/head/bias:0": KERNEL[0]},
    "dropout_3": {},
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_h5(tmp_path / "tf_model.h5", LAYERS)


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    return str(caught.value)


class TestVariables:
    def test_have_the_names_of_the_program_without_layer_and_output(self, path: Path) -> None:
        checkpoint = open_checkpoint(path)
        assert sorted(checkpoint) == [
            "head/model/main/words/weight",  # a copy, whose layer has fewer variables
            "model/head/bias",
            "model/main/dense/bias",
            "model/main/dense/kernel",
            "model/main/words/weight",
        ]
        assert checkpoint.format == "Keras HDF5"
        assert checkpoint.variables["model/main/dense/kernel"].shape == (3, 4)
        assert checkpoint.variables["model/main/dense/kernel"].nbytes == 48

    def test_have_the_values_that_h5py_wrote(self, path: Path) -> None:
        checkpoint = open_checkpoint(path)
        assert np.array_equal(checkpoint["model/main/dense/kernel"], KERNEL)
        assert np.array_equal(checkpoint["head/model/main/words/weight"], WORDS)
        buffer = bytearray(KERNEL.nbytes)
        checkpoint.read_into("model/main/dense/kernel", buffer)
        assert buffer == KERNEL.tobytes()
        pieces = checkpoint.stream("model/main/words/weight", memoryview(bytearray(64)))
        assert b"".join(map(bytes, pieces)) == WORDS.tobytes()

    @pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", "<i1", "<i4", "<i8", "<u2"])
    @pytest.mark.parametrize("shape", [(), (0, 3), (5,), (2, 3, 4)])
    def test_of_every_dtype_and_shape(
        self, tmp_path: Path, dtype: str, shape: tuple[int, ...]
    ) -> None:
        array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
        checkpoint = open_checkpoint(write_h5(tmp_path / "x.h5", {"a": {"v:0": array}}))
        found = checkpoint["v"]
        assert (found.dtype, found.shape) == (array.dtype, array.shape)
        assert np.array_equal(found, array)
        assert checkpoint.variables["v"].tf_dtype == array.dtype.name

    def test_are_read_from_a_whole_model_beside_its_optimizer(self, tmp_path: Path) -> None:
        with h5py.File(tmp_path / "model.h5", "w") as file:
            file.attrs["model_config"] = "{}"
            write_layers(file.create_group("model_weights"), LAYERS)
            slots = file.create_group("optimizer_weights")
            slots.attrs["weight_names"] = ["Adam/m/dense/kernel:0"]
            slots["Adam/m/dense/kernel:0"] = KERNEL
        checkpoint = open_checkpoint(tmp_path / "model.h5")
        assert sorted(checkpoint) == [
            "head/model/main/words/weight",
            "model/head/bias",
            "model/main/dense/bias",
            "model/main/dense/kernel",
            "model/main/words/weight",
            "optimizer_weights/Adam/m/dense/kernel",
        ]
        assert np.array_equal(checkpoint["model/main/dense/kernel"], KERNEL)

    def test_of_layers_whose_names_are_paths(self, tmp_path: Path) -> None:
        layers = {
            "transformer/layer_0": {"transformer/layer_0/query/kernel:0": KERNEL},
            "transformer/layer_1": {"transformer/layer_1/query/kernel:0": KERNEL + 1},
        }
        checkpoint = open_checkpoint(write_h5(tmp_path / "x.h5", layers))
        assert sorted(checkpoint) == [
            "transformer/layer_0/query/kernel", "transformer/layer_1/query/kernel",
        ]  # fmt: skip
        assert np.array_equal(checkpoint["transformer/layer_1/query/kernel"], KERNEL + 1)

    def test_of_lists_of_names_that_keras_cut_in_pieces(self, tmp_path: Path) -> None:
        with h5py.File(tmp_path / "x.h5", "w") as file:
            file.attrs["layer_names0"], file.attrs["layer_names1"] = ["a"], ["b"]
            for layer in ("a", "b"):
                file.create_group(layer).attrs["weight_names0"] = [f"{layer}/v:0"]
                file[layer][f"{layer}/v:0"] = KERNEL
        assert sorted(open_checkpoint(tmp_path / "x.h5")) == ["a/v", "b/v"]

    def test_that_are_written_by_an_old_h5py_and_a_new_format(self, tmp_path: Path) -> None:
        for libver in ("earliest", "latest"):
            with h5py.File(tmp_path / f"{libver}.h5", "w", libver=libver) as file:
                write_layers(file, {"a": {"a/" + "x" * n + ":0": KERNEL for n in range(1, 40)}})
            checkpoint = open_checkpoint(tmp_path / f"{libver}.h5")
            assert len(checkpoint) == 39
            assert np.array_equal(checkpoint["a/xxx"], KERNEL)

    def test_with_names_that_are_not_utf_8(self, tmp_path: Path) -> None:
        with h5py.File(tmp_path / "x.h5", "w") as file:
            write_layers(file, {"a": {}})
            file["a"][b"caf\xe9:0"] = KERNEL
        assert list(open_checkpoint(tmp_path / "x.h5")) == ["caf\\xe9"]

    def test_are_read_in_order_of_their_bytes(self, path: Path) -> None:
        checkpoint = open_checkpoint(path)
        for name in checkpoint:
            file, at = checkpoint.position(name)
            data = path.read_bytes()[at : at + checkpoint.variables[name].nbytes]
            assert (file, data) == (0, checkpoint[name].tobytes())
            assert checkpoint.checksum(name) is None

    def test_are_read_after_pickling(self, path: Path) -> None:
        checkpoint = pickle.loads(pickle.dumps(open_checkpoint(path)))
        assert np.array_equal(checkpoint["model/main/dense/kernel"], KERNEL)


class TestCopies:
    def test_that_differ_are_refused_with_the_place(self, tmp_path: Path) -> None:
        changed = WORDS.copy()
        changed[7, 2] = 0.5
        layers = LAYERS | {"main": LAYERS["main"] | {"model/main/words/weight:0": changed}}
        checkpoint = open_checkpoint(write_h5(tmp_path / "x.h5", layers))
        for read in (
            lambda: checkpoint["model/main/words/weight"],
            lambda: checkpoint.read_into("model/main/words/weight", bytearray(WORDS.nbytes)),
            lambda: list(checkpoint.stream("model/main/words/weight", memoryview(bytearray(16)))),
        ):
            with pytest.raises(CheckpointError) as caught:
                read()
            for part in ("model/main/words/weight", "[7, 2]", "0.5", str(WORDS[7, 2])):
                assert part in str(caught.value)
        assert np.array_equal(checkpoint["model/main/dense/kernel"], KERNEL)

    def test_that_differ_in_the_last_of_many_pieces_are_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(keras_h5, "_COMPARED_BYTES", 64)
        for row in range(10):
            changed = WORDS.copy()
            changed[row, 3] += 1
            layers = {"a": {"v:0": WORDS}, "b": {"v:0": changed}}
            checkpoint = open_checkpoint(write_h5(tmp_path / "x.h5", layers))
            with pytest.raises(CheckpointError, match=rf"\[{row}, 3\]"):
                checkpoint["v"]

    @pytest.mark.parametrize("other", [WORDS[:9], WORDS.reshape(4, 10), WORDS.astype(np.float64)])
    def test_of_another_shape_or_dtype_are_refused(
        self, tmp_path: Path, other: np.ndarray[Any, Any]
    ) -> None:
        layers = {"a": {"v:0": WORDS}, "b": {"v:0": other}}
        checkpoint = open_checkpoint(write_h5(tmp_path / "x.h5", layers))
        with pytest.raises(CheckpointError, match=r"float32 \[10, 4\]"):
            checkpoint["v"]

    def test_are_the_same_by_their_bits(self, tmp_path: Path) -> None:
        odd = np.array([np.nan, -0.0, np.inf], np.float32)
        layers = {"a": {"v:0": odd}, "b": {"v:0": odd}, "c": {"v:0": odd}}
        checkpoint = open_checkpoint(write_h5(tmp_path / "x.h5", layers))
        assert sorted(checkpoint) == ["b/v", "c/v", "v"]
        assert checkpoint["v"].tobytes() == odd.tobytes()
        layers["c"] = {"v:0": np.abs(odd)}  # differs in the sign of zero
        with pytest.raises(CheckpointError, match="c/v"):
            open_checkpoint(write_h5(tmp_path / "x.h5", layers))["v"]

    def test_that_share_bytes_are_refused(self, tmp_path: Path) -> None:
        """Many copies could otherwise stand for one large tensor, and take any time to compare."""
        array = np.arange(100_000, dtype=np.float32)
        layers = {layer: {"v:0": array} for layer in ("a", "b", "c")}
        path = write_h5(tmp_path / "x.h5", layers)
        first, *others = (open_checkpoint(path).position(n)[1] for n in ("v", "b/v", "c/v"))
        data = path.read_bytes()
        end = len(data) - 2 * array.nbytes  # two copies less, of which the superblock knows
        for old, new in ((others[0], first), (others[1], first), (len(data), end)):
            data = data.replace(old.to_bytes(8, "little"), new.to_bytes(8, "little"))
        path.write_bytes(data[:end])
        with pytest.raises(CheckpointError, match="share bytes"):
            open_checkpoint(path)["v"]

    def test_of_one_path_are_refused(self, tmp_path: Path) -> None:
        layers = {"a": {"v:0": KERNEL, "w:0": KERNEL}, "b": {"v:0": KERNEL, "v": KERNEL}}
        assert "b/v" in refusal(write_h5(tmp_path / "x.h5", layers))


class TestPlaces:
    def test_in_a_folder_with_no_other_checkpoint(self, path: Path) -> None:
        for name in ("config.json", "pytorch_model.bin", "tokenizer.json"):
            (path.parent / name).write_bytes(b"{}")
        assert len(open_checkpoint(path.parent)) == 5
        assert len(open_checkpoint(path.parent / "config.json")) == 5

    def test_next_to_another_checkpoint_are_read_by_name_only(
        self, path: Path, fixtures: Path
    ) -> None:
        for file in (fixtures / "encoder").iterdir():
            (path.parent / file.name).write_bytes(file.read_bytes())
        assert "TensorBundle" in open_checkpoint(path.parent).format
        assert "Keras" in open_checkpoint(path).format

    def test_of_several_files_are_listed(self, path: Path) -> None:
        write_h5(path.parent / "other.hdf5", LAYERS)
        text = refusal(path.parent)
        assert "tf_model.h5" in text
        assert "other.hdf5" in text

    @pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    def test_in_an_archive(self, path: Path, compression: int) -> None:
        archive = path.parent / "model.zip"
        with zipfile.ZipFile(archive, "w", compression) as packed:
            packed.write(path, "model/tf_model.h5")
        path.unlink()
        for place in (archive, archive / "model", archive / "model" / "tf_model.h5"):
            checkpoint = open_checkpoint(place)
            assert np.array_equal(checkpoint["model/main/dense/kernel"], KERNEL)

    def test_under_another_name_say_what_to_do(self, path: Path) -> None:
        renamed = path.rename(path.parent / "weights")
        assert "HDF5" in refusal(renamed)
        assert ".h5" in refusal(renamed)

    def test_of_pieces_that_transformers_cut_are_refused(self, path: Path) -> None:
        for number in (1, 2):
            piece = path.parent / f"tf_model-0000{number}-of-00002.h5"
            piece.write_bytes(path.read_bytes())
            assert "max_shard_size" in refusal(piece)
        path.unlink()
        assert "max_shard_size" in refusal(path.parent)


def test_without_h5py_the_message_says_how_to_install_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    text = refusal(path)
    assert "pip install" in text
    assert "h5py" in text


Change = Callable[[Any, Path], None]


def _put(name: str, **options: Any) -> Change:
    return lambda file, folder: file["main"].create_dataset(name, data=KERNEL, **options) and None


def _link(link: Callable[[Path], object]) -> Change:
    return lambda file, folder: file["main"].__setitem__("bad", link(folder))


def _outside(folder: Path) -> Path:
    with h5py.File(folder / "secret.h5", "w") as file:
        file["x"] = KERNEL
    return folder / "secret.h5"


def _virtual(file: Any, folder: Path) -> None:
    layout = h5py.VirtualLayout((3, 4), "f4")
    layout[...] = h5py.VirtualSource(str(_outside(folder)), "x", (3, 4))
    file["main"].create_virtual_dataset("bad", layout)


def _growing(file: Any, folder: Path) -> None:
    layout = h5py.VirtualLayout((3, 4), "f4", maxshape=(None, 4))
    source = h5py.VirtualSource(str(_outside(folder)), "x", (3, 4), maxshape=(None, 4))
    layout[: h5py.h5s.UNLIMITED] = source[: h5py.h5s.UNLIMITED]
    file["main"].create_virtual_dataset("bad", layout)


def _external(file: Any, folder: Path) -> None:
    (folder / "raw").write_bytes(KERNEL.tobytes())
    raw = [(str(folder / "raw"), 0, KERNEL.nbytes)]
    file["main"].create_dataset("bad", (3, 4), "f4", external=raw)


def _compact(file: Any, folder: Path) -> None:
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_layout(h5py.h5d.COMPACT)
    space = h5py.h5s.create_simple((3, 4))
    h5py.h5d.create(file["main"].id, b"bad", h5py.h5t.IEEE_F32LE, space, plist).write(
        h5py.h5s.ALL, h5py.h5s.ALL, KERNEL
    )


class TestWhatKerasDoesNotWrite:
    @pytest.mark.parametrize(
        ("change", "word"),
        [
            (_link(lambda folder: h5py.SoftLink("/head")), "link"),
            (_link(lambda folder: h5py.SoftLink("/nowhere")), "link"),
            (_link(lambda folder: h5py.ExternalLink(str(_outside(folder)), "/x")), "link"),
            (_link(lambda folder: h5py.ExternalLink("/dev/zero", "/x")), "link"),
            (lambda file, folder: file["main"].__setitem__("bad", file), "two names"),
            (lambda file, folder: file["main"].__setitem__("bad", file["main"]), "two names"),
            (lambda file, folder: file["main"].__setitem__("bad", file["head"]), "two names"),
        ],
    )  # fmt: skip
    def test_is_no_link_to_another_place(self, path: Path, change: Change, word: str) -> None:
        with h5py.File(path, "r+") as file:
            change(file, path.parent)
        assert word in refusal(path)
        assert "bad" in refusal(path)

    @pytest.mark.parametrize(
        "change",
        [
            _put("bad", chunks=(1, 4)),
            _put("bad", compression="gzip"),
            _put("bad", shuffle=True, chunks=True),
            _virtual,
            _growing,
            _external,
            _compact,
        ],
    )
    def test_is_no_data_in_another_form(self, path: Path, change: Change) -> None:
        with h5py.File(path, "r+") as file:
            change(file, path.parent)
        checkpoint = open_checkpoint(path)
        with pytest.raises(CheckpointError, match=r"bad.*h5repack"):
            checkpoint["bad"]
        with pytest.raises(CheckpointError):
            checkpoint.position("bad")
        assert np.array_equal(checkpoint["model/main/dense/kernel"], KERNEL)

    @pytest.mark.parametrize(
        "array",
        [
            KERNEL.astype(">f4"),
            KERNEL.astype(complex),
            np.array(["text"], h5py.string_dtype()),
            np.array([b"text"], "S9"),
            np.zeros(3, [("a", "f4")]),
            np.array([True, False]),
        ],
    )
    def test_is_no_other_type(self, path: Path, array: Any) -> None:
        with h5py.File(path, "r+") as file:
            file["main"]["bad"] = array
        checkpoint = open_checkpoint(path)
        assert checkpoint.variables["bad"].tf_dtype not in ("float32", "float64", "string")
        with pytest.raises(CheckpointError, match=r"bad|hdf5"):
            checkpoint["bad"]

    @pytest.mark.parametrize("shape", [(1 << 40,), (1 << 30, 1 << 30), (1 << 20,) * 3, None])
    def test_is_no_shape_without_its_data(self, path: Path, shape: Any) -> None:
        """HDF5 writes no byte of a dataset that was never filled."""
        with h5py.File(path, "r+") as file:
            file["main"].create_dataset("bad", shape, "f4", h5py.Empty("f4") if not shape else None)
        with pytest.raises(CheckpointError, match="bad"):
            open_checkpoint(path)["bad"]

    def test_are_no_weights_of_keras_3(self, tmp_path: Path) -> None:
        with h5py.File(tmp_path / "x.weights.h5", "w") as file:
            file["layers/dense/vars/0"] = KERNEL
            file["layers/dense/vars/1"] = KERNEL[0]
            file.create_group("vars")
        text = refusal(tmp_path / "x.weights.h5")
        assert "newer format" in text
        assert "save_format" in text

    def test_is_no_other_hdf5_file(self, tmp_path: Path) -> None:
        with h5py.File(tmp_path / "x.h5", "w") as file:
            file["measurements"] = KERNEL
        assert "layer_names" in refusal(tmp_path / "x.h5")

    @pytest.mark.parametrize(
        ("data", "word"),
        [
            (b"", "empty"),
            (b"PK\3\4" + bytes(100), "not an HDF5 file"),
            (b"version https://git-lfs.github.com/spec/v1\nsize 123456789\n", "git-lfs"),
            (b"<html><title>Sign in</title></html>", "Sign in"),
            (b"\x89HDF\r\n\x1a\n", "damaged"),
            (b"\x89HDF\r\n\x1a\n" + bytes(1000), "damaged"),
        ],
    )
    def test_is_no_file_of_another_kind(self, tmp_path: Path, data: bytes, word: str) -> None:
        (tmp_path / "x.h5").write_bytes(data)
        assert word in refusal(tmp_path / "x.h5")
        assert word in refusal(tmp_path)

    def test_are_not_so_many_groups(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(keras_h5, "_MOST_LINKS", 30)
        with h5py.File(path, "r+") as file:
            for number in range(30):
                file.create_group(f"main/more/{number}")
        assert "too many" in refusal(path)

    def test_are_not_such_long_names(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(keras_h5, "_MOST_PATH_BYTES", 10_000)
        with h5py.File(path, "r+") as file:
            file.create_group("/".join("x" * 50 for _ in range(40)))
        assert "memory" in refusal(path)

    def test_are_not_a_thousand_groups_in_one_another(self, path: Path) -> None:
        with h5py.File(path, "r+") as file:
            group = file
            for _ in range(2000):
                group = group.create_group("x")
        with deadline(60):
            assert len(open_checkpoint(path)) == 5


class TestDamage:
    def test_of_a_file_that_was_cut_off_is_an_error(self, path: Path) -> None:
        whole = path.read_bytes()
        for size in range(8, len(whole), len(whole) // 60):
            path.write_bytes(whole[:size])
            assert "x.h5" in refusal(path) or "tf_model.h5" in refusal(path)

    def test_of_any_byte_is_an_error_or_another_value(self, path: Path) -> None:
        whole = path.read_bytes()
        rng = random.Random(0)
        for _ in range(400):
            data = bytearray(whole)
            for _ in range(rng.choice([1, 1, 8])):
                data[rng.randrange(8, len(data))] = rng.choice([0, 255, rng.randrange(256)])
            path.write_bytes(data)
            with deadline(60):
                try:
                    checkpoint = open_checkpoint(path)
                    for name in checkpoint:
                        if checkpoint.variables[name].nbytes < 1 << 20:
                            checkpoint[name]
                except CheckpointError:
                    pass

    def test_of_the_bytes_of_a_dataset_that_are_not_there_is_an_error(self, path: Path) -> None:
        """The library refuses a file that ends early; this one ends while it is open."""
        checkpoint = open_checkpoint(path)
        path.write_bytes(path.read_bytes()[:3000])
        with pytest.raises(CheckpointError):
            for name in checkpoint:
                checkpoint[name]


def test_is_read_through_a_file_object_without_following_its_path(path: Path) -> None:
    """What h5py opens is the range of bytes, so that it is the file which was checked."""
    from bertconvert.converter.storage.files import open_path

    data = path.read_bytes()
    padded = path.parent / "padded"
    padded.write_bytes(b"?" * 512 + data + b"?" * 100)
    part = open_path(str(padded)).part("inner", 512, len(data))
    found = keras_h5.KerasFile(part)
    (place,) = found.parts("model/main/dense/kernel")
    assert b"".join(map(bytes, place.stream(memoryview(bytearray(16))))) == KERNEL.tobytes()
