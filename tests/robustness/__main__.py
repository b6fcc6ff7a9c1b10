"""The program: `python -m robustness [PART ...] [--only WORD ...]`."""

import argparse
import sys
import tempfile
import time
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser(prog="robustness", description=__doc__)
    parser.add_argument("parts", nargs="*")
    parser.add_argument("--only", nargs="+", default=[])
    parser.add_argument("--failures")
    parser.add_argument("--every", type=int, default=1)
    options = parser.parse_args()
    from . import corpus, runner

    began = time.monotonic()
    runner.import_package()
    cases = corpus.all_cases(tuple(options.only))[:: options.every]
    with tempfile.TemporaryDirectory(prefix="robustness-") as folder:
        done = []

        def show(outcome):
            done.append(outcome)
            if not outcome.is_good:
                print(f"{outcome.kind:10} {outcome.seconds:5.1f} {outcome.name}: {outcome.text[:200]!r}", flush=True)

        outcomes = runner.run_cases(cases, Path(folder), on_outcome=show)
    import collections

    table = collections.Counter((one.family, one.kind) for one in outcomes)
    for key, number in sorted(table.items()):
        print(*key, number)
    slow = sorted(outcomes, key=lambda one: -one.seconds)[:10]
    print("slowest", [(one.name, round(one.seconds)) for one in slow])
    print(len(outcomes), "cases", round(time.monotonic() - began), "s")
    if options.failures:
        bad = [one for one in outcomes if not one.is_good]
        Path(options.failures).write_text("".join(f"{one.kind}\t{one.name}\t{one.text}\t{one.command[:400]}\n" for one in bad), errors="replace")
    return 0


if __name__ == "__main__":
    sys.exit(main())
