"""`vestiary worker` as the benchmarks run it: with stubs for models, or bound to some cores.

python -m benchmarks.ingestion_worker --stubs [--burn-ms 50] [--cores 0]
"""

from __future__ import annotations

import argparse
import os

from services.bootstrap import Container
from services.ingestion.worker import run_worker
from services.settings import Settings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--stubs", action="store_true", help="in place of the shipped models")
    parser.add_argument("--burn-ms", type=float, default=0.0, help="that a stub takes for a photo")
    parser.add_argument("--cores", type=int, nargs="+", help="to run on; all if not given")
    arguments = parser.parse_args()
    if arguments.cores is not None:
        os.sched_setaffinity(0, arguments.cores)
    container = Container(Settings())
    if arguments.stubs:
        from benchmarks.stub_models import stub_pipeline

        vars(container)["pipeline"] = stub_pipeline(arguments.burn_ms / 1000)
    run_worker(container)
    container.close()


if __name__ == "__main__":
    main()
