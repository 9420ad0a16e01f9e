"""Bytes, wherever they are: on a disk, in an archive, at a URL. Knows no checkpoint."""
