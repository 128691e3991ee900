"""Entry point of `vmoe-export`: every error becomes one sentence and an exit code."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence

from vmoe_export.interruption import end_at_signals

USAGE_ERROR, FAILURE, INTERRUPTED = 2, 1, 130

_NO_MEMORY = "there is not enough memory for this model at this image size and routing group"


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command and exits: 0 when it is done, 2 for wrong usage, 1 for everything else that went wrong."""
    restore = end_at_signals("vmoe-export")
    code = _run(list(sys.argv[1:] if arguments is None else arguments))
    if arguments is not None:  # called, and the caller's process goes on
        restore()
    sys.exit(code)


def _run(arguments: list[str]) -> int:  # noqa: PLR0911  (one for each kind of error)
    try:
        import click

        from vmoe_export.arguments import export_command
        from vmoe_export.errors import OptionError
        from vmoe_runtime.errors import RoutingError, VmoeError
        from vmoe_tools.command_line import check_standard_files
    except ImportError as error:
        return _fail(_what_is_missing(error), FAILURE)
    verbose = "-v" in arguments or "--verbose" in arguments
    try:
        check_standard_files()
        export_command.main(arguments, prog_name="vmoe-export", standalone_mode=False)
        # Flushed here and not at exit, where a reader that has gone would cost a traceback.
        sys.stdout.flush()
    except (KeyboardInterrupt, click.Abort):  # before RuntimeError, which click's Abort is
        return _fail("interrupted", INTERRUPTED)
    except click.UsageError as error:
        return _fail(f"{error.format_message()} (see vmoe-export --help)", USAGE_ERROR)
    except (OptionError, RoutingError) as error:
        return _fail(str(error), USAGE_ERROR)
    except VmoeError as error:
        return _fail(str(error), FAILURE, verbose)
    except ImportError as error:
        return _fail(_what_is_missing(error), FAILURE, verbose)
    except OSError as error:
        return _fail(f"{error.filename or 'standard output'}: {error.strerror or error}", FAILURE, verbose)
    except MemoryError:
        return _fail(_NO_MEMORY, FAILURE, verbose)
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):  # torch has no class of its own for this
            raise
        return _fail(_NO_MEMORY, FAILURE, verbose)
    return 0


def _what_is_missing(error: ImportError) -> str:
    if isinstance(error, ModuleNotFoundError):
        return f"{error.name} is not installed; pip install 'vmoe-export[export]'"
    return f"a package can't be loaded ({error}); pip install --force-reinstall 'vmoe-export[export]'"


def _fail(sentence: str, code: int, verbose: bool = False) -> int:
    if verbose:
        traceback.print_exc()
    # Only here, where Ctrl-C is seen to: it takes a while.
    from vmoe_tools.command_line import complain

    complain("vmoe-export", sentence)
    return code
