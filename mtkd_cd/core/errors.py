"""The one exception for mistakes that the user can mend."""


class UserError(ValueError):
    """Bad input: a file, a config value or a command line that the user can put right.

    The message names the file or key, the value found, and what to do next. The tools print it
    alone, without a traceback; in Python code it is an ordinary ``ValueError``.
    """
