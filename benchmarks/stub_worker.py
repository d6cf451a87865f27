"""`vestiary worker` with the models stubbed out at their boundary, for what is around them.

python -m benchmarks.stub_worker [--inference-ms 2] [--rest-s 5]
"""

from __future__ import annotations

import argparse
import os
import signal
from collections.abc import Sequence

from benchmarks.fault_shop import DEADLY_WIDTH
from services.bootstrap import Container
from services.ingestion import tasks
from services.ingestion.tasks import RetryPolicy
from services.ingestion.worker import run_worker
from services.settings import Settings
from tests.fakes import FakeDetector, fake_pipeline
from vision.garments import Detections
from vision.image import RgbImage


class MortalDetector(FakeDetector):
    """Some photos crash a model's native code, and the process with it."""

    def predict(self, batch: Sequence[RgbImage]) -> list[Detections]:
        if any(image.resolution_wh[0] == DEADLY_WIDTH for image in batch):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().predict(batch)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--inference-ms", type=float, default=0.0, help="of a batch's detection")
    parser.add_argument("--rest-s", type=float, help="between two tries, in place of ever longer")
    arguments = parser.parse_args()
    if arguments.rest_s is not None:
        tasks.RETRY = RetryPolicy(first_rest_s=arguments.rest_s, factor=1)
    container = Container(Settings())
    pipeline = fake_pipeline()
    pipeline.detector = MortalDetector("fake-detector", delay_s=arguments.inference_ms / 1000)
    vars(container)["pipeline"] = pipeline
    run_worker(container)
    container.close()


if __name__ == "__main__":
    main()
