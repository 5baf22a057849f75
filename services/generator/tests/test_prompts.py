from __future__ import annotations

import pytest

from wearon_generator.prompts import default_prompt, file_names, image_label


def test_the_person_comes_first_and_the_others_are_numbered() -> None:
    assert file_names(4) == ["model.jpg", "image_1.jpg", "image_2.jpg", "image_3.jpg"]


@pytest.mark.parametrize("count", range(1, 17))
def test_the_default_prompt_names_every_image_once_at_least(count: int) -> None:
    prompt = default_prompt(count)
    assert all(name in prompt for name in file_names(count))
    assert f"image_{count}.jpg" not in prompt


def test_labels_are_words_of_the_shopper() -> None:
    assert [image_label(index) for index in range(4)] == [
        "photo of the person",
        "photo of the garment",
        "photo of accessory 1",
        "photo of accessory 2",
    ]
