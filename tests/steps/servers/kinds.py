"""The servers that are tested, and how a client of each uses its value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import psutil
import pytest

from pytest_plan.steps import S3, Kafka, MariaDB, PostgreSQL, RabbitMQ, Redis
from pytest_plan.steps.servers import kafka, mariadb, postgresql, rabbitmq, redis, s3
from pytest_plan.steps.servers.programs import Kind, find_program


class Server(NamedTuple):
    """A server that is tested.

    Attributes:
        step: the class of its step.
        kind: its kind.
        value: a regular expression for the value of the step.
        use: a function that stores something in the server and reads it, and raises an error if
            that does not work.
        bad: attributes that the server refuses; empty if there are none.
        cause: what the message about them must have.
    """

    step: type[Any]
    kind: Kind
    value: str
    use: Callable[[str], None]
    bad: Mapping[str, Any] = {}
    cause: str = ""


def program_or_skip(kind: Kind, version: str | None = None) -> None:
    """Skip the test if the program of a server is not installed."""
    try:
        find_program(kind, version=version)
    except FileNotFoundError as error:
        pytest.skip(str(error))


def processes_at(value: str) -> list[psutil.Process]:
    """Return the processes that listen at the port of a value."""
    return [psutil.Process(one.pid) for one in _listeners_at(value) if one.pid]


def addresses_at(value: str) -> set[str]:
    """Return the addresses on which there is a listener at the port of a value."""
    return {one.laddr.ip for one in _listeners_at(value)}


def _listeners_at(value: str) -> list[Any]:
    port = int(urlsplit(value if "://" in value else f"//{value}").port or 0)
    return [
        one
        for one in psutil.net_connections("tcp")
        if one.status == psutil.CONN_LISTEN and getattr(one.laddr, "port", None) == port
    ]


def use_postgresql(value: str) -> None:
    """Create a table in a database of PostgreSQL, and read it."""
    psycopg = pytest.importorskip("psycopg")
    with psycopg.connect(value) as connection:
        connection.execute("create table a (b text)")
        connection.execute("insert into a values ('ä')")
        row = connection.execute("select b, upper(b), current_database() from a").fetchone()
    assert row == ("ä", "Ä", urlsplit(value).path[1:])


def _use_redis(value: str) -> None:
    client = pytest.importorskip("redis").Redis.from_url(value)
    client.set("a", "b")
    assert client.get("a") == b"b"
    assert client.dbsize() == 1
    client.close()


def _use_mariadb(value: str) -> None:
    pymysql = pytest.importorskip("pymysql")
    url = urlsplit(value)
    connection = pymysql.connect(
        host=url.hostname, port=url.port, user=url.username, password=url.password or "",
        database=url.path[1:],
    )  # fmt: skip
    with connection, connection.cursor() as cursor:
        cursor.execute("create table a (b text)")
        cursor.execute("insert into a values ('ä')")
        cursor.execute("select b, current_user() from a")
        host = "127.0.0.1" if url.hostname == "127.0.0.1" else "%"
        assert cursor.fetchone() == ("ä", f"{url.username}@{host}")
        cursor.execute("select user from mysql.user where user = 'root'")
        assert cursor.fetchone() is None


def _use_rabbitmq(value: str) -> None:
    pika = pytest.importorskip("pika")
    connection = pika.BlockingConnection(pika.URLParameters(value))
    channel = connection.channel()
    channel.queue_declare("a")
    channel.basic_publish("", "a", b"b")
    assert next(channel.consume("a"))[2] == b"b"
    connection.close()


def _use_kafka(value: str) -> None:
    library = pytest.importorskip("kafka")
    producer = library.KafkaProducer(bootstrap_servers=value)
    producer.send("a", b"b").get(30)
    producer.close()
    consumer = library.KafkaConsumer(
        "a", bootstrap_servers=value, auto_offset_reset="earliest", consumer_timeout_ms=30_000
    )
    assert next(consumer).value == b"b"
    consumer.close()


def _use_s3(value: str) -> None:
    boto3 = pytest.importorskip("boto3")
    client = boto3.client(
        "s3", endpoint_url=value, aws_access_key_id="a", aws_secret_access_key="b",
        region_name="us-east-1",
    )  # fmt: skip
    client.create_bucket(Bucket="bucket")
    client.put_object(Bucket="bucket", Key="a", Body=b"b")
    assert client.get_object(Bucket="bucket", Key="a")["Body"].read() == b"b"
    client.close()


SERVERS = {
    "PostgreSQL": Server(
        PostgreSQL,
        postgresql.KIND,
        r"postgresql://postgres:[\w-]{16}@127\.0\.0\.1:\d+/postgres",
        use_postgresql,
        {"settings": {"max_conections": 5}},
        'FATAL: unrecognized configuration parameter "max_conections"',
    ),
    "Redis": Server(
        Redis,
        redis.KIND,
        r"redis://:[\w-]{16}@127\.0\.0\.1:\d+/0",
        _use_redis,
        {"settings": {"maxmemory": "lots"}},
        ">>> 'maxmemory lots' | argument must be a memory value",
    ),
    "MariaDB": Server(
        MariaDB,
        mariadb.KIND,
        r"mysql://test:[\w-]{16}@127\.0\.0\.1:\d+/test",
        _use_mariadb,
        {"settings": {"max-conections": 5}},
        "mariadbd: unknown variable 'max-conections=5'",
    ),
    "RabbitMQ": Server(
        RabbitMQ,
        rabbitmq.KIND,
        r"amqp://test:[\w-]{16}@127\.0\.0\.1:\d+/%2F",
        _use_rabbitmq,
        {"settings": {"channel_maximum": "lots"}},
        "You've tried to set channel_maximum, but there is no setting with that name.",
    ),
    "Kafka": Server(Kafka, kafka.KIND, r"127\.0\.0\.1:\d+", _use_kafka),
    "S3": Server(S3, s3.KIND, r"http://127\.0\.0\.1:\d+", _use_s3),
}
