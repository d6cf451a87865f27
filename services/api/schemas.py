"""What comes in and goes out, as Pydantic models: validation and documentation in one place."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    create_model,
    model_validator,
)

from vision.garments import ATTRIBUTES
from vision.taxonomy import load_taxonomy

Stage = Literal["detect", "classify", "style"]

# Postgres stores no NUL, and no other control character is of use in a name.
Text = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[^\x00-\x1f\x7f]+$")]
Url = Annotated[str, Field(min_length=1, max_length=8192, pattern=r"^[^\x00-\x1f\x7f]+$")]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Base64 = Annotated[str, Field(min_length=1, json_schema_extra={"contentEncoding": "base64"})]
Cursor = Annotated[str, Field(min_length=1, max_length=512)]
Score = Annotated[float, Field(ge=0, le=1)]
Confidence = Annotated[float, Field(ge=0, le=1, description="Calibrated probability, 0 to 1.")]


class Model(BaseModel):
    """Unknown fields are errors, and a JSON type is never taken for another."""

    model_config = ConfigDict(extra="forbid", strict=True)


def _context_model() -> type[BaseModel]:
    taxonomy = load_taxonomy()
    fields: dict[str, Any] = {
        name: (
            # A label not in this list is one that no model can be asked about.
            Literal[taxonomy.labels_of(name)] | None,
            Field(default=None, description=f"Known {name.replace('_', ' ')}."),
        )
        for name in ATTRIBUTES
    }
    return create_model("Context", __base__=Model, **fields)


Context = _context_model()


def _unique(values: list[Stage]) -> list[Stage]:
    if len(set(values)) < len(values):
        raise ValueError("must not repeat a stage")
    return values


def _in_utc(moment: datetime) -> datetime:
    # Postgres refuses offsets of sixteen hours and more, which RFC 3339 has.
    try:
        return moment.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("is out of range") from error


Moment = Annotated[AwareDatetime, AfterValidator(_in_utc)]
Stages = Annotated[
    list[Stage],
    Field(min_length=1, max_length=3, json_schema_extra={"uniqueItems": True}),
    AfterValidator(_unique),
]


class AnalysisChoices(Model):
    """What may be chosen for an analysis, however the image comes."""

    external_id: Text | None = Field(
        None, description="Your id for the image or product; analyses can be listed by it."
    )
    stages: Stages = Field(
        ["detect", "classify", "style"], description="Which models run; all three by default."
    )
    min_score: Score | None = Field(
        None,
        description="Leave out detections below this score instead of the model's own threshold.",
    )
    context: Context | None = Field(  # type: ignore[valid-type]  # Made from the taxonomy.
        None, description="What you know already; the other answers are conditioned on it."
    )

    @property
    def known(self) -> dict[str, str]:
        """The context as attribute → label."""
        context: BaseModel | None = self.context
        return {} if context is None else context.model_dump(exclude_none=True)


class AnalysisRequest(AnalysisChoices):
    """An image by URL or as base64: exactly one of the two."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [{"required": ["image_url"]}, {"required": ["image_base64"]}],
            "example": {
                "image_url": "https://shop.example/photos/1163.jpg",
                "external_id": "sku-1163",
                "context": {"gender": "Women"},
            },
        }
    )

    image_url: Url | None = Field(
        None, description="http or https URL of a JPEG, PNG, WEBP or GIF, fetched by this service."
    )
    image_base64: Base64 | None = Field(
        None, description="The image file in base64, with or without a `data:` prefix."
    )

    @model_validator(mode="after")
    def _one_image(self) -> AnalysisRequest:
        if (self.image_url is None) == (self.image_base64 is None):
            raise ValueError("give exactly one of image_url and image_base64")
        return self


class AnalysisUpload(AnalysisChoices):
    """An image as a file of a form (multipart/form-data), with the same choices as form fields.

    `stages` may be repeated; `context` is a JSON object.
    """


