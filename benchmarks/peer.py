"""The conversion as it was done before: transformers 4.57.6, the last 4.x, with TensorFlow.

    python benchmarks/peer.py CHECKPOINT_FOLDER OUT

Needs `transformers==4.57.6`, `torch` and `tensorflow`. Nothing is done that the conversion could
do without: the weights are not initialised at random before they are read.
"""

import os
import sys
from pathlib import Path

# Before TensorFlow is imported, which transformers does.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from transformers import BertConfig, BertForPreTraining, BertTokenizer
from transformers.modeling_utils import no_init_weights
from transformers.models.bert.modeling_bert import load_tf_weights_in_bert


def convert(checkpoint_folder: str | Path, out: str | Path) -> None:
    """Writes the float32 `BertForPreTraining` and its tokenizer into the folder `out`.

    `checkpoint_folder` holds `bert_config.json`, `vocab.txt` and `bert_model.ckpt.*`. A tensor
    that the checkpoint lacks is not reported and holds arbitrary values.
    """
    folder = Path(checkpoint_folder)
    config = BertConfig.from_json_file(str(folder / "bert_config.json"))
    with no_init_weights():
        model = BertForPreTraining(config)
    # Left out with the initialisation; without it the decoder would keep a matrix of its own.
    model.tie_weights()
    load_tf_weights_in_bert(model, config, str(folder / "bert_model.ckpt"))
    model.save_pretrained(out)
    BertTokenizer.from_pretrained(folder).save_pretrained(out)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: peer.py CHECKPOINT_FOLDER OUT")
    convert(sys.argv[1], sys.argv[2])
