"""What a log line must not show, and what it must keep."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wearon_service_kit.redaction import redact

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJleHAiOjE3MDB9.c2lnbmF0dXJl"
SECRET = "s3cr3tVALUE0123456789"


@pytest.mark.parametrize(
    ("line", "hidden", "kept"),
    [
        ("key sk-proj-Ab12_Cd34-Ef56 used", "Ab12_Cd34", "key sk-*** used"),
        (f"sb_secret_{SECRET}", SECRET, "sb_secret_***"),
        ("of 'whsec_MfKQ9r8G+Yqr/wjUPD8ILA=='", "MfKQ9r8G+Yqr/wjUPD8ILA==", "of 'whsec_***'"),
        (f"Authorization: Bearer {SECRET}", SECRET, "Authorization: Bearer ***"),
        (f"authorization: bearer {JWT}", "c2lnbmF0", "authorization: bearer ***"),
        (f"token {JWT} end", "c2lnbmF0", "token *** end"),
        (f"cut {JWT[:30]}", JWT[8:30], "cut ***"),
        ("redis://:p%40ss@cache:6379/0", "p%40ss", "redis://***@cache:6379/0"),
        ("rediss://user:hunter2@cache/0", "hunter2", "rediss://***@cache/0"),
        ("https://user@shop.example/a", "user@", "https://***@shop.example/a"),
        (
            f"GET https://x.supabase.co/storage/v1/object/sign/images/a.jpg?token={JWT} 200",
            "eyJ",
            "GET https://x.supabase.co/storage/v1/object/sign/images/a.jpg?*** 200",
        ),
        (
            f"https://b.s3.example/a.jpg?X-Amz-Expires=60&X-Amz-Signature={SECRET}",
            SECRET,
            "https://b.s3.example/a.jpg?***",
        ),
        (f"https://cdn.example/a.jpg?Policy=x&Key-Pair-Id={SECRET}", SECRET, "https://cdn.example/a.jpg?***"),
        (f"https://x.example/{'a.' * 3000}?sig={SECRET}", SECRET, f"https://x.example/{'a.' * 3000}?***"),
        (f"/a.jpg?token={SECRET}&w=100", SECRET, "/a.jpg?token=***&w=100"),
        (f"X-Amz-Signature={SECRET}&b=1", SECRET, "X-Amz-Signature=***&b=1"),
        (f"x-goog-credential={SECRET}", SECRET, "x-goog-credential=***"),
        (f"apikey={SECRET}", SECRET, "apikey=***"),
        (f"signature={SECRET}", SECRET, "signature=***"),
        (f"next=%2Fa%3Ftoken%3D{SECRET}", SECRET, "next=%2Fa%3Ftoken%3D***"),
        (f'{{"apikey": "{SECRET}", "b": 1}}', SECRET, '{"apikey": "***", "b": 1}'),
        (f"{{'Authorization': 'Basic {SECRET}'}}", SECRET, "{'Authorization': '***'}"),
        (f'{{\\"password\\": \\"{SECRET}\\"}}', SECRET, '{\\"password\\": \\"***\\"}'),
        (f'"service_role_secret": "{SECRET}"', SECRET, '"service_role_secret": "***"'),
        ("data:image/png;base64," + "iVBORw0K" * 50, "iVBORw0K", "data:image/png;base64,(422 characters)"),
        ("b64_json " + "QUJDRA" * 60 + "==", "QUJD", "b64_json (362 characters)"),
    ],
)
def test_secrets_are_hidden_and_the_rest_is_kept(line: str, hidden: str, kept: str) -> None:
    assert hidden not in redact(line)
    assert redact(line) == kept


@pytest.mark.parametrize(
    "line",
    [
        "task-12345678 of risk-assessment queued",
        "session 0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b request_id=req-42",
        "input_tokens=1200 output_tokens: 800, {'input_tokens': 1200}",
        "https://shop.example/img@2x.jpg fetched",
        "mail to someone@shop.example",
        "no token given",
        'Traceback (most recent call last):\n  File "/app/a.py", line 3, in f\nValueError: x = 1',
        "redis://cache:6379/0",
        "sha256 0af68afe747ce09964f29e7c872e77b038aec483a8f3923c20850e850447add5",
    ],
)
def test_ordinary_lines_stay_as_they_are(line: str) -> None:
    assert redact(line) == line


@given(st.text(max_size=400))
def test_any_text_can_be_redacted_and_twice_is_once(text: str) -> None:
    once = redact(text)
    assert redact(once) == once


@given(
    st.text(alphabet='abc {}":,=&?/@.-\n', max_size=80), st.text(alphabet='abc {}":,&?/@.-\n', max_size=80)
)
def test_a_token_is_hidden_whatever_surrounds_it(before: str, after: str) -> None:
    assert "c2lnbmF0dXJl" not in redact(f"{before} {JWT} {after}")
    assert SECRET not in redact(f"{before} https://x.example/a?sig={SECRET} {after}")


@pytest.mark.alone
@pytest.mark.parametrize(
    "line",
    [
        "Bearer " * 20_000,
        "https://" * 20_000 + '"?@',
        "a.a-" * 40_000 + "://@",
        '"token":' * 20_000,
        "eyJ." * 40_000,
        "http://" + "a" * 100_000 + "@",
        "x-amz-" * 20_000 + "=",
        "A" * 300_000 + "!",
        "'" + "a-" * 50_000 + "password",
    ],
    ids=lambda line: line[:10],
)
def test_no_line_takes_long(line: str) -> None:
    """Each is built to make one rule backtrack; all are far longer than any real line."""
    started = time.perf_counter()
    redact(line)
    assert time.perf_counter() - started < 1
