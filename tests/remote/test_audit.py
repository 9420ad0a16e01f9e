"""`bertconvert audit` of models and checkpoints at URLs."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from bertconvert.converter.audit import PairRow, audit, find_pairs

from ..helpers import split_weights
from .server import Server


def test_a_remote_pair_is_proved_again_only_if_a_file_changed(
    fixtures: Path, tmp_path: Path, web_of: Server, converted: Callable[[str], Path]
) -> None:
    shutil.copytree(fixtures / "pretraining", tmp_path / "checkpoint")
    model = shutil.copytree(converted("pretraining"), tmp_path / "model")
    split_weights(model)
    (tmp_path / "list.toml").write_text(
        f'[[pair]]\nreference = "{web_of.url}/checkpoint/"\nmodel = "{web_of.url}/model/?key=5"\n'
    )

    def proved() -> tuple[PairRow, bool]:
        known = []
        pairs = find_pairs(tmp_path / "list.toml")
        result = audit(
            pairs, tmp_path / "out", level="weights", watch=lambda e: known.append(e.is_unchanged)
        )
        return result.pairs[0], known[-1]

    row, known = proved()
    assert (row.name, row.verdict, row.reason, known) == ("model", "PASS", "", False)
    assert row.model == f"{web_of.url}/model/"
    assert not [p for p in (tmp_path / "out").iterdir() if "key=5" in p.read_text()]
    assert proved() == (row, True)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"num_attention_heads": 4}))
    row, known = proved()
    assert (row.verdict, known) == ("FAIL", False)
