"""No document of the operator's changes without the list of its commands; check_documents.py runs them."""

from __future__ import annotations

from collections.abc import Callable

from tests.containers.documents import STEPS, block_of, blocks, uncovered


def test_every_fenced_block_is_run_or_skipped_with_a_reason(figure: Callable[[str], None]) -> None:
    assert uncovered() == []
    assert len(STEPS) == len(blocks())
    skipped = [step for step in STEPS if step.place == "skipped"]
    assert all(step.note for step in skipped)
    figure(f"documents: {len(STEPS) - len(skipped)} of {len(STEPS)} blocks of commands are run as written")


def test_blocks_run_as_written_hold_nothing_to_fill_in() -> None:
    for step in STEPS:
        text = block_of(step).text
        if step.place not in ("reader", "skipped"):
            assert "…" not in text, text
