"""Requests and answers of the sizing API: `/estimate-body`, `/estimate-without-photo`, `/check-photo`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from wearon_contracts.errors import ErrorCode
from wearon_contracts.fields import MAX_URL_LENGTH

HEIGHT_CM: Final = (100, 250)
"""The shortest and the tallest shopper that is taken; beyond lie heights in other units."""
WEIGHT_KG: Final = (25, 300)
"""The same of the weight."""
Centimetres = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Measured = Literal["chest_cm", "waist_cm", "hip_cm", "shoulder_cm", "inseam_cm"]


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
    """Decides what bodies are likely, the size bands and the build. Without it, or with `other`, both sexes
    count and the men's bands serve."""

    FEMALE = "female"
    MALE = "male"
    OTHER = "other"


class FitPreference(StrEnum):
    """How loosely the shopper likes to wear things."""

    TIGHT = "tight"
    REGULAR = "regular"
    LOOSE = "loose"


class SizeStandard(StrEnum):
    """Charts that the service knows by name; docs/sizing.md says where they come from."""

    EN_13402_MEN = "en_13402_men"
    EN_13402_WOMEN = "en_13402_women"
    US_MEN = "us_men"
    US_WOMEN = "us_women"
    UK_MEN = "uk_men"
    UK_WOMEN = "uk_women"


ChartCentimetres = Annotated[float, Field(ge=10, le=300, allow_inf_nan=False, strict=True)]
EaseCentimetres = Annotated[float, Field(ge=0, le=60, allow_inf_nan=False, strict=True)]


class ChartRange(BaseModel):
    """What a size is made for, in centimetres. One value: the same number twice. Open end: leave it out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lower: ChartCentimetres | None = None
    upper: ChartCentimetres | None = None


class SizeChartRow(BaseModel):
    """One size of a chart. Every row of a chart has ranges for the same measurements, at least one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    label: str = Field(min_length=1, max_length=32, description="What stands on the garment, such as `M`.")
    chest_cm: ChartRange | None = None
    waist_cm: ChartRange | None = None
    hip_cm: ChartRange | None = None
    shoulder_cm: ChartRange | None = None
    inseam_cm: ChartRange | None = None


class SizeChart(BaseModel):
    """The sizes of one garment: either `rows` or the name of a `standard`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    standard: SizeStandard | None = None
    rows: list[SizeChartRow] | None = Field(default=None, min_length=1, max_length=40)
    garment_ease_cm: dict[Measured, EaseCentimetres] | None = Field(
        default=None,
        description="Only where `rows` hold the garment's own measurements: how much larger than the body"
        " it is meant to be, for every measurement in the rows.",
    )


class EstimateWithoutPhotoRequest(BaseModel):
    """What the shopper says about themselves: height, and as much of the rest as is known."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    height_cm: float = Field(
        ge=HEIGHT_CM[0],
        le=HEIGHT_CM[1],
        allow_inf_nan=False,
        strict=True,
        description="Height in centimetres.",
    )
    weight_kg: float | None = Field(
        default=None, ge=WEIGHT_KG[0], le=WEIGHT_KG[1], allow_inf_nan=False, strict=True
    )
    gender: Gender | None = None
    fit_preference: FitPreference | None = None
    size_chart: SizeChart | None = Field(
        default=None, description="Answer in the sizes of this chart too, in `chart_size`."
    )


class EstimateBodyRequest(EstimateWithoutPhotoRequest):
    """A photo of the whole body from the front, and the person's height."""

    image_url: str = Field(
        min_length=1, max_length=MAX_URL_LENGTH, description="Where the photo can be downloaded."
    )
    side_image_url: str | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_URL_LENGTH,
        description="A second photo, in profile, which tells depths. One that cannot be used is left out, and"
        " a warning says why.",
    )


