"""Files and folders on disk, in archives and at URLs; no checkpoint format is known here."""
