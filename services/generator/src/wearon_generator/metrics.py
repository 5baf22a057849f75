"""Every metric of the generator, in one place."""

from __future__ import annotations

from typing import Final, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from wearon_contracts.errors import TRY_ON_FAMILIES, ErrorCode, describe
from wearon_contracts.outcomes import RefundState
from wearon_contracts.tasks import Channel
from wearon_generator.endings import Ending, Outcome, RetryReason
from wearon_generator.refusals import PAUSE_REASONS, Refusal

_STEP_BUCKETS = (
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1,
    2.5,
    5,
    10,
    20,
    30,
    45,
    60,
    90,
    120,
    180,
    300,
    600,
    1800,
)

_NO_CHANNEL: Final = "unknown"  # of a message that is no task


class Metrics:
    """Counters, gauges and histograms of one generator process; times are in seconds."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.jobs = Counter(
            "wearon_generator_jobs",
            "Messages taken from Celery's queues, and tasks taken out of lanes, by how this process was done "
            "with them; channel unknown: of a message that is no task.",
            ["channel", "outcome"],
            registry=registry,
        )
        self.failures = Counter(
            "wearon_generator_failures", "Sessions failed, by error code.", ["code"], registry=registry
        )
        self.refunds = Counter(
            "wearon_generator_refunds",
            "Failed sessions by what became of the credit.",
            ["state"],
            registry=registry,
        )
        self.flagged = Counter(
            "wearon_generator_flagged", "Sessions flagged for a person to look at.", registry=registry
        )
        self.waiting = Gauge(
            "wearon_generator_jobs_waiting", "Jobs held, waiting for their slot.", registry=registry
        )
        self.working = Gauge("wearon_generator_jobs_working", "Jobs claimed and in work.", registry=registry)
        self.steps = Histogram(
            "wearon_generator_step_seconds",
            "Time of one step of a job.",
            ["step"],
            buckets=_STEP_BUCKETS,
            registry=registry,
        )
        self.provider_calls = Counter(
            "wearon_generator_provider_calls",
            "Calls of the image model, by outcome.",
            ["outcome"],
            registry=registry,
        )
        self.provider_seconds = Histogram(
            "wearon_generator_provider_seconds",
            "Time of one call of the image model.",
            buckets=_STEP_BUCKETS,
            registry=registry,
        )
        self.cost_usd = Counter(
            "wearon_generator_cost_usd", "Estimated cost of the provider's answers.", registry=registry
        )
        self.image_errors = Counter(
            "wearon_generator_image_errors",
            "Input images refused or not reached, by error code.",
            ["code"],
            registry=registry,
        )
        self.leases_lost = Counter(
            "wearon_generator_leases_lost", "Sessions another replica took over.", registry=registry
        )
        self.recovered = Counter(
            "wearon_generator_recovered", "Jobs of dead holders put back on the queue.", registry=registry
        )
        self.quarantined = Counter(
            "wearon_generator_quarantined",
            "Jobs begun after a process died with them: among few such jobs, or alone, after two deaths.",
            ["company"],
            registry=registry,
        )
        self.redelivered = Counter(
            "wearon_generator_redelivered",
            "Messages of dead workers put back on the queue before their session was held.",
            registry=registry,
        )
        self.put_back = Counter(
            "wearon_generator_put_back",
            "Tasks whose message a dying worker took out of Celery's queue before it noted that down.",
            registry=registry,
        )
        self.reaped = Counter(
            "wearon_generator_reaped",
            "Sessions failed because nothing would ever run them.",
            registry=registry,
        )
        self.supabase_unavailable = Counter(
            "wearon_generator_supabase_unavailable", "Calls of Supabase that failed.", registry=registry
        )
        self.provider_pause = Gauge(
            "wearon_generator_provider_pause",
            "1 while no jobs are started because the provider refuses every job, by why.",
            ["reason"],
            registry=registry,
        )
        self.model_days_left = Gauge(
            "wearon_generator_model_days_left",
            "Days until the image model is switched off; +Inf if no end is announced.",
            ["model"],
            registry=registry,
        )
        self.fallback_in_use = Gauge(
            "wearon_generator_fallback_in_use",
            "1 while OPENAI_FALLBACK_MODEL makes the pictures.",
            registry=registry,
        )
        self.ledger_sessions = Gauge(
            "wearon_generator_ledger_sessions",
            "Sessions of all replicas in the ledger: waiting, working, retrying, expired, flagged, owed, "
            "paid_by_cron_too.",
            ["state"],
            registry=registry,
        )
        self.oldest_held = Gauge(
            "wearon_generator_oldest_held_seconds",
            "Age of the unsettled session of all replicas that has been held for longest.",
            registry=registry,
        )
        self.pictures_deleted = Counter(
            "wearon_generator_pictures_deleted",
            "Pictures deleted because of their age: result, input.",
            ["kind"],
            registry=registry,
        )
        self.webhook_deliveries = Counter(
            "wearon_generator_webhook_deliveries",
            "Tries to deliver an event: delivered, failed; given_up: events that are tried no more.",
            ["outcome"],
            registry=registry,
        )
        self.webhook_endpoints = Gauge(
            "wearon_generator_webhook_endpoints",
            "Webhook endpoints: enabled, failing (of these), disabled (because they failed); in the replica "
            "that sends, 0 in all others.",
            ["state"],
            registry=registry,
        )
        self.webhooks_waiting = Gauge(
            "wearon_generator_webhooks_waiting",
            "Events still to be delivered; in the replica that sends, 0 in all others.",
            registry=registry,
        )
        self.oldest_webhook = Gauge(
            "wearon_generator_oldest_webhook_seconds",
            "For how long the oldest of them has been tried.",
            registry=registry,
        )

        # Prometheus does not see the first event of a series that begins with it.
        self.show_provider_pause(None)
        self.show_webhooks({})
        for kind in ("result", "input"):
            self.pictures_deleted.labels(kind=kind)
        for outcome in ("delivered", "failed", "given_up"):
            self.webhook_deliveries.labels(outcome=outcome)
        for outcome in ("ok", *Refusal):
            self.provider_calls.labels(outcome=outcome)
        for outcome in (*Outcome, *RetryReason):
            for channel in (*Channel, _NO_CHANNEL):
                self.jobs.labels(channel=channel, outcome=outcome.value)
        for company in ("few", "alone"):
            self.quarantined.labels(company=company)
        for state in get_args(RefundState):
            self.refunds.labels(state=state)
        for code in ErrorCode:
            if describe(code).family in TRY_ON_FAMILIES:
                self.failures.labels(code=code.value)

    def show_provider_pause(self, reason: str | None) -> None:
        """Take over why the provider's breaker is open; None: it is closed."""
        for each in PAUSE_REASONS:
            self.provider_pause.labels(reason=each).set(1 if each == reason else 0)

    def count_delivery(self, channel: Channel | None, ending: Ending) -> None:
        """Count how a delivery ended; `channel`: of its task, None if it is no task."""
        self.jobs.labels(channel=channel or _NO_CHANNEL, outcome=ending.label).inc()

    def count_failure(self, code: ErrorCode, refund: str | None, flagged: bool) -> None:
        """Count a session that failed, and what became of its credit."""
        self.failures.labels(code=code.value).inc()
        self.refunds.labels(state=refund or "none").inc()
        if flagged:
            self.flagged.inc()

    def show_webhooks(self, figures: dict[str, float]) -> None:
        """Take over what `Outbox.tidy` says; what is missing is 0."""
        for state in ("enabled", "failing", "disabled"):
            self.webhook_endpoints.labels(state=state).set(figures.get(state, 0))
        self.webhooks_waiting.set(figures.get("waiting", 0))
        self.oldest_webhook.set(figures.get("oldest_seconds", 0))

    def show_backlog(self, figures: dict[str, float]) -> None:
        """Take over what `Ledger.backlog` says."""
        for state, number in figures.items():
            if state == "oldest_held_seconds":
                self.oldest_held.set(number)
            else:
                self.ledger_sessions.labels(state=state).set(number)


class MeanOfStep:
    """Mean duration of a step since the last look; the one before while the step was not made."""

    def __init__(self, steps: Histogram, step: str) -> None:
        self._steps = steps
        self._step = step
        self._seconds = self._count = self._mean = 0.0

    def __call__(self) -> float:
        """Seconds."""
        values = {
            sample.name.rpartition("_")[2]: sample.value
            for metric in self._steps.collect()
            for sample in metric.samples
            if sample.labels["step"] == self._step
        }
        seconds, count = values.get("sum", 0.0), values.get("count", 0.0)
        if count > self._count:
            self._mean = (seconds - self._seconds) / (count - self._count)
        self._seconds, self._count = seconds, count
        return self._mean


def gauge_value(gauge: Gauge) -> float:
    """What an unlabelled gauge stands at."""
    return next(iter(gauge.collect())).samples[0].value