class Alternative(BaseModel):
    label: str = Field(description="A label that might be right.")
    confidence: Confidence


class Prediction(BaseModel):
    """One answer, with its runners-up."""

    label: str = Field(
        description="The answer; `unknown` where the model is not sure enough.",
        examples=["Shirts"],
    )
    confidence: Confidence
    alternatives: list[Alternative] = Field(description="Best first, up to three.")


class Mask(BaseModel):
    """COCO run-length encoding of the garment's pixels in the upright photo."""

    size: list[int] = Field(min_length=2, max_length=2, description="[height, width]")
    counts: str = Field(description="COCO's compressed runs, column by column.")


class Colour(BaseModel):
    name: str = Field(description="Name in the palette.", examples=["navy"])
    hex: str = Field(pattern="^#[0-9a-f]{6}$", description="sRGB.", examples=["#1f2a44"])
    share: Score = Field(description="Share of the garment's pixels.")


class Style(BaseModel):
    """What the style model says of the garment."""

    label: str = Field(description="Its fine-grained name.", examples=["blouse"])
    score: Score
    attributes: dict[str, Prediction] = Field(description="Style attribute → answer.")


DeepFashion2Name = Literal[
    "short_sleeve_top",
    "long_sleeve_top",
    "short_sleeve_outwear",
    "long_sleeve_outwear",
    "vest",
    "sling",
    "shorts",
    "trousers",
    "skirt",
    "short_sleeve_dress",
    "long_sleeve_dress",
    "vest_dress",
    "sling_dress",
]


class Garment(BaseModel):
    id: uuid.UUID
    source: Literal["detection", "style", "whole_image"] = Field(
        description="Which stage found it; `whole_image` when nothing was found and the photo was "
        "taken for a close-up."
    )
    category: str | None = Field(
        description="Garment class; null when the photo was classified whole.", examples=["top"]
    )
    deepfashion2: DeepFashion2Name | None = Field(
        description="DeepFashion2's name, from category and sleeves; null where it has none or the "
        "sleeves are unknown.",
        examples=["short_sleeve_top"],
    )
    score: Score | None = Field(
        description="Of the detection, or of the style instance where only that model saw it."
    )
    box: list[float] = Field(
        min_length=4,
        max_length=4,
        description="[x1, y1, x2, y2] in pixels of the upright photo.",
        examples=[[12.0, 30.5, 410.0, 380.0]],
    )
    mask: Mask | None = Field(
        description="Of the style model. A garment alone in its photo that it did not see is cut "
        "out of the background; its `style` is null."
    )
    attributes: dict[str, Prediction] = Field(
        description=f"Attribute → answer: {', '.join(ATTRIBUTES)}. Empty when not classified."
    )
    colours: list[Colour] = Field(
        description="Dominant colours and their shares of the garment. First stands what it would "
        "be called: by the share, and by the classifier's base colour."
    )
    style: Style | None


class Source(BaseModel):
    """Where the image was seen."""

    external_id: str | None
    url: str | None


class Image(BaseModel):
    sha256: Sha256 = Field(description="Digest of the file's bytes.")
    width: int = Field(ge=1, description="Pixels of the upright photo.")
    height: int = Field(ge=1, description="Pixels of the upright photo.")
    format: Literal["jpeg", "png", "webp", "gif"]
    bytes: int = Field(ge=1, description="Size of the file.")
    sources: list[Source] = Field(description="Every place the image was seen, oldest first.")


class ModelVersion(BaseModel):
    name: str = Field(description="Name of the model bundle.")
    version: str = Field(description="Digest of weights, labels and thresholds.")


class Options(BaseModel):
    """The choices the analysis was made with."""

    stages: list[Stage]
    min_score: float | None
    context: dict[str, str]


