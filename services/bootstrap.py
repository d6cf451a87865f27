"""The only wiring: settings in, a container with everything that runs out.

The store is imported when it is first asked for: looking at one photo from the command line needs
no database, and would wait for SQLAlchemy longer than for the models.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from classification.predictor import AttributeClassifier
from detection.serving import open_detector
from services.pipeline.fetch import Fetcher, FetchPolicy
from services.pipeline.run import Pipeline
from services.settings import Settings
from style_maskrcnn.predictor import StyleModel
from style_maskrcnn.upper_body.predictor import AttributedStyleModel, UpperBodyModel
from vision.bundle import Bundle, Task, open_bundle, resolve, resolve_optional
from vision.errors import ErrorCode, PermanentError
from vision.garments import StyleInstances
from vision.image import RgbImage
from vision.predictor import Predictor
from vision.taxonomy import load_taxonomy

# A garment is named by its article type. Colours, gender and the rest may be missing.
NEEDED_ATTRIBUTES = ("article_type",)
EMBEDDING_LENGTH = 256
"""What the store's column holds, named here so that a first photo needs no store."""

if TYPE_CHECKING:
    from services.pipeline.record import Recorder
    from services.store.analyses import AnalysisStore
    from services.store.embedded import EmbeddedPostgres
    from services.store.session import Database


@dataclass(frozen=True)
class Container:
    """What a process of the service is made of. Each part is built when it is first asked for.

    `close` lets go of models, connections and the embedded server.
    """

    settings: Settings

    @cached_property
    def fetcher(self) -> Fetcher:
        return Fetcher(FetchPolicy.from_settings(self.settings))

    @cached_property
    def pipeline(self) -> Pipeline:
        return build_pipeline(self.settings)

    @cached_property
    def embedded(self) -> EmbeddedPostgres | None:
        """The embedded server, running; None when the settings name a database."""
        from services.store.embedded import EmbeddedPostgres

        if self.settings.database_url is not None:
            return None
        return EmbeddedPostgres(self.settings.data_dir)

    @cached_property
    def database(self) -> Database:
        """The embedded database at its newest schema, which nobody else would bring it to; or the
        one the settings name as it is: `vestiary db upgrade` is its operator's decision.
        """
        from services.store.session import Database

        if self.settings.database_url is not None:
            return Database(self.settings.database_url, self.settings.database_pool_size)
        assert self.embedded is not None
        database = Database(
            self.embedded.url, self.settings.database_pool_size, self.embedded.ensure_running
        )
        database.upgrade()
        return database

    @cached_property
    def analyses(self) -> AnalysisStore:
        from services.store.analyses import AnalysisStore

        return AnalysisStore(self.database)

    @cached_property
    def recorder(self) -> Recorder:
        from services.pipeline.record import Recorder

        return Recorder(self.pipeline, self.analyses)

    def close(self) -> None:
        built = self.__dict__
        if "pipeline" in built:
            self.pipeline.close()
        if "database" in built:
            self.database.close()
        if built.get("embedded") is not None:
            built["embedded"].stop()


def build_container(settings: Settings) -> Container:
    """The container of this process. Nothing is started yet."""
    return Container(settings)


def build_pipeline(settings: Settings) -> Pipeline:
    """The models the settings name, checked but not loaded.

    A classifier that answers only some of the attributes is welcome; reports then have no others.

    Raises `PermanentError`: `bundle_invalid` naming the file or bundle that is wrong,
    `model_unavailable` when a bundle needs Detectron2 and it is not installed.
    """

    def bundle(name: str, task: Task) -> Bundle:
        return open_bundle(resolve(name, task, settings.weights_dir), task)

    threads = settings.inference_threads
    classifier = AttributeClassifier(bundle(settings.classifier, "classification"), threads)
    _check_serves(classifier)
    style_model = StyleModel(bundle(settings.style_model, "style"), threads)
    return Pipeline(
        detector=open_detector(bundle(settings.detector, "detection"), threads),
        classifier=classifier,
        style_model=_with_attributes(style_model, settings),
        taxonomy=load_taxonomy(),
        max_pixels=settings.image_max_pixels,
    )


def _with_attributes(
    style_model: StyleModel, settings: Settings
) -> Predictor[RgbImage, StyleInstances]:
    folder = resolve_optional(settings.style_attributes, "style_attributes", settings.weights_dir)
    if folder is None:
        return style_model
    bundle = open_bundle(folder, "style_attributes")
    return AttributedStyleModel(style_model, UpperBodyModel(bundle, settings.inference_threads))


def _check_serves(classifier: AttributeClassifier) -> None:
    missing = [head for head in NEEDED_ATTRIBUTES if head not in classifier.heads]
    if classifier.embedding_size != EMBEDDING_LENGTH:
        missing.append(
            f"an embedding of {EMBEDDING_LENGTH} numbers (it has {classifier.embedding_size})"
        )
    if missing:
        raise PermanentError(
            ErrorCode.BUNDLE_INVALID,
            f"{classifier.name!r} cannot classify garments here: it lacks {' and '.join(missing)}; "
            f"it answers {', '.join(classifier.heads)}",
        )
