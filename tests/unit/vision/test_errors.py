from __future__ import annotations

import pickle

import pytest

from vision.errors import ErrorCode, PermanentError, TransientError, VestiaryError


def test_the_codes_are_public_and_never_renamed() -> None:
    assert {code.value for code in ErrorCode} >= {
        *("invalid_url", "url_blocked", "source_unreachable", "source_status"),
        *("source_incomplete", "source_timeout", "source_too_large", "too_many_redirects"),
        *("unsupported_media", "image_corrupt", "image_too_large", "validation_error"),
    }


def test_a_code_is_its_text() -> None:
    assert f"{ErrorCode.URL_BLOCKED}" == "url_blocked"
    assert ErrorCode("image_corrupt") is ErrorCode.IMAGE_CORRUPT


@pytest.mark.parametrize("kind", [TransientError, PermanentError])
def test_an_error_survives_the_way_to_another_process(kind: type[VestiaryError]) -> None:
    error = kind(ErrorCode.SOURCE_STATUS, "the source answered with status 503")

    copy = pickle.loads(pickle.dumps(error))

    assert type(copy) is kind
    assert copy.code is ErrorCode.SOURCE_STATUS
    assert copy.message == str(copy) == "the source answered with status 503"


def test_the_kinds_are_told_apart() -> None:
    assert not issubclass(TransientError, PermanentError)
    assert not issubclass(PermanentError, TransientError)
