"""Vocabulary files -> tokenizer files: one module for each kind of tokenizer."""
