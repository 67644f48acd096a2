"""The command ``tapegrad``: demo, info, warmup, cache and trace. Each part is imported when it is asked for."""

import argparse
import runpy
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tapegrad.version import __version__


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line ``arguments`` (those of the process, if None) and return the exit code."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        print(f"tapegrad {options.command}: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tapegrad", description="PyTorch's autograd on a flat tape, compiled by Numba."
    )
    parser.add_argument("--version", action="version", version=f"tapegrad {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_demo(commands.add_parser("demo", help="train a classifier of handwritten digits and draw what it does"))
    info = commands.add_parser(
        "info", help="print versions, the CPU's features, threads and the cache's place and size"
    )
    info.set_defaults(run=_info)
    warmup = commands.add_parser("warmup", help="compile ahead what training commonly needs")
    warmup.set_defaults(run=_warmup)
    cache = commands.add_parser("cache", help="show the cache of compiled functions, or clear it")
    cache.add_argument("action", nargs="?", choices=["show", "clear"], default="show")
    cache.set_defaults(run=_cache)
    trace = commands.add_parser("trace", help="run a script and write a trace of its captured programs' instructions")
    trace.add_argument("--out", type=Path, default=Path("trace.json"), metavar="FILE", help="default: trace.json")
    trace.add_argument("script", type=Path, help="the script")
    trace.add_argument("arguments", nargs=argparse.REMAINDER, help="its arguments")
    trace.set_defaults(run=_trace)
    return parser


def _add_demo(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--epochs", type=_whole_number(1), default=40, metavar="N", help="default: 40")
    parser.add_argument("--batch-size", type=_whole_number(1), default=64, metavar="N", help="default: 64")
    parser.add_argument(
        "--seed", type=_whole_number(0), default=0, metavar="N", help="same seed, same result; default: 0"
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="the run's folder; default: runs/demo-DATE-TIME")
    parser.set_defaults(run=_demo)


def _whole_number(least: int) -> Callable[[str], int]:
    def convert(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"expected a whole number of at least {least}, got {text!r}")
        return int(text)

    return convert


def _demo(options: argparse.Namespace) -> int:
    from tapegrad.datasets import MissingExtraError
    from tapegrad.demo.run import run_demo
    from tapegrad.demo.train import Settings

    try:
        return run_demo(Settings(options.epochs, options.batch_size, options.seed), options.out)
    except MissingExtraError as error:
        print(f"tapegrad demo: {error}", file=sys.stderr)
        return 1


def _info(options: argparse.Namespace) -> int:
    from tapegrad.info import lines

    print("\n".join(lines()))
    return 0


def _warmup(options: argparse.Namespace) -> int:
    from tapegrad.warmup import warm_up

    print(warm_up())
    return 0


def _cache(options: argparse.Namespace) -> int:
    from tapegrad.info import cache_line, megabytes
    from tapegrad.native.store import clear_cache

    if options.action == "clear":
        count, size = clear_cache()
        print(f"deleted {count} compiled functions, {megabytes(size)}")
    else:
        print(cache_line())
    return 0


def _trace(options: argparse.Namespace) -> int:
    from tapegrad.capture import tracing, write_trace

    events: list[dict[str, Any]] = []
    before = sys.argv[:], sys.path[:]
    sys.argv = [str(options.script), *options.arguments]
    sys.path.insert(0, str(options.script.resolve().parent))
    try:
        with tracing(events):
            runpy.run_path(str(options.script), run_name="__main__")
    finally:
        sys.argv, sys.path[:] = before
        write_trace(options.out, events)
        replays = sum(event["cat"] == "replay" for event in events)
        print(f"{options.out}: {replays} replays, {len(events) - replays} instructions: see ui.perfetto.dev")
    return 0
