"""The names of the files in a model folder."""

SAFETENSORS = "model.safetensors"
SAFETENSORS_INDEX = "model.safetensors.index.json"  # of weights that are split into several files
TORCH = "pytorch_model.bin"
TORCH_INDEX = "pytorch_model.bin.index.json"
CONFIG = "config.json"
PROVENANCE = "conversion.json"
CARD = "README.md"
VERIFICATION = "verification.json"  # what was proved, and with what
TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
SPECIAL_TOKENS = "special_tokens_map.json"
ADDED_TOKENS = "added_tokens.json"
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
        VERIFICATION,
        VOCABULARY,
    }
)
"""Every file that a conversion may write. Other files in a folder are the user's."""

TOKENIZER_FILES = (VOCABULARY, SENTENCEPIECE, TOKENIZER, TOKENIZER_CONFIG, ADDED_TOKENS)
"""The files from which a folder's vocabulary is read."""
