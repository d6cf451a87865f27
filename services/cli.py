"""The command line: `vestiary analyze`, `ingest`, `serve`, `worker`, `export`, `demo`, …"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

import typer
from rich.console import Console

from services.annotate import annotate as draw_report
from services.bootstrap import Container, build_container
from services.console import report_table, wide_console
from services.pipeline.report_json import report_as_json
from services.pipeline.run import AnalysisOptions
from services.settings import Settings
from vision.errors import ErrorCode, PermanentError, VestiaryError
from vision.image import EncodedImage, decode

app = typer.Typer(
    help="Fashion photos in, structured catalogue data out.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)
database_app = typer.Typer(help="The database schema.", no_args_is_help=True)
app.add_typer(database_app, name="db")

errors = Console(stderr=True)


@app.command()
def analyze(
    photos: Annotated[list[str], typer.Argument(metavar="PHOTO_OR_URL…")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a photo.")] = False,
    annotate: Annotated[
        Path | None, typer.Option(help="Write the photo with its garments drawn in.")
    ] = None,
    store: Annotated[bool, typer.Option(help="Keep the report in the database.")] = False,
    min_score: Annotated[float | None, typer.Option(min=0, max=1)] = None,
    gender: Annotated[str | None, typer.Option(help="Known gender, e.g. Women.")] = None,
) -> None:
    """Find and describe every garment in photos or URLs.

    A photo that fails is reported on stderr with its code, the others are still done, and the
    exit status is 1.
    """
    if annotate is not None and len(photos) > 1:
        raise typer.BadParameter("--annotate takes one photo", param_hint="--annotate")
    options = AnalysisOptions(
        min_score=min_score, context={} if gender is None else {"gender": gender}
    )
    failed = False
    with _container() as container:
        for photo in photos:
            try:
                encoded = _read(container, photo)
                report = _analyze(container, encoded, options, store)
            except VestiaryError as error:
                failed = True
                _complain(f"{photo}: {error.code}: {error.message}")
                continue
            if as_json:
                typer.echo(json.dumps({"photo": photo, **report}))
            else:
                wide_console().print(report_table(photo, report))
            if annotate is not None:
                draw_report(decode(encoded), report).save(annotate)
    if failed:
        raise typer.Exit(1)


@app.command()
def serve(
    host: Annotated[str | None, typer.Option()] = None,
    port: Annotated[int | None, typer.Option()] = None,
) -> None:
    """Serve the API with gunicorn until interrupted."""
    from services.api.server import serve as serve_api

    overrides = {"host": host, "port": port}
    settings = Settings().model_copy(
        update={name: value for name, value in overrides.items() if value is not None}
    )
    with _reported():
        serve_api(settings)


@app.command()
def ingest(
    source: Annotated[
        str,
        typer.Argument(help="CSV, JSONL, Parquet, a list of URLs, a folder or zip; - for stdin."),
    ],
    columns: Annotated[
        list[str] | None,
        typer.Option("--column", metavar="FIELD=COLUMN", help="As in image_url=foto; repeatable."),
    ] = None,
    form: Annotated[
        Literal["csv", "jsonl", "parquet", "urls", "folder", "zip"] | None,
        typer.Option("--format", help="In place of what the contents say."),
    ] = None,
    encoding: Annotated[str | None, typer.Option(help="In place of the one found out.")] = None,
    delimiter: Annotated[str | None, typer.Option(help="Of a CSV.")] = None,
    image_root: Annotated[
        Path | None, typer.Option(help="Folder of the photos that a catalogue names by path.")
    ] = None,
    keep_repeats: Annotated[
        bool, typer.Option("--keep-repeats", help="An external id may stand in several rows.")
    ] = False,
    refresh: Annotated[
        bool, typer.Option("--refresh", help="Analyse again what was analysed before.")
    ] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try failed photos of an earlier run again.")
    ] = False,
    resume: Annotated[
        UUID | None, typer.Option(metavar="ID", help="The ingestion to go on with.")
    ] = None,
    no_work: Annotated[
        bool, typer.Option("--no-work", help="Only queue; `vestiary worker` does the work.")
    ] = False,
) -> None:
    """Analyse every photo of a catalogue; interrupted, the same command goes on.

    The exit status is 0 when every row is accounted for, failed ones too; 130 when interrupted.
    """
    from services.ingestion.command import IngestChoices, outcome, run_ingest, summary_table
    from services.ingestion.sources import read_options

    choices = IngestChoices(refresh, resume, retry_failed, not no_work)
    with _container() as container:
        options = read_options(columns or (), form, encoding, delimiter, image_root, keep_repeats)
        stored = run_ingest(container, source, options, choices)
    Console().print(summary_table(stored))
    message, status = outcome(stored, worked=not no_work)
    errors.print(message)
    if status:
        raise typer.Exit(status)


@app.command()
def worker() -> None:
    """Work on queued ingestions until interrupted."""
    from services.ingestion.worker import run_worker

    with _container() as container:
        run_worker(container)


@app.command()
def export(
    out: Annotated[
        Path,
        typer.Argument(help=".jsonl, .csv, .parquet or .json (COCO), also with .gz; - for stdout."),
    ],
    what: Annotated[
        Literal["analyses", "products"],
        typer.Option(help="Products are all photos of one external id, merged; not as COCO."),
    ] = "analyses",
    form: Annotated[
        Literal["jsonl", "csv", "parquet", "coco"] | None,
        typer.Option("--format", help="In place of what the file's name says."),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(metavar="FIELD=VALUE", help="Of analyses, as in category=dress."),
    ] = None,
    since: Annotated[
        datetime | None, typer.Option(help="Stored, or updated, at this time (UTC) or later.")
    ] = None,
    newest_only: Annotated[
        bool, typer.Option("--newest-only", help="Of each image its newest analysis; COCO always.")
    ] = False,
    embeddings: Annotated[
        Literal["none", "float16", "float32"],
        typer.Option(help="In Parquet; JSONL has all or none."),
    ] = "float32",
) -> None:
    """Write stored analyses or products to a file, all from one moment."""
    from services.exports import Embeddings, Format, run_export
    from services.product_exports import run_product_export

    chosen = None if form is None else Format(form)
    if what == "products":
        if where or newest_only:
            raise typer.BadParameter("holds for analyses only", param_hint="--where, --newest-only")
        with _container() as container:
            products = run_product_export(
                container.database, out, chosen, since, Embeddings(embeddings)
            )
        errors.print(f"{products} products exported")
        return
    with _container() as container:
        count = run_export(
            container.database, out, chosen, where or (), since, newest_only, Embeddings(embeddings)
        )
    errors.print(f"{count.analyses} analyses with {count.garments} garments exported")


@database_app.command()
def upgrade() -> None:
    """Bring the database to the newest schema."""
    with _container() as container:
        container.database.upgrade()
        typer.echo("database is current")


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Where the annotated picture goes.")] = Path(
        "output"
    ),
) -> None:
    """Run the main job once, on a sample photo, with real parts only."""
    from services.demo import run_demo

    with _reported():
        run_demo(Settings(), output)


def _analyze(
    container: Container, encoded: EncodedImage, options: AnalysisOptions, store: bool
) -> dict[str, Any]:
    if not store:
        return report_as_json(container.pipeline.analyze(encoded, options))
    from services.pipeline.record import stored_as_json

    stored, _ = container.recorder.record(encoded, options)
    return stored_as_json(stored)


def _complain(message: str) -> None:
    # No markup: a file's name may hold brackets.
    errors.print(message, style="red", markup=False, soft_wrap=True)


def _read(container: Container, photo: str) -> EncodedImage:
    if photo.lower().startswith(("http://", "https://")):
        return container.fetcher.fetch(photo)
    path = Path(photo)
    if not path.is_file():
        raise PermanentError(ErrorCode.SOURCE_UNREACHABLE, "no such file")
    return EncodedImage(data=path.read_bytes())


@contextmanager
def _container() -> Iterator[Container]:
    with _reported():
        container = build_container(Settings())
        try:
            yield container
        finally:
            container.close()


@contextmanager
def _reported() -> Iterator[None]:
    """Failures the product knows end in one line on stderr and exit status 1."""
    try:
        yield
    except VestiaryError as error:
        _complain(f"{error.code}: {error.message}")
        raise typer.Exit(1) from error


if __name__ == "__main__":
    app()