class Measurements(BaseModel):
    """Lengths in centimetres; the client refuses any other key."""

    model_config = ConfigDict(extra="forbid")

    chest_cm: Centimetres = Field(description="Girth at nipple level.")
    waist_cm: Centimetres = Field(description="Girth at the navel.")
    hip_cm: Centimetres = Field(description="Largest girth of the seat.")
    shoulder_cm: Centimetres = Field(description="Biacromial breadth.")
    inseam_cm: Centimetres = Field(description="Crotch to floor, without shoes.")


class Interval(BaseModel):
    """A range that holds the true value four times out of five."""

    lower: Centimetres
    upper: Centimetres


class SizeRange(BaseModel):
    """Sizes from `lower` to `upper`, both included."""

    lower: Size
    upper: Size


class LabelProbability(BaseModel):
    """How likely one size of the chart is the right one."""

    label: str
    probability: float = Field(ge=0, le=1)


class LabelPair(BaseModel):
    """Two sizes of a chart, the smaller one first."""

    lower: str
    upper: str


class ChartSize(BaseModel):
    """The answer in the sizes of the request's chart."""

    recommended: str = Field(
        description="As likely too small as too large, or its neighbour if that is nearly as likely and"
        " `fit_preference` asks for it."
    )
    confidence: float = Field(
        ge=0, le=1, description="Probability that this size is the right one; 0 where no size fits."
    )
    labels: list[LabelProbability] = Field(description="Every size, smallest first; they add up to 1.")
    between: LabelPair | None = Field(
        description="The recommended size and the likelier one beside it; null if the chart has one size."
    )
    tie: bool = Field(description="Whether the sizes in `between` are about equally likely.")
    limiting_measurement: Measured = Field(
        description="The measurement that needs the largest size, or is nearest to needing the next one."
    )
    smaller_than_chart: float = Field(
        ge=0, le=1, description="Probability that even the smallest is too big."
    )
    larger_than_chart: float = Field(
        ge=0, le=1, description="Probability that even the largest is too small."
    )
    explanation: str = Field(description="All of this in a few sentences for the shopper.")


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
    photo_trust: float = Field(
        ge=0, le=1, description="How much the photos could tell, compared with the best ones; 0 without one."
    )
    chart_size: ChartSize | None = Field(default=None, description="Only if the request has a `size_chart`.")


class SizingError(BaseModel):
    """Answer of every refusal: a sentence for the shopper and a stable code."""

    detail: str
    code: ErrorCode
    request_id: str
    fallback: EstimateBodyResponse | None = Field(
        default=None,
        description="What can be said without the photo, as `POST /estimate-without-photo` answers. Absent"
        " where the request itself is at fault, while the service is overloaded, and while many photos are"
        " refused at once.",
    )


class PhotoPurpose(StrEnum):
    """What a photo is to be used for: for try-ons half bodies are fine, for sizing they are not."""

    TRY_ON = "try_on"
    SIZING = "sizing"


class BodySeen(StrEnum):
    """How much of a body is inside the picture, seen from the head down."""

    WHOLE = "whole"
    KNEES_UP = "knees_up"
    HIPS_UP = "hips_up"
    WAIST_UP = "waist_up"
    HEAD_AND_SHOULDERS = "head_and_shoulders"
    NONE = "none"


class CheckPhotoRequest(BaseModel):
    """A photo, and what for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    image_url: str = Field(
        min_length=1, max_length=MAX_URL_LENGTH, description="Where the photo can be downloaded."
    )
    purpose: PhotoPurpose


class PhotoSeen(BaseModel):
    """What was found in a photo, whether it is usable or not."""

    people: int = Field(ge=0, le=2, description="2 stands for two or more.")
    body: BodySeen = Field(description="How much there is of the largest person.")
    light: float = Field(ge=0, le=1, description="Brightness of the brightest twentieth; 1 is white.")
    sharpness: float = Field(ge=0, le=1, description="0.5 to 0.75 is sharp, below 0.3 is blurred.")


class CheckPhotoResponse(BaseModel):
    """Whether a photo will do, and if not, why."""

    usable: bool
    code: ErrorCode | None = Field(description="Null if the photo is usable.")
    sentence: str = Field(description="For the shopper: what to change, or that the photo will do.")
    seen: PhotoSeen
