"""The conversion as it was done before: transformers 4.57.6, the last 4.x, with TensorFlow.

    python benchmarks/peer.py CHECKPOINT_FOLDER OUT
    python benchmarks/peer.py CHECKPOINT_FOLDER CHECKPOINT_FOLDER... OUT

Several checkpoints become OUT/NAME each, in one process, which imports only once. Needs
`transformers==4.57.6`, `torch` and `tensorflow`. It takes the steps of transformers' own script,
convert_bert_original_tf_checkpoint_to_pytorch.py, and saves safetensors and the tokenizer.
"""

import os
import sys
from pathlib import Path

# Before TensorFlow is imported, which transformers does.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from transformers import BertConfig, BertForPreTraining, BertTokenizer
from transformers.models.bert.modeling_bert import load_tf_weights_in_bert


def convert(checkpoint_folder: str | Path, out: str | Path) -> None:
    """Writes the float32 `BertForPreTraining` and its tokenizer into the folder `out`.

    `checkpoint_folder` holds `bert_config.json`, `vocab.txt` and `bert_model.ckpt.*`. A tensor
    that the checkpoint lacks is not reported and stays random.
    """
    folder = Path(checkpoint_folder)
    config = BertConfig.from_json_file(str(folder / "bert_config.json"))
    model = BertForPreTraining(config)
    load_tf_weights_in_bert(model, config, str(folder / "bert_model.ckpt"))
    model.save_pretrained(out)
    BertTokenizer.from_pretrained(folder).save_pretrained(out)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit("usage: peer.py CHECKPOINT_FOLDER... OUT")
    *checkpoints, out = sys.argv[1:]
    if len(checkpoints) == 1:
        convert(checkpoints[0], out)
    else:
        for checkpoint in checkpoints:
            convert(checkpoint, Path(out, Path(checkpoint).name))
