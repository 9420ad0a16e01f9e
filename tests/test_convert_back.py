"""pt2tf and roundtrip: a model folder becomes a checkpoint, and a checkpoint comes back."""

from collections.abc import Callable
from pathlib import Path

import pytest

from bertconvert import OutputError, convert_back, open_checkpoint, roundtrip
from bertconvert.converter.verify import back_prover

IN_ONE_PIECE = [
    "albert", "albert-classifier", "albert-relu", "albert-squad", "classifier", "encoder",
    "mobilebert", "mobilebert-pooler", "mobilebert-wide", "pretraining", "squad",
]  # fmt: skip
WITH_OTHERS = {
    "electra": {}, "electra-tagging": {}, "electra-wide": {}, "h5-classifier": {},
    "h5-pretraining": {}, "keras-names": {}, "pretraining-adam": {}, "tf2-classifier": {},
    "tf2-classifier-pooler": {}, "tf2-encoder": {}, "tf2-encoder-v2": {}, "tf2-hub": {},
    "tf2-pretraining": {}, "tf2-span": {"head": "squad"}, "tf2-token": {"head": "token"},
}  # fmt: skip


class TestARoundTrip:
    @pytest.mark.parametrize("name", IN_ONE_PIECE)
    def test_gives_the_files_of_the_checkpoint(self, name: str, fixtures: Path) -> None:
        result = roundtrip(fixtures / name)
        assert (result.same, result.identical) == (True, True)
        assert result.differences == []
        assert result.variables == len(open_checkpoint(fixtures / name))

    @pytest.mark.parametrize("name", WITH_OTHERS)
    def test_gives_back_every_variable_that_is_mapped(self, name: str, fixtures: Path) -> None:
        result = roundtrip(fixtures / name, **WITH_OTHERS[name])
        assert (result.same, result.identical) == (True, False)
        assert result.dropped or result.renamed
        left = sum(result.dropped.values())
        assert result.variables + left == len(open_checkpoint(fixtures / name))


class TestTheFolder:
    def test_has_what_programs_of_google_look_for(
        self, converted: Callable[[str], Path], fixtures: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        convert_back(converted("pretraining"), out)
        files = ["bert_config.json", "bert_model.ckpt.data-00000-of-00001", "bert_model.ckpt.index"]
        assert sorted(file.name for file in out.iterdir()) == [*files, "checkpoint", "vocab.txt"]
        for name in (*files[1:], "vocab.txt"):
            assert (out / name).read_bytes() == (fixtures / "pretraining" / name).read_bytes()

    @pytest.mark.parametrize("name", ["electra", "keras-names", "pretraining"])
    def test_is_proved_though_the_model_was_made_from_another_checkpoint(
        self, name: str, converted: Callable[[str], Path], tmp_path: Path
    ) -> None:
        model, out = converted(name), tmp_path / "out"
        assert (model / "conversion.json").exists()
        result = convert_back(model, out, global_step=1, prove=back_prover(model, "weights"))
        assert result.proof
        assert (out / "checkpoint").exists()

    def test_is_not_the_model_s(self, converted: Callable[[str], Path], tmp_path: Path) -> None:
        with pytest.raises(OutputError, match="is the model folder"):
            convert_back(converted("encoder"), converted("encoder"), force=True)
