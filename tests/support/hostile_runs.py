"""The report and the command line that all programs of `make hostile` use."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn


@dataclass
class Report:
    """Counts of how cases ended, and one line for each failure."""

    endings: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


def run_program(run: Callable[..., Report], *paths: str, **options: Any) -> NoReturn:
    """Parse the command line, call `run` with its arguments, and exit.

    `paths` are the names of the positional arguments. `options` contains the default of each option, which also determines
    the option's type. The program prints one line for each failure and a summary as JSON. If there was a failure, the exit
    code is 1.
    """
    parser = argparse.ArgumentParser()
    for name in paths:
        parser.add_argument(name)
    for name, default in options.items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    report = run(**vars(parser.parse_args()))
    print(*report.failures, sep="\n", end="\n" if report.failures else "")
    print(json.dumps({"endings": report.endings, "failures": len(report.failures)}, sort_keys=True))
    sys.exit(1 if report.failures else 0)
