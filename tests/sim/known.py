"""Findings that are known and not mended yet: the search goes on past them, and the end of each run tells of them.

A name is that of a check; ``--without-known NAME`` stops at it again.
"""

KNOWN: dict[str, str] = {}
