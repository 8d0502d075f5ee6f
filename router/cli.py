"""The command line: `python run.py`, `python -m router`, `llama-router`."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from router import __version__
from router.errors import ConfigError, DemoError

EXIT_OK, EXIT_FAILED, EXIT_BAD_CONFIG = 0, 1, 2

_DESCRIPTION = "One OpenAI-compatible endpoint in front of every GGUF model you own."
_EPILOG = """\
commands:
  serve         start the router (the default)
  check-config  read the configuration, say what is wrong with it, and stop
  models        show what is configured: where, how big, and whether it would fit

Without a configuration file a demo with small made-up models is served.
Settings come from the command line, the environment (.env is read), the file and the defaults, in this order.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0 fine, 1 failed, 2 bad configuration or bad arguments."""
    options = _parser().parse_args(arguments)
    try:
        return _COMMANDS[options.command](options)
    except ConfigError as error:
        print(f"Configuration refused. {error}", file=sys.stderr)
        return EXIT_BAD_CONFIG
    except DemoError as error:
        print(f"llama-router: {error}", file=sys.stderr)
        return EXIT_FAILED
    except OSError as error:
        print(f"llama-router: {error.strerror or error}", file=sys.stderr)
        return EXIT_FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="llama-router",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", nargs="?", choices=tuple(_COMMANDS), default="serve", help="what to do, see below")
    parser.add_argument("--config", type=Path, metavar="FILE", help="configuration file (default: ./config.json)")
    parser.add_argument("--host", metavar="ADDRESS", help="where to listen (default: api.host)")
    parser.add_argument("--port", type=int, metavar="N", help="where to listen (default: api.port)")
    parser.add_argument("--version", action="version", version=f"llama-router {__version__}")
    return parser


def _serve(options: argparse.Namespace) -> int:
    # Imported here, so that --help, --version and a bad configuration answer at once.
    from router import bootstrap  # noqa: PLC0415

    return bootstrap.serve(config=options.config, host=options.host, port=options.port)


def _check_config(options: argparse.Namespace) -> int:
    from router.config import load_settings  # noqa: PLC0415
    from router.demo import wants_demo  # noqa: PLC0415

    settings = load_settings(config_path=options.config, environ=os.environ, host=options.host, port=options.port)
    for note in settings.notes:
        print(f"note: {note}")
    for warning in settings.warnings:
        print(f"warning: {warning}")
    if wants_demo(options.config, os.environ, Path.cwd()):
        print("There is no config.json here, and no BASE_MODELS_PATH: `serve` would start the demo.")
    else:
        print(f"{settings.source or 'The environment'} is fine: {len(settings.models)} model(s).")
    return EXIT_OK


def _models(options: argparse.Namespace) -> int:
    from router import bootstrap  # noqa: PLC0415

    print(asyncio.run(bootstrap.describe_models(config=options.config, host=options.host, port=options.port)))
    return EXIT_OK


_COMMANDS = {"serve": _serve, "check-config": _check_config, "models": _models}
