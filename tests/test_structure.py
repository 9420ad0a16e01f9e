"""The project's structure: what each part may know, and what it may import.

What differs between model families is data (mappings/) or behind a door (converter/models/ and
converter/tokenizers/). Everything else works for every family and so names none of them.
"""

import ast
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted(
    path.relative_to(ROOT) for path in [*ROOT.glob("*.py"), *(ROOT / "converter").rglob("*.py")]
)

# Where a family's names may be: a forward pass and a tokenizer are of some family.
FAMILY_CODE = ("converter/models/", "converter/tokenizers/")

# Names of families to come, and names that no mapping file spells out.
OTHER_FAMILY_WORDS = {
    "albert",
    "bottleneck",
    "discriminator_predictions",
    "electra",
    "embeddings_project",
    "generator/",
    "generator_predictions",
    "layer_normalization",
    "mobilebert",
    "modeling.py",
    "roberta",
    "spiece.model",
}

# Parts of names that are also plain English, or the name of a library, a format or an option.
PLAIN_WORDS = {
    "attention",
    "auto",
    "bert",  # the project is called bertconvert
    "bias",
    "chunk",
    "classifier",
    "cls",  # a method's class
    "config.json",  # of every folder that transformers loads
    "decoder",
    "dense",
    "embeddings",
    "encoder",
    "group",
    "input",
    "intermediate",
    "key",
    "layer",
    "logits",
    "output",
    "predictions",
    "self",
    "squad",
    "task",
    "transform",
    "value",
    "weight",
}

# The model folder's files are called as transformers calls them, whatever family wrote the model.
# A word that means something else in one place: a path's start -> words.
ELSEWHERE = {
    "converter/layout.py": {"spiece.model", "vocab.txt"},
    "converter/storage/": {"query"},  # of a URL
    # A rule of transformers for all models.
    "converter/tensor_names.py": {"LayerNorm", "gamma", "beta"},
}

# The layers, lowest first. A module imports from its own layer and those below it.
LAYERS: list[tuple[str, ...]] = [
    ("errors", "choices", "layout", "tensor_names"),
    ("fold", "interrupts", "text", "transforms", "expressions"),
    ("options",),
    ("storage",),
    ("checkpoint",),
    ("mapping", "labels", "tokenizers", "models"),
    ("opening", "state_dict", "tensor_copy"),
    ("plan", "checks", "scope", "unknown", "other_models", "config_file"),
    ("companions", "backwards"),
    ("prepare",),
    ("releases", "safetensors_writer", "checkpoint_writer"),
    ("model_card",),
    ("convert", "convert_back"),
    ("roundtrip",),
    ("verify",),
    ("batch",),
    ("audit",),
    ("terminal",),
    ("cli", "__main__", "pytest_plugin"),
]


def mappings() -> Iterator[dict[str, Any]]:
    for path in (ROOT / "mappings").glob("*.toml"):
        yield tomllib.loads(path.read_text())


def family_words() -> set[str]:
    """The words that no file outside a family's code may contain.

    Variable names, tensor names, file names and classes as the mapping files have them, and those
    of their parts that mean nothing else.
    """
    words = set(OTHER_FAMILY_WORDS)
    for mapping in mappings():
        files = mapping.get("files", {})
        rules = [files.get("config", []), files.get("vocabulary", [])]
        words |= {rule["name"] for some in rules for rule in _list(some)}
        words |= set(files.get("prefixes", ()))
        words |= {architecture["class"] for architecture in mapping.get("architecture", ())}
        words |= set(mapping.get("spelling", {}))
        for group in mapping["group"]:
            for variable in group["variable"]:
                values = [v for loop in variable.get("for", {}).values() for v in loop]
                names = (n for key in ("tf", "pt") for n in _list(variable[key]))
                for name in names:
                    root, separator, _ = name.partition("/")
                    words |= {root + separator} if separator and "*" not in root else set()
                    parts = re.split(r"[/.]|\{\w+\}", name)
                    words |= {part.strip("_") for part in parts} | {v for v in values if len(v) > 1}
    return {word for word in words if word and "*" not in word} - PLAIN_WORDS


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def found(words: set[str], text: str) -> Iterator[tuple[int, str]]:
    """Lines of `text`, from 1, and the words in them."""
    # `word` is no part of a longer name, but `word_2`, `x/word` and `words/x` contain it.
    either = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
    pattern = re.compile(rf"(?<![A-Za-z0-9_])(?:{either})(?:(?<=/)|(?![A-Za-z]))")
    for number, line in enumerate(text.splitlines(), 1):
        for match in pattern.finditer(line):
            yield number, match[0]