class Analysis(BaseModel):
    """The combined report of one photo."""

    id: uuid.UUID
    created_at: AwareDatetime
    image: Image
    classified_whole: bool = Field(
        description="Nothing was detected, so the whole photo was classified as one garment."
    )
    garments: list[Garment]
    models: dict[str, ModelVersion] = Field(description="Stage → model that took part.")
    options: Options
    timings_ms: dict[str, float] = Field(description="Stage → wall time in milliseconds.")


class AnalysisPage(BaseModel):
    """Newest first."""

    items: list[Analysis]
    next_cursor: str | None = Field(description="Pass as `cursor` for more; null on the last page.")


class AnalysisFilters(BaseModel):
    """Garment filters must all hold on one and the same garment."""

    model_config = ConfigDict(extra="forbid")

    external_id: Text | None = Field(None, description="Your id for the image.")
    image_sha256: Sha256 | None = Field(None, description="Digest of the image file.")
    category: Text | None = Field(None, description="Garment class, e.g. `top`.")
    gender: Text | None = Field(None, description="E.g. `Women`.")
    master_category: Text | None = Field(None, description="E.g. `Apparel`.")
    sub_category: Text | None = Field(None, description="E.g. `Topwear`.")
    article_type: Text | None = Field(None, description="E.g. `Shirts`.")
    base_colour: Text | None = Field(None, description="E.g. `Blue`.")
    season: Text | None = Field(None, description="E.g. `Summer`.")
    usage: Text | None = Field(None, description="E.g. `Casual`.")
    style: Text | None = Field(None, description="The style model's label.")


class AnalysisQuery(AnalysisFilters):
    """Filters; garment filters must all hold on one and the same garment."""

    created_after: Moment | None = Field(
        None, description="Only later ones; RFC 3339 with a time zone."
    )
    limit: int = Field(20, ge=1, le=100, description="Analyses on a page.")
    cursor: Cursor | None = Field(None, description="`next_cursor` of the page before.")


WEBHOOK = (
    "http or https URL that is posted to when no item will change any more, signed in the header "
    "`Vestiary-Signature`."
)


class IngestionItemRequest(Model):
    """One image to analyse."""

    image_url: Url = Field(description="http or https URL of a JPEG, PNG, WEBP or GIF.")
    external_id: Text | None = Field(None, description="Your id for the image or product.")
    context: Context | None = Field(  # type: ignore[valid-type]  # Made from the taxonomy.
        None, description="What you know already; the other answers are conditioned on it."
    )

    @property
    def known(self) -> dict[str, str]:
        """The context as attribute → label."""
        context: BaseModel | None = self.context
        return {} if context is None else context.model_dump(exclude_none=True)


