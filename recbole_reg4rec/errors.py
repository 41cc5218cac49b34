"""The one exception that means: the user can mend this, so tell them how, without a traceback."""

from __future__ import annotations


class UserError(Exception):
    """A mistake in the user's input, data, settings or environment.

    The message is one clear sentence: it names the file, field or setting, says what was found, what is allowed
    and what to do. The command line prints it and ends with exit code 2.
    """
