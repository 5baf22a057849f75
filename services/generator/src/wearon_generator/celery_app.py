"""The Celery application: how tasks reach this process and how they are published again."""

from __future__ import annotations

from typing import Any, Final

import redis
from celery import Celery
from kombu.connection import Connection
from kombu.entity import Exchange, Queue

from wearon_contracts.queues import (
    CELERY_QUEUE,
    CELERY_RETRY_QUEUE,
    PROCESS_GENERATION_TASK,
    UNACKED_HASH,
    UNACKED_INDEX,
    UNACKED_MUTEX,
)
from wearon_generator.foreign_messages import SetAside, watched
from wearon_service_kit.redis_address import RedisAddress, parse_redis_url
from wearon_service_kit.redis_clients import KEEPALIVE, SENTINEL_CONNECT_SECONDS

BROKER_POP_SECONDS: Final = 8  # longest blocking pop; a stop may wait as long, and each pop costs commands


class SteadyConnection(Connection):
    """Tries a lost broker every two seconds; kombu's default waits ever longer, up to 30 s.

    It takes no foreign messages where it has the option `set_aside`.
    """

    def get_transport_cls(self) -> type[Any]:
        """See kombu."""
        return watched(super().get_transport_cls())  # type: ignore[no-untyped-call]

    def _ensure_connection(self, *args: Any, **kwargs: Any) -> Any:
        return super()._ensure_connection(  # type: ignore[no-untyped-call]
            *args, **{"interval_start": 0.5, "interval_step": 0.5, "interval_max": 2, **kwargs}
        )


def create_celery_app(
    redis_url: str,
    *,
    concurrency: int,
    visibility_timeout: int,
    client_name: str = "wearon-generator-broker",
    set_aside: SetAside | None = None,
) -> Celery:
    """Configure Celery; nothing is connected yet.

    `visibility_timeout`: seconds after which the broker hands out an unacknowledged message again.
    `client_name`: of the connections to Redis. `set_aside`: where foreign messages go, for a worker.
    """
    address = parse_redis_url(redis_url)
    app = Celery("wearon_generator", broker=address.broker_url(), set_as_current=False)
    if address.tls is not None:
        app.conf.broker_use_ssl = address.tls
    app.conf.update(
        task_queues=[_queue(name) for name in (CELERY_RETRY_QUEUE, CELERY_QUEUE)],
        task_default_queue=CELERY_QUEUE,
        task_default_exchange=CELERY_QUEUE,
        task_default_routing_key=CELERY_QUEUE,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        result_backend=None,
        # Otherwise each thread looks for a backend of its own among all installed packages: 15 ms a thread.
        result_backend_thread_safe=True,
        task_serializer="json",
        accept_content=["json"],
        worker_pool="threads",
        worker_concurrency=concurrency,
        worker_prefetch_multiplier=1,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        # A server that was demoted says READONLY or UNBLOCKED; without this the worker ends itself then.
        broker_channel_error_retry=True,
        broker_transport_options={
            "visibility_timeout": visibility_timeout,
            "unacked_key": UNACKED_HASH,
            "unacked_index_key": UNACKED_INDEX,
            "unacked_mutex_key": UNACKED_MUTEX,
            "queue_order_strategy": "sorted",
            "socket_keepalive": True,
            "socket_keepalive_options": KEEPALIVE,
            "socket_connect_timeout": 5,
            # Otherwise a publish waits for ever on a connection that died without a word.
            "socket_timeout": 10,
            "health_check_interval": 15,
            # Seconds that one blocking pop lasts; kombu's default of 1 s costs an idle worker 86,400 commands
            # a day. Below `socket_timeout`, for a stopping worker waits for its last answer.
            "polling_interval": BROKER_POP_SECONDS,
            # How often messages are looked for that nobody acknowledged within the visibility timeout: every
            # 30th time of once in 10 s.
            "unacked_restore_throttle": 30,
            "client_name": client_name,
            "set_aside": set_aside,
            **_sentinel_options(address),
        },
    )
    app.amqp.Connection = SteadyConnection
    return app


def forget_client_name(app: Celery) -> None:
    """Connect without a name, for a server that refuses CLIENT SETNAME; before the first connection."""
    app.conf.broker_transport_options.pop("client_name", None)


def end_blocking_pops(client: redis.Redis, name: str) -> None:
    """End the pops of the connections of this name, as their timeout would; raises RedisError."""
    for entry in client.client_list(_type="normal"):
        if entry["name"] == name and entry["cmd"] == "brpop":
            client.client_unblock(int(entry["id"]))


def _sentinel_options(address: RedisAddress) -> dict[str, Any]:
    if address.master_name is None:
        return {}
    limits = {"socket_timeout": 5, "socket_connect_timeout": SENTINEL_CONNECT_SECONDS}
    return {
        "master_name": address.master_name,
        "sentinel_kwargs": {**address.sentinel_options(), **limits},
    }


def _queue(name: str) -> Queue:
    return Queue(name, Exchange(name), routing_key=name)  # type: ignore[no-untyped-call]


class CeleryBroker:
    """Publishes from outside a delivery; see `recovery.Broker`."""

    def __init__(self, app: Celery) -> None:
        self._app = app

    def deliver_again(self, delivery_tag: str) -> None:
        """As the next to be taken. Nothing happens if it was acknowledged or put back meanwhile."""
        with self._app.pool.acquire(block=True) as connection:
            connection.default_channel.qos.restore_by_tag(delivery_tag)

    def publish_again(self, task: dict[str, Any]) -> None:
        """See `recovery.Broker`."""
        self._app.send_task(
            PROCESS_GENERATION_TASK,
            args=[task],
            task_id=task["task_id"],
            queue=CELERY_RETRY_QUEUE,
            retry=False,
            ignore_result=True,
        )
