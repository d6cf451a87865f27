"""`vestiary worker` with the models stubbed out at their boundary, for what is around them.

python -m benchmarks.stub_worker [--inference-ms 2]
"""

from __future__ import annotations

import argparse

from services.bootstrap import Container
from services.ingestion.worker import run_worker
from services.settings import Settings
from tests.fakes import fake_pipeline


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--inference-ms", type=float, default=0.0)
    arguments = parser.parse_args()
    container = Container(Settings())
    vars(container)["pipeline"] = fake_pipeline(delay_s=arguments.inference_ms / 1000)
    run_worker(container)
    container.close()


if __name__ == "__main__":
    main()
