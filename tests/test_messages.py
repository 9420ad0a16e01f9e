"""What people read, in one file for review: messages.txt.

Each part is a command with what it prints. After a change of a message, write the file again and
read the difference:

    UPDATE_MESSAGES=1 python -m pytest -n 0 tests/test_messages.py
"""

import difflib
import gzip
import json
import os
import re
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file, save_file

import bertconvert
from bertconvert import open_checkpoint
from bertconvert.cli import cli
from bertconvert.converter.checkpoint.bundle_writer import write_bundle
from bertconvert.converter.mapping import builtin_mappings
from bertconvert.converter.storage import filesystems

from .remote.server import Server, serving
from .verify.record_writer import parts, sealed, written

GOLDEN = Path(__file__).with_name("messages.txt")
DATA = "bert_model.ckpt.data-00000-of-00001"
INDEX = "bert_model.ckpt.index"

# What differs between machines and versions -> a placeholder.
PLACEHOLDERS = [
    (re.escape(bertconvert.__version__), "<version>"),
    (r"127\.0\.0\.1:\d+", "localhost:<port>"),
    (r"\bin \d+\.\d s\b", "in <seconds> s"),
    (r"[0-9a-f]{64}", "<sha256>"),
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "<time>"),
    (r"\d+\.\d kB(?=; it proves)", "<size> kB"),
    (r"(?<=::)[0-9a-f]{32}\b", "<token>"),
    (r"\d\d?\.\de-\d\d|\d\.\d+e-\d\d", "<number>"),
    (r"(?<=took )\d+\.\d+", "<seconds>"),
]


