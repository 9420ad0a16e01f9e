"""The doors that stay shut: which module may import which, and where a family's names may stand."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CONVERTER = ROOT / "converter"
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for path in [*ROOT.glob("*.py"), *CONVERTER.rglob("*.py")]
}
# Where a family's names are at home.
HOMES = ("converter.models.", "converter.tokenizers.")
# Names of families, besides those that the mapping files have.
FAMILIES = ("albert", "electra", "mobilebert", "roberta", "BertModel", "BertFor")
# Words that a mapping file has and that mean something everywhere.
COMMON = {"classifier", "config.json", "transpose", "identity", "vocab.txt", "bert"}
# From what is below to what is above; a module imports its own layer and those below.
LAYERS = [
    ("errors", "choices", "text", "layout", "fold", "transforms"),
    ("options",),
    ("storage",),
    ("checkpoint",),
    ("mapping",),
    ("plan",),
    ("tokenizers",),
    ("prepare",),
    ("safetensors_writer", "releases", "model_card"),
    ("convert",),
    ("models",),
    ("verify",),
    ("batch",),
    ("terminal",),
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def imports(module: str) -> Iterator[str]:
    """The modules of the package that a module imports, also inside functions."""
    tree = ast.parse(MODULES[module].read_text())
    typed = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.dump(block.test)
        for node in ast.walk(block)
    }
    package = module.split(".")
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        if id(node) in typed:
            continue
        base = package[: len(package) - node.level]
        target = [*base, *(node.module or "").split(".")] if node.module else base
        for alias in node.names:
            for name in (".".join([*target, alias.name]), ".".join(target)):
                if name in MODULES:
                    yield name
                    break
            else:
                face = ".".join([*target, "__init__"])
                if face in MODULES:
                    yield face


GRAPH = {module: set(imports(module)) - {module} for module in MODULES}


def test_no_import_cycle() -> None:
    def visit(module: str, path: list[str], done: set[str]) -> None:
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module in done:
            return
        for other in sorted(GRAPH[module]):
            visit(other, [*path, module], done)
        done.add(module)

    sys.setrecursionlimit(10_000)
    done: set[str] = set()
    for module in sorted(GRAPH):
        visit(module, [], done)


def test_knows_every_module() -> None:
    tops = {name.split(".")[1] for name in MODULES if name.startswith("converter.")}
    assert tops == set(LEVEL)
    assert len(GRAPH) > 60 and sum(map(len, GRAPH.values())) > 150


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("converter.")])
def test_imports_nothing_above_itself(module: str) -> None:
    level = LEVEL[module.split(".")[1]]
    above = {
        other
        for other in GRAPH[module]
        if other.startswith("converter.") and LEVEL[other.split(".")[1]] > level
    }
    assert above == set()


def words_of_families() -> set[str]:
    """Names that only a family has: variables, tensors, files and classes of the mapping files."""
    found: set[str] = set(FAMILIES)
    for path in (ROOT / "mappings").glob("*.toml"):
        mapping = tomllib.loads(path.read_text())
        for group in mapping["group"]:
            for rule in group["variable"]:
                names = [rule["tf"]] if isinstance(rule["tf"], str) else rule["tf"]
                for name in [*names, rule["pt"]]:
                    found |= {
                        part
                        for part in re.split(r"[/.]", name)
                        if ("_" in part and "{" not in part) or part == "LayerNorm"
                    }
        found |= {architecture["class"] for architecture in mapping["architecture"]}
        files = mapping.get("files", {})
        found |= {files[kind]["name"] for kind in ("config", "vocabulary") if kind in files}
        found |= set(files.get("prefixes", []))
    return found - COMMON


@pytest.mark.parametrize(
    "module",
    [name for name in MODULES if not name.startswith(HOMES) and name != "converter.layout"],
)
def test_knows_no_family(module: str) -> None:
    text = MODULES[module].read_text()
    words = {
        word
        for word in words_of_families()
        if re.search(rf"(?<![A-Za-z_]){re.escape(word)}(?![a-z])", text)
    }
    words |= set(re.findall(r"\b(?:bert|cls)/\w*", text))
    assert words == set()


def test_the_words_of_families_are_those_of_the_mapping_files() -> None:
    words = words_of_families()
    assert {"word_embeddings", "LayerNorm", "bert_config.json", "bert_model.ckpt"} <= words
    assert {"output_weights", "BertModel", "token_type_embeddings"} <= words


@pytest.mark.parametrize("face", [name for name in MODULES if name.endswith(".__init__")])
def test_a_package_only_hands_names_on(face: str) -> None:
    tree = ast.parse(MODULES[face].read_text())
    kinds = {type(node) for node in tree.body}
    assert kinds <= {ast.Expr, ast.ImportFrom, ast.Assign}, kinds


def test_every_package_is_in_the_wheel() -> None:
    listed = set(
        tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    )
    found = {
        "bertconvert." + ".".join(path.parent.relative_to(ROOT).parts)
        for path in CONVERTER.rglob("*.py")
    }
    assert listed == found | {"bertconvert"}