@pytest.mark.parametrize("path", [p for p in FILES if not str(p).startswith(FAMILY_CODE)], ids=str)
def test_names_no_model_family(path: Path) -> None:
    words = family_words()
    for start, others in ELSEWHERE.items():
        words -= others if str(path).startswith(start) else set()
    hits = [f"{path}:{line}: {word}" for line, word in found(words, (ROOT / path).read_text())]
    assert not hits, "\n".join(hits)


def test_the_words_are_those_of_the_mappings() -> None:
    words = family_words()
    assert {
        "bert/", "cls/", "word_embeddings", "LayerNorm", "gamma", "kernel", "query",
        "output_weights", "bert_config.json", "bert_model.ckpt", "vocab.txt", "BertModel",
        "BertForPreTraining", "qa_outputs", "pooler",
    } <= words  # fmt: skip
    text = (
        "bert/encoder\nfrom bertconvert import x\nits `LayerNorm`s\nkernels\nlayer_normalization_3"
    )
    hits = list(found(words, text))
    assert hits == [(1, "bert/"), (3, "LayerNorm"), (5, "layer_normalization")]


def module_name(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(("bertconvert", *parts[: -1 if parts[-1] == "__init__" else None]))


MODULES = {module_name(path): path for path in FILES}


@cache
def imports(module: str) -> frozenset[str]:
    """The package's modules that a module imports anywhere, except for type checkers alone."""
    path = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    targets: set[str] = set()
    for node in _nodes(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            targets |= {alias.name for alias in node.names} & MODULES.keys()
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1]
            source = ".".join([*(base if node.level else []), *filter(None, [node.module])])
            if source in MODULES:
                submodules = {f"{source}.{alias.name}" for alias in node.names} & MODULES.keys()
                hands_on = {alias.name for alias in node.names} - {
                    name.rpartition(".")[2] for name in submodules
                }
                targets |= submodules | ({source} if hands_on else set())
    return frozenset(targets - {module})


def _nodes(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes below `node`, except those under `if TYPE_CHECKING:`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) in (
            "TYPE_CHECKING",
            "typing.TYPE_CHECKING",
        ):
            for other in child.orelse:
                yield other
                yield from _nodes(other)
            continue
        yield child
        yield from _nodes(child)


def find_cycle() -> list[str]:
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return []
        for target in sorted(imports(module)):
            if cycle := visit(target, [*path, module]):
                return cycle
        done.add(module)
        return []

    for module in sorted(MODULES):
        if cycle := visit(module, []):
            return cycle
    return []


def test_has_no_import_cycle() -> None:
    assert " -> ".join(find_cycle()) == ""


def test_sees_imports_inside_functions() -> None:
    assert "bertconvert.converter.convert" in imports("bertconvert.cli")
    assert len(MODULES) > 60
    assert sum(len(imports(module)) for module in MODULES) > 150


def layer_of(module: str) -> int | None:
    """The layer of a module, None for the two packages that only hold others."""
    parts = module.removeprefix("bertconvert").strip(".").removeprefix("converter").strip(".")
    first = parts.partition(".")[0]
    if not first:
        return None
    return next(number for number, names in enumerate(LAYERS) if first in names)


@pytest.mark.parametrize("module", sorted(MODULES.keys() - {"bertconvert"}))
def test_imports_only_from_layers_below(module: str) -> None:
    layer = layer_of(module)
    above = [t for t in imports(module) if (layer_of(t) or 0) > (layer or 0)]
    assert not above, f"{module} imports {', '.join(sorted(above))}"


@pytest.mark.parametrize(
    "path", [p for p in FILES if p.name == "__init__.py" and len(p.parts) > 1], ids=str
)
def test_init_files_only_hand_names_on(path: Path) -> None:
    body = ast.parse((ROOT / path).read_text()).body
    allowed = (ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign, ast.Expr, ast.If)
    assert not [ast.unparse(node) for node in body if not isinstance(node, allowed)]


def test_the_package_defines_nothing_but_its_lazy_names() -> None:
    body = ast.parse((ROOT / "__init__.py").read_text()).body
    defined = [n.name for n in body if isinstance(n, ast.FunctionDef | ast.ClassDef)]
    assert set(defined) <= {"__getattr__", "__dir__"}


def test_every_package_is_installed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = project["tool"]["setuptools"]["packages"]
    packages = {module_name(p) for p in FILES if p.name == "__init__.py"}
    packages |= {".".join(("bertconvert", *p.parent.parts)) for p in FILES}
    assert sorted(listed) == sorted(packages)
