"""Ready-made steps: functions that take `ctx`, and the conditions for which they wait.

Use them inside the steps of a plan. This layer uses only the engine, and nothing uses it.
"""

from __future__ import annotations

from pytest_plan.engine.shared.programs.readiness import Condition as Condition
from pytest_plan.steps.containers.compose import compose as compose
from pytest_plan.steps.containers.container import container as container
from pytest_plan.steps.containers.steps import ComposeStep as ComposeStep
from pytest_plan.steps.containers.steps import ContainerStep as ContainerStep
from pytest_plan.steps.containers.value import Container as Container
from pytest_plan.steps.databases import create_database as create_database
from pytest_plan.steps.databases import database_url as database_url
from pytest_plan.steps.playbook import playbook as playbook
from pytest_plan.steps.ready.command import command as command
from pytest_plan.steps.ready.healthy import healthy as healthy
from pytest_plan.steps.ready.http import http as http
from pytest_plan.steps.ready.log_line import log_line as log_line
from pytest_plan.steps.ready.tcp import tcp as tcp
from pytest_plan.steps.run_once import run_once as run_once
from pytest_plan.steps.servers.kafka import Kafka as Kafka
from pytest_plan.steps.servers.mariadb import MariaDB as MariaDB
from pytest_plan.steps.servers.postgresql import PostgreSQL as PostgreSQL
from pytest_plan.steps.servers.rabbitmq import RabbitMQ as RabbitMQ
from pytest_plan.steps.servers.redis import Redis as Redis
from pytest_plan.steps.servers.s3 import S3 as S3
from pytest_plan.steps.service import Service as Service
from pytest_plan.steps.service import service as service

# The functions have the names of modules, so they are imported when this package is.
__all__ = [
    "S3",
    "ComposeStep",
    "Condition",
    "Container",
    "ContainerStep",
    "Kafka",
    "MariaDB",
    "PostgreSQL",
    "RabbitMQ",
    "Redis",
    "Service",
    "command",
    "compose",
    "container",
    "create_database",
    "database_url",
    "healthy",
    "http",
    "log_line",
    "playbook",
    "run_once",
    "service",
    "tcp",
]
