from __future__ import annotations

import re

import pytest

from wearon_contracts.errors import ErrorCode, Family, describe, sentence

INTERNALS = re.compile(
    r"\b(redis|celery|supabase|postgres\w*|openai|gpt|sql|queue|worker|lease|exception|traceback|null|json)\b",
    re.IGNORECASE,
)


@pytest.mark.parametrize("code", ErrorCode)
def test_every_code_has_sentences_a_shopper_can_read(code: ErrorCode) -> None:
    text = describe(code).sentence
    assert text.endswith(".")
    assert text[0].isupper()
    assert len(text) <= 120
    assert not INTERNALS.search(text)
    assert "  " not in text


@pytest.mark.parametrize("code", ErrorCode)
def test_the_only_placeholder_is_the_image(code: ErrorCode) -> None:
    assert set(re.findall(r"\{(.*?)\}", describe(code).sentence)) <= {"image"}
    assert not re.search(r"[{}]", sentence(code, "first garment"))


@pytest.mark.parametrize("code", [code for code in ErrorCode if describe(code).family is Family.PICTURE])
def test_a_sentence_about_an_image_says_which(code: ErrorCode) -> None:
    assert "first garment" in sentence(code, "first garment")


@pytest.mark.parametrize("code", ErrorCode)
def test_waiting_is_advised_only_where_it_helps(code: ErrorCode) -> None:
    advice = re.search(r"try again (later|shortly|in a (moment|few minutes))", describe(code).sentence)
    assert advice is None or describe(code).retryable


def test_an_image_is_called_a_photo_unless_it_has_a_name() -> None:
    assert sentence(ErrorCode.IMAGE_EMPTY) == "The photo is empty. Please add it again."


@pytest.mark.parametrize("code", [code for code in ErrorCode if describe(code).family is Family.OURS])
def test_our_own_faults_do_not_blame_the_shoppers_pictures(code: ErrorCode) -> None:
    assert not re.search(r"image|photo|different", describe(code).sentence)


def test_codes_are_stable_words() -> None:
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", code) for code in ErrorCode)