class IngestionRequest(Model):
    """Images to analyse, one after the other, in the background.

    The list may also be the whole body.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "items": [
                    {"image_url": "https://shop.example/photos/1163.jpg", "external_id": "1163"},
                    {
                        "image_url": "https://shop.example/photos/1164.jpg",
                        "context": {"gender": "Women"},
                    },
                ]
            }
        }
    )

    items: list[IngestionItemRequest] = Field(
        min_length=1, max_length=10_000, description="At most 10,000."
    )
    webhook_url: Url | None = Field(None, description=WEBHOOK)

    @model_validator(mode="before")
    @classmethod
    def _list_alone(cls, body: Any) -> Any:
        return {"items": body} if isinstance(body, list) else body


class IngestionForm(Model):
    """What may come with an uploaded catalogue."""

    webhook_url: Url | None = Field(None, description=WEBHOOK)


class IngestionUpload(IngestionForm):
    """A catalogue as the one file of a form (multipart/form-data)."""

    catalogue: Annotated[
        str, Field(json_schema_extra={"contentMediaType": "application/octet-stream"})
    ] = Field(
        description="CSV, JSONL, Parquet or a list of URLs, also gzip'd. It needs a column "
        "`image_url` (or several, or one called alike); `external_id`, `product_url` and hints "
        "such as `gender` are taken where they are."
    )


ItemState = Literal["pending", "running", "done", "failed", "cancelled"]


class Ingestion(BaseModel):
    """How far an ingestion has come."""

    id: uuid.UUID
    created_at: AwareDatetime
    state: Literal["running", "finished", "cancelled"] = Field(
        description="`finished` when no item will change any more, whether done or failed; "
        "`cancelled` the same after a cancellation."
    )
    source: str | None = Field(description="The catalogue's name, where it came as a file.")
    total: int = Field(
        description="Items: one for each photo, and one for each row without a usable photo."
    )
    counts: dict[ItemState, int] = Field(description="State → how many items are in it.")
    failures: dict[str, int] = Field(description="Error code → how many items failed with it.")


class ItemError(BaseModel):
    """Why a row failed; the codes are those of a single analysis."""

    code: str
    message: str


class IngestionItem(BaseModel):
    row: int = Field(ge=1, description="Place in the list, from 1.")
    photo: int = Field(ge=1, description="Place among the row's photos, from 1.")
    image_url: str | None = Field(description="Null where the row has no usable photo.")
    external_id: str | None
    product_url: str | None
    context: dict[str, str]
    state: ItemState
    attempts: int = Field(ge=0, description="How often the item was begun.")
    error: ItemError | None = Field(description="Null unless the item failed.")
    analysis_id: uuid.UUID | None = Field(description="Null unless the item is done.")


class IngestionItemPage(BaseModel):
    """In the order of the list."""

    items: list[IngestionItem]
    next_cursor: str | None = Field(description="Pass as `cursor` for more; null on the last page.")


class IngestionItemQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    state: ItemState | None = Field(None, description="Only items in this state.")
    limit: int = Field(100, ge=1, le=1000, description="Items on a page.")
    cursor: Cursor | None = Field(None, description="`next_cursor` of the page before.")


class Vote(BaseModel):
    """What the photos say together."""

    label: str = Field(
        description="The answer; `unknown` where no photo is sure of the best one.",
        examples=["Shirts"],
    )
    confidence: Annotated[
        float,
        Field(ge=0, le=1, description="Average probability over the photos; 1 when corrected."),
    ]
    votes: int = Field(ge=0, description="Photos whose own answer it is.")
    photos: int = Field(ge=0, description="Photos that have an answer.")
    corrected: bool = Field(description="Whether a person said it.")
    alternatives: list[Alternative] = Field(description="Best first, up to three.")


class StyleVote(Vote):
    attributes: dict[str, Vote] = Field(description="Style attribute → vote.")


class ProductGarment(BaseModel):
    """One garment as all photos of the product show it."""

    category: str | None = Field(
        description="Garment class, or the subcategory where no class has its article type.",
        examples=["top"],
    )
    share: Score = Field(description="Of the attention in the photos that show garments.")
    garment_ids: list[uuid.UUID] = Field(
        description="The garments that were merged, at most one of each photo."
    )
    attributes: dict[str, Vote] = Field(
        description=f"Attribute → vote: {', '.join(ATTRIBUTES)}. Empty when not classified."
    )
    colours: list[Colour] = Field(
        description="Shares averaged over the photos, first what comes first in most of them."
    )
    style: StyleVote | None


class ProductPhoto(BaseModel):
    analysis_id: uuid.UUID = Field(description="The analysis that speaks for the photo.")
    image_sha256: Sha256
    urls: list[str] = Field(description="Where it was seen under this external id, oldest first.")


_EXAMPLE_VOTE: dict[str, Any] = {
    "label": "Shirts",
    "confidence": 0.8133,
    "votes": 2,
    "photos": 2,
    "corrected": False,
    "alternatives": [
        {"label": "Shirts", "confidence": 0.8133},
        {"label": "Tshirts", "confidence": 0.1021},
    ],
}


class Product(BaseModel):
    """All photos of one external id, merged."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "external_id": "sku-1163",
                "product_url": "https://shop.example/products/1163",
                "updated_at": "2026-01-31T12:00:00+00:00",
                "garment": {
                    "category": "top",
                    "share": 0.8731,
                    "garment_ids": [
                        "01940f2c-0f6a-7a10-8000-0000000000a1",
                        "01940f2c-1b33-7c55-8000-0000000000b1",
                    ],
                    "attributes": {"article_type": _EXAMPLE_VOTE},
                    "colours": [{"name": "navy blue", "hex": "#1b2440", "share": 0.71}],
                    "style": None,
                },
                "worn_with": [],
                "photos": [
                    {
                        "analysis_id": "01940f2c-0f6a-7a10-8000-0000000000a0",
                        "image_sha256": "a" * 64,
                        "urls": ["https://shop.example/photos/1163-front.jpg"],
                    },
                    {
                        "analysis_id": "01940f2c-1b33-7c55-8000-0000000000b0",
                        "image_sha256": "b" * 64,
                        "urls": ["https://shop.example/photos/1163-back.jpg"],
                    },
                ],
            }
        }
    )

    external_id: str = Field(description="Your id for the product.")
    product_url: str | None = Field(description="The newest that a catalogue gave.")
    updated_at: AwareDatetime = Field(
        description="When an analysis or a correction last changed it."
    )
    garment: ProductGarment | None = Field(
        description="The garment that is the product; null when no photo shows any."
    )
    worn_with: list[ProductGarment] = Field(
        description="What else the photos show, most prominent first."
    )
    photos: list[ProductPhoto] = Field(
        description="In the order they were handed in, the first hundred."
    )


