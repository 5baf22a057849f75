"""The prompt that goes with the images, and the names the images go by."""

from __future__ import annotations

PERSON_FILE = "model.jpg"


def file_names(count: int) -> list[str]:
    """Names of `count` images in the order of the task's image_urls: the person first."""
    return [PERSON_FILE, *(f"image_{index}.jpg" for index in range(1, count))]


def image_label(index: int) -> str:
    """What a shopper calls the image at `index`."""
    if index == 0:
        return "photo of the person"
    if index == 1:
        return "photo of the garment"
    return f"photo of accessory {index - 1}"


def default_prompt(count: int) -> str:
    """The prompt for a task that brings none of its own; it names the images as `file_names` does."""
    garments = file_names(count)[1:]
    if not garments:
        return (
            f"Show the person of {PERSON_FILE} in a clean full-length studio photograph. "
            "Keep their face, hair, body shape, skin tone, pose and clothes exactly as they are."
        )
    worn = f"the garment of {garments[0]}"
    if len(garments) > 1:
        worn += f" together with the accessories of {', '.join(garments[1:])}"
    return (
        f"Make a photorealistic full-length picture of the person of {PERSON_FILE} wearing {worn}. "
        "Keep their face, hair, body shape, skin tone and pose exactly as they are. "
        "Keep each item's colour, pattern, cut and any print true to its picture, and let it fit "
        "and fall on the body as the real fabric would. Replace only the clothing that the items "
        "take the place of. Use the light and background of the person's photo."
    )