class Transcript:
    """Runs commands in a folder, and keeps what they print."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.text = ""

    def part(self, title: str) -> None:
        self.text += f"\n{'=' * 100}\n{title}\n{'=' * 100}\n"

    def run(self, command: str, about: str = "") -> None:
        """Run `bertconvert` with the words of `command`."""
        result = CliRunner().invoke(cli, command.split(), prog_name="bertconvert")
        assert isinstance(result.exception, SystemExit | None), result.exc_info
        self.text += f"\n# {about}\n" if about else "\n"
        self.text += self._general(f"$ bertconvert {command}\n{result.output.rstrip()}\n")
        if result.exit_code:
            self.text += f"exit code {result.exit_code}\n"

    def file(self, name: str) -> None:
        """Keep a text file."""
        self.text += f"\n$ cat {name}\n{self._general((self.folder / name).read_text())}"

    def _general(self, text: str) -> str:
        text = text.replace(f"{self.folder}/", "").replace(str(self.folder), ".")
        for pattern, placeholder in PLACEHOLDERS:
            text = re.sub(pattern, placeholder, text)
        return text


@pytest.fixture
def transcript(
    tmp_path: Path, fixtures: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Transcript]:
    names = ["pretraining", "classifier", "squad", "encoder", "h5-pretraining", "albert"]
    for name in (*names, "mobilebert", "tf2-pretraining", "tf2-span", "tf2-hub"):
        shutil.copytree(fixtures / name, tmp_path / name)
        for outputs in (tmp_path / name).glob("*outputs.safetensors"):
            outputs.unlink()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(filesystems, "PAUSE_SECONDS", 0.01)
    yield Transcript(tmp_path)


def changed(source: str, name: str, change: Callable[[Path], Any] = lambda _: None) -> Path:
    """A copy of a checkpoint, changed."""
    copy = Path(name)
    shutil.copytree(source, copy)
    change(copy)
    return copy


def overwrite(file: Path, at: int, content: bytes) -> None:
    data = bytearray(file.read_bytes())
    data[at : at + len(content)] = content
    file.write_bytes(data)


def truncate(file: Path, share: float) -> None:
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])


def edit_json(file: Path, **values: Any) -> None:
    document = json.loads(file.read_text()) | values
    file.write_text(json.dumps({k: v for k, v in document.items() if v is not None}))


def packed(folder: str, name: str) -> Path:
    with zipfile.ZipFile(name, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(Path(folder).iterdir()):
            archive.write(file, f"{folder}/{file.name}", zipfile.ZIP_DEFLATED)
    return Path(name)


def test_messages_are_those_in_the_file(transcript: Transcript, request: Any) -> None:
    usage(transcript)
    results(transcript)
    checkpoints(transcript)
    archives(transcript)
    keras_files(transcript)
    families(transcript)
    with serving(transcript.folder) as server:
        remote(transcript, server)
    configs(transcript)
    vocabularies(transcript)
    labels(transcript)
    plans(transcript)
    mapping_files(transcript)
    outputs(transcript)
    proofs(transcript)
    golden_records(transcript)
    batches(transcript)
    audits(transcript)
    the_way_back(transcript)
    if os.environ.get("UPDATE_MESSAGES"):
        GOLDEN.write_text(transcript.text)
    expected = GOLDEN.read_text()
    if transcript.text != expected:
        lines = difflib.unified_diff(
            expected.splitlines(), transcript.text.splitlines(), "messages.txt", "now", lineterm=""
        )
        pytest.fail("\n".join([*lines, "", "to accept: UPDATE_MESSAGES=1 (see the docstring)"]))


def usage(t: Transcript) -> None:
    t.part("Help and wrong calls")
    t.run("--help")
    for command in ("tf2pt", "batch", "verify", "audit", "inspect", "explain", "mappings"):
        t.run(f"{command} --help")
    t.run("tf2pt")
    t.run("tf2tp pretraining out")
    t.run("tf2pt pretraining out --dtype float8")
    t.run("tf2pt pretraining out --activation relu")
    t.run("tf2pt pretraining out --num-heads 0")
    t.run("mappings bert --size X=2")
    t.run("mappings --size L=2")
    t.run("batch pretraining out --jobs 2 --scheduler tcp://localhost:1")


def results(t: Transcript) -> None:
    t.part("Results")
    t.run("tf2pt pretraining model")
    t.file("model/README.md")
    t.run("tf2pt classifier token --head token --dtype float16")
    t.run("tf2pt pretraining bare --head none --json")
    t.file("bare/README.md")
    t.run("tf2pt encoder proved --verify weights")
    t.run("inspect classifier")
    t.run("explain classifier")
    t.run("mappings")
    t.run("mappings bert --size L=12")


def checkpoints(t: Transcript) -> None:
    t.part("Checkpoints")
    t.run("inspect nothing")
    t.run("inspect nowhere/model.ckpt")
    Path("empty").mkdir()
    t.run("inspect empty")
    Path("other").mkdir()
    Path("other/model.h5").write_bytes(b"\x89HDF")
    t.run("inspect other")
    t.run("inspect other/model.h5")
    Path("other/notes.txt").write_text("")
    t.run("inspect other/notes.txt")
    changed("pretraining", "no-data", lambda c: (c / DATA).unlink())
    t.run("tf2pt no-data out")
    changed("pretraining", "no-index", lambda c: (c / INDEX).unlink())
    t.run("inspect no-index")
    t.run("inspect no-index/bert_model.ckpt")
    changed(
        "pretraining", "copy", lambda c: shutil.copy(c / INDEX, c / "bert_model.ckpt (1).index")
    )
    t.run("inspect copy")
    two = changed("pretraining", "two", lambda c: shutil.copy(c / INDEX, c / "model-2.ckpt.index"))
    t.run("inspect two", "two checkpoints in a folder")
    (two / "checkpoint").write_text('model_checkpoint_path: "model-3.ckpt"\n')
    t.run("inspect two", "a file `checkpoint` that names none of them")
    (two / "model-2.ckpt.index.crdownload").write_bytes(b"")
    t.run("inspect two/model-2.ckpt.index.crdownload")
    steps = changed("pretraining", "steps")
    for step in (5, 10):
        for ending in (".index", ".data-00000-of-00001"):
            shutil.copy(steps / f"bert_model.ckpt{ending}", steps / f"model.ckpt-{step}{ending}")
    for name in (INDEX, DATA):
        (steps / name).unlink()
    t.run("inspect steps", "several steps")
    t.run("inspect steps/model.ckpt")
    t.run("inspect steps --step 7")
    t.run("inspect steps --step last")
    (steps / "model.ckpt-10.index").unlink()
    (steps / "model.ckpt-10.data-00000-of-00001").rename(steps / "model.ckpt-5")
    (steps / "model.ckpt-5.data-00000-of-00001").unlink()
    t.run("tf2pt steps out", "the data file is called like the prefix")
    changed("pretraining", "cut-index", lambda c: truncate(c / INDEX, 0.5))
    t.run("inspect cut-index")
    changed("pretraining", "bad-index", lambda c: overwrite(c / INDEX, 40, b"damage"))
    t.run("inspect bad-index")
    changed("pretraining", "no-table", lambda c: (c / INDEX).write_bytes(b"x" * 100))
    t.run("inspect no-table")
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    changed("pretraining", "lfs", lambda c: (c / INDEX).write_bytes(pointer))
    t.run("inspect lfs", "a pointer of git-lfs")
    page = b"<!DOCTYPE html><html>Sign in</html>"
    changed("pretraining", "page", lambda c: (c / INDEX).write_bytes(page))
    t.run("inspect page", "a web page")
    changed("pretraining", "cut-data", lambda c: truncate(c / DATA, 0.5))
    t.run("tf2pt cut-data out")
    changed("pretraining", "bad-data", lambda c: overwrite(c / DATA, 100_000, b"damage"))
    t.run("tf2pt bad-data out")
    os.mkfifo("pipe")
    t.run("inspect pipe")


def archives(t: Transcript) -> None:
    t.part("Archives")
    archive = packed("classifier", "classifier.zip")
    t.run("tf2pt classifier.zip from-zip")
    truncate(packed("classifier", "cut.zip"), 0.5)
    t.run("inspect cut.zip")
    overwrite(packed("classifier", "damaged.zip"), archive.stat().st_size // 2, b"damage")
    t.run("tf2pt damaged.zip out")
    with zipfile.ZipFile("texts.zip", "w") as texts:
        texts.writestr("readme.txt", "")
    t.run("inspect texts.zip")
    with tarfile.open("classifier.tar.gz", "w:gz") as tar:
        tar.add("classifier")
    truncate(Path("classifier.tar.gz"), 0.5)
    t.run("inspect classifier.tar.gz")
    Path("text.tar").write_text("no tar")
    t.run("inspect text.tar")
    changed("classifier", "packed", lambda c: (c / INDEX).unlink())
    Path("packed/bert_model.ckpt.index.gz").write_bytes(gzip.compress(b"no table"))
    t.run("inspect packed")
    Path("classifier.rar").write_bytes(b"Rar!")
    t.run("inspect classifier.rar")


def families(t: Transcript) -> None:
    t.part("Families")
    t.run("tf2pt mobilebert out-mobilebert")
    config = "bert_config.json"
    changed("mobilebert", "no-heads", lambda c: (c / config).unlink())
    t.run("tf2pt no-heads out-no-heads", "nothing tells the heads")
    text = Path("mobilebert", config).read_text()
    odd = changed("mobilebert", "odd")
    for old, new in (('"no_norm"', '"layer_norm"'), ('activation": false', 'activation": true')):
        (odd / config).write_text(text.replace(old, new))
        t.run("tf2pt odd out-odd", new)
    with open_checkpoint("mobilebert") as checkpoint:
        arrays = {n.replace("Fake", ""): checkpoint[n] for n in checkpoint}
    changed("mobilebert", "layer-norm", lambda c: [file.unlink() for file in c.glob("*.ckpt*")])
    write_bundle(Path("layer-norm", "mobilebert_variables.ckpt"), arrays)
    t.run("tf2pt layer-norm out", "a layout that transformers can't hold")
    t.run("tf2pt tf2-pretraining out-tf2")
    t.run("tf2pt tf2-hub out-hub")
    t.run("tf2pt tf2-span out-span", "a head that three classes have")
    t.run("tf2pt tf2-span out-span --head squad")
    t.run("inspect tf2-hub")
    t.run("tf2pt tf2-hub out-hub-lower --lower-case", "the module says the opposite")
    data = "variables/variables.data-00000-of-00001"
    changed("tf2-hub", "hub-graph", lambda c: overwrite(c / data, 50_000, b"damage"))
    t.run("tf2pt hub-graph out", "a damaged object graph")
    bare = changed("tf2-hub", "hub-bare", lambda c: (c / data).unlink())
    t.run("tf2pt hub-bare out", "a SavedModel without its data")
    shutil.rmtree(bare / "variables")
    t.run("tf2pt hub-bare out", "a SavedModel without its variables")
    t.run("tf2pt hub-bare/saved_model.pb out")


def keras_files(t: Transcript) -> None:
    t.part("Files of Keras")
    t.run("tf2pt h5-pretraining out-h5")
    t.run("tf2pt h5-pretraining out-h5-token --head token")
    t.run("verify h5-pretraining out-h5 --level weights")
    words = "mlm___cls/tf_bert_for_pre_training/bert/embeddings/word_embeddings/weight:0"
    differ = changed("h5-pretraining", "h5-differ")
    with h5py.File(differ / "tf_model.h5", "r+") as file:
        file["mlm___cls"][words.partition("/")[2]][100, 7] = 0.5
    t.run("tf2pt h5-differ out-differ", "the copy of the embeddings differs")
    linked = changed("h5-pretraining", "h5-linked")
    with h5py.File(linked / "tf_model.h5", "r+") as file:
        file["bert/more"] = h5py.ExternalLink("/etc/passwd", "/")
    t.run("inspect h5-linked", "a link to another file")
    packed = changed("h5-pretraining", "h5-packed")
    with h5py.File(packed / "tf_model.h5", "r+") as file:
        del file["mlm___cls"][words.partition("/")[2]]
        table = np.zeros((128, 16), np.float32)
        file["mlm___cls"].create_dataset(words.partition("/")[2], data=table, compression="gzip")
    t.run("tf2pt h5-packed out-packed", "a compressed dataset")
    Path("other-h5").mkdir()
    for name, groups in (
        ("keras-bert.h5", ["Embedding-Token/Embedding-Token/embeddings:0"]),
        ("new.weights.h5", ["layers/dense/vars/0", "vars/0"]),
        ("data.h5", ["measurements"]),
        ("tf_model-00001-of-00002.h5", ["bert"]),
        ("model.keras", ["bert"]),
    ):
        with h5py.File(f"other-h5/{name}", "w") as file:
            for group in groups:
                file[group] = np.zeros((2, 2), np.float32)
            if name == "keras-bert.h5":
                file.attrs["layer_names"] = ["Embedding-Token"]
                file["Embedding-Token"].attrs["weight_names"] = ["Embedding-Token/embeddings:0"]
        t.run(f"tf2pt other-h5/{name} out-other")
    changed("h5-pretraining", "h5-cut", lambda c: truncate(c / "tf_model.h5", 0.5))
    t.run("inspect h5-cut")


def remote(t: Transcript, server: Server) -> None:
    t.part("Remote")
    url = server.url
    t.run(f"tf2pt {url}/classifier from-web")
    t.run(f"inspect {url}/nothing/model.ckpt")
    t.run(f"inspect {url}/empty", "a folder that is not listed")
    server.fail = {"/classifier.zip": 403}
    t.run(f"inspect {url}/classifier.zip?token=secret")
    server.fail = {"/classifier.zip": 500}
    t.run(f"inspect {url}/classifier.zip")
    server.fail = {}
    server.page = "<html>Sign in</html>"
    t.run(f"inspect {url}/classifier.zip", "a login page")
    server.page = ""
    server.drop_after = 100
    t.run(f"tf2pt {url}/classifier out", "a connection that drops again and again")
    server.drop_after = -1
    t.run("inspect http://127.0.0.1:9/model.ckpt", "no server")
    t.run("inspect htp://example.org/model.ckpt")
    t.run("inspect https://")
    t.run(f"tf2pt classifier {url}/out", "a URL that can't be written")


def configs(t: Transcript) -> None:
    t.part("Configs")
    config = "bert_config.json"
    changed("pretraining", "no-config", lambda c: (c / config).unlink())
    t.run("tf2pt no-config out1")
    t.run("tf2pt no-config out2 --num-heads 3")
    changed("pretraining", "text-config", lambda c: (c / config).write_text("{hidden: 4"))
    t.run("tf2pt text-config out")
    changed("pretraining", "list-config", lambda c: (c / config).write_text("[]"))
    t.run("tf2pt list-config out")
    for number, values in enumerate(
        [
            {"hidden_size": 256},
            {"num_hidden_layers": 12},
            {"num_attention_heads": 5},
            {"vocab_size": "many"},
            {"hidden_act": "swish"},
            {"hidden_act": None},
        ]
    ):
        name = f"config-{number}"
        changed("pretraining", name, lambda c, v=values: edit_json(c / config, **v))
        t.run(f"tf2pt {name} out-{name}", f"the config has {values}")
    t.run("tf2pt pretraining out --config nothing.json")
    changed("pretraining", "two-configs", lambda c: (c / config).rename(c / "my_config.json"))
    shutil.copy("two-configs/my_config.json", "two-configs/other_config.json")
    edit_json(Path("two-configs/other_config.json"), num_attention_heads=1)
    t.run("tf2pt two-configs out")
    for n, text in enumerate(
        [
            '{\n  "hidden_size": 32, // wide\n  "vocab_size": 128\n}',
            '{\n  "hidden_size": 32,\n  "vocab_size": 128,\n}',
            '{\n  "hidden_size": 32,\n  "vocab_size": 128,\n  "hidden_size": 64\n}',
            '{\n  "hidden_size": "32",\n  "hidden_dropout_prob": 2,\n  "initializer_range": NaN\n}',
            '{\n  "hidden_size": 32,\n  "num_hidden_groups": 1,\n  "layer_norm_eps": 1e-5\n}',
            '{"do_lower_case": true}',
        ]
    ):
        folder = f"written-{n}"
        changed("pretraining", folder, lambda c, text=text: (c / config).write_text(text))
        t.run(f"tf2pt {folder} out-{folder}", f"the config is {text}")
    edit_json(changed("pretraining", "of-transformers") / config, model_type="bert")
    t.run("tf2pt of-transformers out-of-transformers")
    up = changed("pretraining", "up/run").parent
    for name in (config, "vocab.txt"):
        (up / "run" / name).rename(up / name)
    t.run("tf2pt up/run out-up", "config and vocabulary are one folder up")
    edit_json(up / config, hidden_size=64)
    (up / "vocab.txt").write_text("[PAD]\n")
    t.run("tf2pt up/run out-up-2", "and belong to another model")


def vocabularies(t: Transcript) -> None:
    t.part("Vocabularies")
    lines = Path("pretraining/vocab.txt").read_text().splitlines()
    for about, content in {
        "too short": "\n".join(lines[:-2]).encode(),
        "a token twice": "\n".join([*lines[:-1], lines[-2]]).encode(),
        "no UTF-8": b"\xff\xfe\n" * len(lines),
        "blank lines": "\n".join([*lines[:40], "", "", *lines[42:]]).encode(),
        "without [CLS]": "\n".join(lines).replace("[CLS]", "[BEGIN]").encode(),
        "without [PAD]": "\n".join(lines).replace("[PAD]", "a").encode(),
        "[PAD] at 1": "\n".join([lines[1], lines[0], *lines[2:]]).encode(),
        "empty": b"",
    }.items():
        name = f"vocabulary-{about.replace(' ', '-').replace('[', '').replace(']', '')}"
        changed("pretraining", name, lambda c, text=content: (c / "vocab.txt").write_bytes(text))
        t.run(f"tf2pt {name} out-{name}")
    changed("pretraining", "no-vocabulary", lambda c: (c / "vocab.txt").unlink())
    t.run("tf2pt no-vocabulary out-no-vocabulary")
    t.run("tf2pt vocabulary-too-short out-padded --pad-vocab")
    t.run("tf2pt pretraining out --vocab nothing.txt")
    sentencepiece(t)


def sentencepiece(t: Transcript) -> None:
    model = Path("albert/30k-clean.model").read_bytes()
    for about, content in {
        "text": b"[PAD]\n[UNK]\n",
        "cut-off": model[:-100],
        "without-settings": model[: model.index(b"\x12", 1500)],
        "damaged": model[:1000] + b"\xff" * 9 + model[1009:],
        "bpe": model.replace(b"\x18\x01 \x80\x01", b"\x18\x02 \x80\x01"),
        "twice": model.replace(b"[SEP]", b"[CLS]"),
        "without-unk": model.replace(b"\x18\x02", b"\x18\x03", 1),
        "without-mask": model.replace(b"[MASK]", b"[WASK]"),
    }.items():
        name = f"pieces-{about}"
        changed("albert", name, lambda c, text=content: (c / "30k-clean.model").write_bytes(text))
        t.run(f"tf2pt {name} out-{name}")
    both = changed("albert", "pieces-and-words")
    shutil.copy("pretraining/vocab.txt", both)
    t.run("tf2pt pieces-and-words out-pieces-and-words")
    t.run("tf2pt pieces-and-words out-pieces-and-words --vocab pretraining/vocab.txt")


def labels(t: Transcript) -> None:
    t.part("Labels")
    t.run("tf2pt classifier out-labels --labels contradiction,entailment,neutral")
    t.run("verify classifier out-labels --level weights")
    t.run("tf2pt classifier out --labels yes,no")
    t.run("tf2pt classifier out --labels nothing.txt")
    t.run("tf2pt pretraining out --labels yes,no")
    t.run("tf2pt pretraining out --problem-type regression")
    nli = "contradiction\nentailment\nneutral\n"
    found = changed("classifier", "with-labels", lambda c: (c / "labels.txt").write_text(nli))
    t.run("tf2pt with-labels out-with-labels --problem-type multi_label_classification")
    t.file("out-with-labels/README.md")
    (found / "label2id.json").write_text('{"entailment": 0, "contradiction": 1, "neutral": 2}')
    t.run("tf2pt with-labels out")
    (found / "label2id.json").unlink()
    (found / "labels.txt").write_text("entailment\ncontradiction\nneutral\n")
    t.run("verify with-labels out-with-labels --level weights")
    (found / "labels.txt").write_text("yes\nno\n")
    t.run("tf2pt with-labels out")
    (found / "labels.txt").rename(found / "label2id.pkl")
    t.run("tf2pt with-labels out-pickle")
    t.run("tf2pt with-labels out --labels with-labels/label2id.pkl")


def plans(t: Transcript) -> None:
    t.part("Plans")
    t.run("tf2pt pretraining out --head token")
    t.run("tf2pt pretraining out --head tokens")
    t.run("tf2pt pretraining out --scope generator")
    t.run("tf2pt pretraining out --mapping nothing")
    t.run("tf2pt squad cased --no-lower-case --activation erf")
    checkpoint = bertconvert.open_checkpoint("classifier")
    shapes = {name: v.shape for name, v in checkpoint.variables.items()}

    def case(name: str, shapes: dict[str, tuple[int, ...]], about: str, options: str = "") -> None:
        Path(name).mkdir()
        arrays = {n: np.zeros(s, np.float32) for n, s in shapes.items()}
        write_bundle(Path(name, "bert_model.ckpt"), arrays)
        shutil.copy("classifier/bert_config.json", name)
        t.run(f"tf2pt {name} out-{name} {options}".rstrip(), about)

    words = "bert/embeddings/word_embeddings"
    query = "bert/encoder/layer_1/attention/self/query/kernel"
    case("unknown", shapes | {"bert/embeddings/extra": (3,)}, "a variable that no rule knows")
    case("missing", {n: s for n, s in shapes.items() if n != query}, "a variable is missing")
    case("shape", shapes | {query: (7, 9)}, "a variable of a wrong shape")
    case("half", {n: s for n, s in shapes.items() if n != "output_bias"}, "half a head")
    case("none", {"w": (2,), "b": (2,)}, "no mapping fits")
    case("no-words", {n: s for n, s in shapes.items() if n != words}, "no word embeddings")
    scopes = {f"{scope}/{n}": s for scope in ("student", "teacher") for n, s in shapes.items()}
    case("scopes", scopes, "two models")
    case("scopes2", scopes, "one of two models", "--scope student")
    encoder = {n: s for n, s in shapes.items() if not n.startswith("output_")}
    crf = {"crf_loss/transitions": (5, 5), "project/logits/W": (32, 5), "project/logits/b": (5,)}
    case("crf", encoder | crf, "a head of its own")
    case("crf2", encoder | crf, "the same without it", "--head none")
    case("crf3", encoder | crf, "the same by name", "--drop crf_loss/* --drop project/**/*")
    dense = {"dense_3/kernel": (32, 2), "dense_3/bias": (2,)}
    case("dense", encoder | dense, "a dense layer of Keras")
    case("dense2", encoder | dense, "the same as the classifier", "--head classifier")
    extra = shapes | {"bert/embeddings/extra": (7, 32)}
    case("extra", extra, "a part of the encoder is skipped", "--drop bert/embeddings/extra")
    t.run("verify extra out-extra --level weights")
    t.run("tf2pt classifier out --drop output_bias")
    case("slots2", shapes | {f"{n}/foo_m": s for n, s in shapes.items()}, "unknown slots")
    narrow = {n: (s[0], 8) if n == words else s for n, s in shapes.items()}
    case("factorized", narrow, "factorized embeddings")
    case("relatives", shapes | {"bert/embeddings/word_embeddings_2": (8, 32)}, "another model")
    case("slots", shapes | {f"{words}/adam_m": (1,)}, "a slot of an optimizer")


def mapping_files(t: Transcript) -> None:
    t.part("Mapping files")
    text = builtin_mappings()["bert"].read_text()
    for old, new in [
        ('model_type = "bert"', 'model_type = "bert"\nmodel = 1'),
        ('title      = "BERT"\n', "title = 5\n"),
        ('detect     = "bert/', 'detect     = "brt/'),
        ('op = "transpose"', 'op = "rotate"'),
        ('shape = ["V", "H"]', 'shape = ["Z", "H"]'),
        ('l = "0..L"', 'l = "L"'),
        ('tokenizer  = "wordpiece"', 'tokenizer = "bpe"'),
        ('reference  = "bert"', 'reference = "brt"'),
        ('include    = ["training"]', 'include = ["slots"]'),
        ('vocabulary = "V"', 'vocabulary = "W"'),
        ('pt = "bert.pooler.dense.bias"', 'pt = "bert.pooler.dense.weight"'),
        ('head     = "squad"', 'head     = "token"'),
        ('assume = "H/64"', 'assume = "H/0"'),
        ("[config]", "[config"),
    ]:
        assert old in text
        Path("rules.toml").write_text(text.replace(old, new))
        t.run("tf2pt pretraining out --mapping rules.toml", f"{new!r}")
    t.run("mappings nothing.toml")


def outputs(t: Transcript) -> None:
    t.part("Output folders")
    t.run("tf2pt pretraining model", "a folder that exists")
    t.run("tf2pt pretraining model --force")
    t.run("tf2pt pretraining pretraining --force")
    t.run("tf2pt pretraining pretraining/vocab.txt")
    t.run("tf2pt pretraining pretraining/vocab.txt/out")
    t.run("tf2pt pretraining .")
    t.run("tf2pt pretraining /proc/out")


def proofs(t: Transcript) -> None:
    t.part("Proofs")
    t.run("verify pretraining model --level weights")
    t.run("verify classifier token --level weights")
    t.run("verify pretraining nothing --level weights")
    t.run("verify pretraining empty --level weights")
    t.run("verify classifier model --level weights")
    layer = "bert.encoder.layer.{}.attention.self.{}.weight"
    one, other = layer.format(0, "query"), layer.format(0, "key")

    def case(about: str, change: Callable[[dict[str, Any]], Any], **config: Any) -> None:
        shutil.rmtree("wrong", ignore_errors=True)
        shutil.copytree("model", "wrong")
        tensors = load_file("wrong/model.safetensors")
        change(tensors)
        tensors = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
        save_file(tensors, "wrong/model.safetensors", {"format": "pt"})
        edit_json(Path("wrong/config.json"), **config)
        t.run("verify pretraining wrong --level weights", about)

    case("query and key exchanged", lambda x: x.update({one: x[other], other: x[one]}))
    case("not transposed", lambda x: x.update({one: x[one].T}))
    case("a tensor is missing", lambda x: x.pop(one))
    case("a tensor too many", lambda x: x.update(extra=x[one]))
    case("another shape", lambda x: x.update({one: x[one][:2]}))
    case("one number differs", lambda x: x[one].__setitem__((0, 0), 5))
    case("a number is NaN", lambda x: x[one].__setitem__((0, 0), np.nan))
    case("another epsilon", lambda _: None, layer_norm_eps=1e-5)
    case("another activation", lambda _: None, hidden_act="gelu")
    case("a decoder", lambda _: None, is_decoder=True)
    case("no epsilon", lambda _: None, layer_norm_eps=None)
    shutil.copytree("model", "cut-model")
    truncate(Path("cut-model/model.safetensors"), 0.5)
    t.run("verify pretraining cut-model --level weights")
    t.run("verify pretraining cut-model --level weights --format github")
    shutil.copytree("model", "other-vocabulary")
    Path("other-vocabulary/vocab.txt").write_text("[PAD]\n")
    t.run("verify pretraining other-vocabulary --level weights")
    t.run("verify pretraining other-vocabulary --level weights --format github")
    t.run("verify pretraining other-vocabulary --level weights --format github --json")
    changed("pretraining", "plain", lambda c: (c / "bert_config.json").unlink())
    t.run("tf2pt plain out-plain --num-heads 4 --activation erf --no-lower-case --quiet")
    t.run("verify plain out-plain --level weights", "what only the caller of the conversion knew")
    t.run("verify pretraining out-plain --level weights", "a config that contradicts it")
    edit_json(Path("out-plain/conversion.json"), mapping={"name": "own", "sha256": ""})
    t.run("verify plain out-plain --level weights", "another mapping")
    t.run("verify plain model --level weights --junit nowhere/verdict.xml")
    t.run("verify nowhere model --level weights --json")
    t.run("verify plain model --level weights --text plain/vocab.txt")
    t.run("verify encoder proved --level weights --save", "what was proved is saved")
    t.run("verify pretraining other-vocabulary --level weights --save")
    t.run("verify encoder s3://models/tiny --level weights --save")


def golden_records(t: Transcript) -> None:
    t.part("Golden records")
    Path("records").mkdir()
    shutil.copytree("model", "one-number")
    tensors = load_file("one-number/model.safetensors")
    tensors["bert.pooler.dense.bias"][3] = 5
    save_file(tensors, "one-number/model.safetensors", {"format": "pt"})
    t.run("record pretraining records/golden.safetensors --level weights")
    t.run("record pretraining records/golden.safetensors --level weights", "again")
    t.run("record pretraining model/config.json --level weights --force", "over another file")
    t.run("record pretraining model --level weights", "a folder")
    t.run("record pretraining nowhere/golden.safetensors --level weights")
    t.run("verify records/golden.safetensors model --level weights")
    t.run("verify records/golden.safetensors model --level outputs")
    t.run("verify records/golden.safetensors model --level weights --head mlm")
    t.run("verify records/golden.safetensors one-number --level weights", "a folder that differs")
    t.run("verify records/golden.safetensors token --level weights", "of another class")
    t.run("tf2pt pretraining model16 --dtype float16 --quiet")
    t.run("verify records/golden.safetensors model16 --level weights", "of another dtype")
    t.run("verify model/model.safetensors model --level weights", "no record")
    t.run("record squad records/squad.safetensors --level weights")
    t.run("verify records/squad.safetensors model --level weights", "the record of another model")

    def case(about: str, content: bytes) -> None:
        Path("records/other.safetensors").write_bytes(content)
        t.run("verify records/other.safetensors model --level weights", about)

    content = Path("records/golden.safetensors").read_bytes()
    case("cut off", content[: len(content) // 2])
    case("edited", content.replace(b"float32", b"float64", 1))
    newer = {"format": "bertconvert golden record", "version": "2"}
    case("of a newer format", written(newer, {}))
    facts, computed, arrays = parts(Path("records/golden.safetensors"))
    facts["planned"]["plan"]["config"]["layer_norm_eps"] = 1e-5
    case("edited, with a sha256 that fits", sealed(facts, computed, arrays))


def batches(t: Transcript) -> None:
    t.part("Batches")
    t.run("batch pretraining classifier cut-data models --jobs 1", "one of three fails")
    t.run("batch pretraining classifier models --jobs 1", "again")
    t.run("batch pretraining models --jobs 1 --head mlm", "with other options")
    t.file("models/README.md")
    t.run("batch empty models2")
    t.run("batch nothing models2")
    t.run("batch pretraining pretraining models2")
    t.run("batch models3")
    t.run("batch --family large models3")
    for text in ('[[models]]\nsource = "x"', '[[model]]\nname = "x"', "[[model]", "model = 5"):
        Path("list.toml").write_text(text)
        t.run("batch --list list.toml models3", repr(text))
    t.run("batch pretraining pretraining/vocab.txt", "a file as the output folder")


def audits(t: Transcript) -> None:
    t.part("Audits")
    shutil.copytree("model", "port")
    Path("port/conversion.json").unlink()
    edit_json(Path("port/config.json"), hidden_act="gelu")
    pairs = ("pretraining", "model"), ("pretraining", "port"), ("plain", "out-plain")
    pairs = (*pairs, ("pretraining", "nowhere"), ("pretraining", "token"))
    Path("list.toml").write_text(
        "".join(f'[[pair]]\nreference = "{one}"\nmodel = "{two}"\n' for one, two in pairs)
    )
    t.run("audit list.toml audited --level weights")
    t.run("audit list.toml audited --level weights", "again")
    t.run("audit list.toml audited --level weights --quiet --activation erf", "with an option")
    t.run("audit list.toml model --level weights", "a folder that is compared")
    Path("others").mkdir()
    Path("others/port.html").write_text("mine")
    t.run("audit list.toml others --level weights", "a folder with a file of a report's name")
    t.run("audit nowhere.toml audited2")
    t.run("audit pretraining audited2")
    pair = '[[pair]]\nreference = "a"\nmodel = "b"\n'
    for text in (
        "",
        "pair = []",
        "[[pairs]]",
        "[[pair]",
        '[[pair]]\nreference = "a"',
        f"{pair}dtype = 'float16'",
        f"{pair}num_heads = 0.5",
        f"{pair}name = '../b'",
        f"{pair}name = 'index'",
        pair + pair,
    ):
        Path("list.toml").write_text(text)
        t.run("audit list.toml audited2 --level weights", repr(text))


def the_way_back(t: Transcript) -> None:
    t.part("The way back")
    t.run("pt2tf model back")
    t.run("pt2tf token back-token --head token --prefix model.ckpt-7 --global-step 7 --json")
    t.run("pt2tf bare back-bare --verify weights")
    t.run("pt2tf model back", "a folder with files")
    t.run("pt2tf classifier back --force", "a checkpoint, not a model")
    t.run("tf2pt model out", "a model, not a checkpoint")
    t.run("pt2tf nowhere out-back")
    t.run("pt2tf model/config.json out-back")
    t.run("pt2tf model model/tf --force")
    t.run("pt2tf model s3://bucket/out")
    t.run("pt2tf model out-back --prefix a/b")
    t.run("pt2tf model out-back --global-step -1")
    t.run("pt2tf model out-back --dtype float16 --verify weights")
    t.run("pt2tf model out-back --head tokens")
    t.run("pt2tf model out-back --mapping nothing")
    words = "bert.embeddings.word_embeddings.weight"
    decoder = "cls.predictions.decoder.weight"
    dense = "bert.encoder.layer.1.output.dense.weight"

    def case(
        about: str,
        change: Callable[[dict[str, Any]], Any] = lambda _: None,
        options: str = "",
        folder: Callable[[Path], Any] = lambda _: None,
        **config: Any,
    ) -> None:
        for name in ("wrong", "out-back"):
            shutil.rmtree(name, ignore_errors=True)
        shutil.copytree("model", "wrong")
        tensors = load_file("wrong/model.safetensors")
        change(tensors)
        save_file(tensors, "wrong/model.safetensors", {"format": "pt"})
        edit_json(Path("wrong/config.json"), **config)
        folder(Path("wrong"))
        t.run(f"pt2tf wrong out-back{options}", about)
        assert Path("out-back").exists() != t.text.endswith("exit code 1\n"), about

    def old(tensors: dict[str, Any]) -> None:
        for name in [*tensors]:
            new = name.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta")
            tensors[new] = tensors.pop(name)
        tensors["bert.embeddings.position_ids"] = np.arange(64)[np.newaxis]
        tensors[decoder] = tensors[words]

    def index(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
        names = load_file(folder / "model-00001-of-00002.safetensors")
        shards = dict.fromkeys(names, "model-00001-of-00002.safetensors")
        shards |= {"bert.pooler.dense.bias": "model-00002-of-00002.safetensors"}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))

    case("names of an early version", old)
    case("GELU by erf", hidden_act="gelu")
    case("more than its class", architectures=["BertForMaskedLM"])
    case("no config", folder=lambda f: (f / "config.json").unlink())
    case("a config that is no JSON", folder=lambda f: (f / "config.json").write_text("{"))
    case("no weights", folder=lambda f: (f / "model.safetensors").unlink())
    case("weights that are cut off", folder=lambda f: truncate(f / "model.safetensors", 0.5))
    case("a shard is missing", folder=index)
    case("another shape", lambda x: x.update({dense: x[dense][:2].copy()}))
    case("a tensor is missing", lambda x: x.pop(dense))
    case("a tensor too many", lambda x: x.update({"bert.adapter.weight": x[dense]}))
    case("a decoder of its own", lambda x: x.update({decoder: x[words] + 1}))
    case("a decoder that is not there", tie_word_embeddings=False)
    case("whole numbers", lambda x: x.update({dense: x[dense].astype(np.int8)}))
    case("numbers that are too large", lambda x: x[dense].fill(1e6), " --dtype float16")
    case("quantized", quantization_config={"bits": 4})
    case("another epsilon", layer_norm_eps=1e-5)
    case("relative positions", position_embedding_type="relative_key")
    case("a decoder model", is_decoder=True)
    case("pruned heads", pruned_heads={"0": [1]})
    case("an activation that Google has not", hidden_act="silu")
    case("another kind of model", model_type="roberta")
    case("an unknown class", architectures=["BertLMHeadModel"])
    case("no class and no type", architectures=None, model_type=None)
    case("another width", hidden_size=64)
    case("another vocabulary", folder=lambda f: (f / "vocab.txt").write_text("[PAD]\n"))
    case("a vocabulary of another length", folder=lambda f: short_vocabulary(f))
    case("the same, allowed", options=" --pad-vocab", folder=lambda f: short_vocabulary(f))
    t.run("roundtrip pretraining")
    t.run("roundtrip h5-pretraining")
    t.run("roundtrip squad --json")
    t.run("roundtrip nowhere")


def short_vocabulary(folder: Path) -> None:
    """Leave a vocabulary of 125 of the 128 tokens."""
    (folder / "tokenizer.json").unlink()
    tokens = (folder / "vocab.txt").read_text().splitlines()
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens[:125]))