class ProductPage(BaseModel):
    """By external id."""

    items: list[Product]
    next_cursor: str | None = Field(description="Pass as `cursor` for more; null on the last page.")


class ProductQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    limit: int = Field(20, ge=1, le=100, description="Products on a page.")
    cursor: Cursor | None = Field(None, description="`next_cursor` of the page before.")


class ExportQuery(AnalysisFilters):
    what: Literal["analyses", "products"] = Field("analyses", description="What the rows are of.")
    format: Literal["jsonl", "csv", "parquet", "coco"] = Field(
        "jsonl", description="`coco` for analyses only."
    )
    since: Moment | None = Field(
        None, description="Stored, or of products updated, then or later; with a time zone."
    )
    newest_only: bool = Field(
        False, description="Of each image its newest analysis; `coco` always does."
    )
    embeddings: Literal["none", "float16", "float32"] = Field(
        "float32", description="How Parquet has them; JSONL has all or none, CSV and COCO none."
    )

    def filters(self) -> dict[str, Any]:
        """The filters that are set, as `AnalysisFilter` takes them."""
        return self.model_dump(include=set(AnalysisFilters.model_fields), exclude_none=True)


class ServedModel(BaseModel):
    stage: Stage
    name: str = Field(description="Name of the model bundle.")
    version: str = Field(description="Digest of weights, labels and thresholds.")


class ServedModels(BaseModel):
    models: list[ServedModel] = Field(description="In the order they run.")


class Health(BaseModel):
    status: Literal["ok"]


class FieldError(BaseModel):
    field: str = Field(description="Path of the field, dots between its parts.")
    message: str


class Problem(BaseModel):
    """RFC 9457 problem details."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "type": "/docs#url_blocked",
                "title": "Forbidden",
                "status": 403,
                "code": "url_blocked",
                "detail": "the address is not one that this service may fetch from",
                "request_id": "5f0c6f5b1d7f4b0e8f7f5f0c6f5b1d7f",
            }
        }
    )

    type: str = Field(description="Where this kind of problem is described.")
    title: str
    status: int
    code: str = Field(description="Stable; decide by it, not by the texts.")
    detail: str
    request_id: str | None = Field(description="Under which the server logged the request.")
    errors: list[FieldError] | None = Field(
        None, description="For `validation_error`: what is wrong with which field."
    )
