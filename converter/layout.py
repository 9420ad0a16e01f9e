"""The names of the files in a model folder."""

SAFETENSORS = "model.safetensors"
TORCH = "pytorch_model.bin"
CONFIG = "config.json"
PROVENANCE = "conversion.json"
CARD = "README.md"
TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
SPECIAL_TOKENS = "special_tokens_map.json"
VOCABULARY = "vocab.txt"
SENTENCEPIECE = "spiece.model"

WEIGHTS = {"safetensors": SAFETENSORS, "bin": TORCH}
"""The weights file of each format."""

MODEL_FILES = frozenset(
    {
        CARD,
        CONFIG,
        PROVENANCE,
        SAFETENSORS,
        SENTENCEPIECE,
        SPECIAL_TOKENS,
        TOKENIZER,
        TOKENIZER_CONFIG,
        TORCH,
        VOCABULARY,
    }
)
"""Every file that a conversion may write. Other files in a folder are the user's."""
