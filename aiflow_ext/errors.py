"""The exceptions aiflow_ext raises, and nothing else.

Bad arguments are ``ValueError`` or ``TypeError``; no answer in time is ``TimeoutError``.
"""

import errno


class Error(Exception):
    """Base of them all."""


class StoreError(Error):
    """The database of the log failed; the operation may be tried again.

    ``sqlstate`` is PostgreSQL's or MySQL's five letters for what went wrong, else "".
    """

    def __init__(self, text: str = "", sqlstate: str = "") -> None:
        super().__init__(text, sqlstate)
        self.sqlstate = sqlstate

    def __str__(self) -> str:
        return str(self.args[0])


class ConflictError(Error):
    """Somebody else holds it: another process serves this address, or another subscription took the cursor."""


class CorruptError(Error):
    """Stored bytes are not what we wrote, or another version's; trying again does not help."""


class RetentionError(Error):
    """Events that were asked for have been let go; the text says which, and where to begin again."""


class ReplacedError(Error):
    """The log is another one now, or an older copy of itself; the text says where it ends, and where to begin again."""


class AccessError(Error, PermissionError):
    """The broker's access file does not allow it to this key; or others may read a file with a secret."""


class DescriptorError(Error, OSError):
    """This process has too few file descriptors left; the text says how many are needed, and what to do."""

    errno = errno.EMFILE


class ProtocolError(Error):
    """A peer sent something that is not our protocol."""


class ClosedError(Error):
    """The object was closed."""


class ForkError(Error):
    """The object was opened in another process; open a new one in this one."""
