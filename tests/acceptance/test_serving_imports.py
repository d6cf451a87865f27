"""A serving process never loads a training framework."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FRAMEWORKS = ("torch", "torchvision", "tensorflow", "keras", "timm", "detectron2", "jax")

ANALYSE_AND_LIST_MODULES = """
import sys
from services.api.app import create_app
from services.bootstrap import build_container
from services.settings import Settings
from vision.image import EncodedImage

container = build_container(Settings(database_url="postgresql://nowhere.invalid/none"))
create_app(container)
photo = EncodedImage(open("samples/grace_hopper.jpg", "rb").read())
report = container.pipeline.analyze(photo)
assert report.garments
print(*sorted({name.split(".")[0] for name in sys.modules}))
"""


def test_api_and_pipeline_import_no_training_framework():
    finished = subprocess.run(
        [sys.executable, "-c", ANALYSE_AND_LIST_MODULES],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    loaded = set(finished.stdout.split())
    assert "onnxruntime" in loaded
    assert not loaded & {*FRAMEWORKS, "training"}
