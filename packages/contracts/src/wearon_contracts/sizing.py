"""Request and answer of the sizing API, `POST /estimate-body`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from wearon_contracts.errors import ErrorCode

Centimetres = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Measured = Literal["chest_cm", "waist_cm", "hip_cm", "shoulder_cm"]


class Size(StrEnum):
    """Letter sizes, smallest first."""

    XS = "XS"
    S = "S"
    M = "M"
    L = "L"
    XL = "XL"
    XXL = "XXL"


class BodyType(StrEnum):
    """Words the app shows for a build."""

    ATHLETIC = "athletic"
    SLIM = "slim"
    AVERAGE = "average"
    BROAD = "broad"


class Gender(StrEnum):
    """Decides the size bands; without it, or with `other`, the men's bands serve."""

    FEMALE = "female"
    MALE = "male"
    OTHER = "other"


class FitPreference(StrEnum):
    """How loosely the shopper likes to wear things."""

    TIGHT = "tight"
    REGULAR = "regular"
    LOOSE = "loose"


class EstimateBodyRequest(BaseModel):
    """A photo of the whole body from the front, and the person's height."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    image_url: str = Field(min_length=1, max_length=8192, description="Where the photo can be downloaded.")
    height_cm: float = Field(
        ge=100, le=250, allow_inf_nan=False, strict=True, description="Height in centimetres."
    )
    weight_kg: float | None = Field(default=None, ge=25, le=300, allow_inf_nan=False, strict=True)
    gender: Gender | None = None
    fit_preference: FitPreference | None = None


class Measurements(BaseModel):
    """Girths and shoulder breadth in centimetres; the client refuses any other key."""

    model_config = ConfigDict(extra="forbid")

    chest_cm: Centimetres = Field(description="Girth at nipple level.")
    waist_cm: Centimetres = Field(description="Girth at the navel.")
    hip_cm: Centimetres = Field(description="Largest girth of the seat.")
    shoulder_cm: Centimetres = Field(description="Biacromial breadth.")


class Interval(BaseModel):
    """A range that holds the true value four times out of five."""

    lower: Centimetres
    upper: Centimetres


class SizeRange(BaseModel):
    """Sizes from `lower` to `upper`, both included."""

    lower: Size
    upper: Size


class EstimateBodyResponse(BaseModel):
    """Measurements, the size they lead to, and how sure that is."""

    recommended_size: Size
    measurements: Measurements
    confidence: float = Field(ge=0, le=1, description="Probability that the recommended size is right.")
    body_type: BodyType
    size_range: SizeRange
    intervals: dict[Measured, Interval]
    warnings: list[str]
    inputs_used: list[str]
    method_version: str


class SizingError(BaseModel):
    """Answer of every refusal: a sentence for the shopper and a stable code."""

    detail: str
    code: ErrorCode
    request_id: str
