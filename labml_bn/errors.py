"""The errors that a person at the keyboard can cause."""


class UserError(Exception):
    """Something that the user can mend. Its message is one line: what is wrong, and what to do."""

    status = 1  # the exit status of a command that failed


class UsageError(UserError):
    """A command, a key or a value that was written wrong."""

    status = 2


class Terminated(KeyboardInterrupt):
    """The system wants the process to end (SIGTERM)."""
