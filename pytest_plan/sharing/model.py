"""The vocabulary of sharing: environments, members, roles, and the answers of a store."""

from __future__ import annotations

import enum
from typing import NamedTuple


class Role(enum.Enum):
    """The role of a run in a shared environment.

    Attributes:
        OWNER: it provisions the steps and cleans them up.
        MEMBER: it uses the steps that the owner has provisioned.
        HEIR: it cleans up the steps of a lost owner, then provisions its own.
        WAIT: it has not joined, because the environment is being cleaned up; it joins again later.
    """

    OWNER = "owner"
    MEMBER = "member"
    HEIR = "heir"
    WAIT = "wait"


class Status(enum.Enum):
    """The stages of a shared environment.

    Attributes:
        OPEN: runs can join.
        ENDING: nobody joins any more, and its members still use it.
        CLOSED: it is being cleaned up. Nobody joins, and only its owner writes.
        DONE: it was cleaned up. Only a mark is left, for a day.
    """

    OPEN = "open"
    ENDING = "ending"
    CLOSED = "closed"
    DONE = "done"


class Kind(enum.Enum):
    """The kinds of rows in a shared environment.

    Attributes:
        STATE: a key of the State.
        VARIABLE: an environment variable.
        OUTCOME: the outcome of a step.
        JOURNAL: a row of the owner's journal.
        LOG: the log of a step.
        NOTICE: nothing but a notification.
    """

    STATE = "state"
    VARIABLE = "variable"
    OUTCOME = "outcome"
    JOURNAL = "journal"
    LOG = "log"
    NOTICE = "notice"


class EnvironmentId(NamedTuple):
    """A shared environment in one of its epochs.

    Attributes:
        name: its name, which users choose.
        id: its random id, which is new each time that the environment begins.
        epoch: a number that increases each time that another run becomes the owner.
    """

    name: str
    id: str
    epoch: int


class Member(NamedTuple):
    """A process that takes part in a shared environment.

    Attributes:
        id: its random id.
        host: the name of its host.
        job: its job in a CI system; "" if it has none.
        pid: its process id.
        birth: its start time, as in `engine.processes.identity.Identity`.
        boot: the boot id of its system.
        namespace: its process-id namespace; "" if the system has none.
    """

    id: str
    host: str
    job: str = ""
    pid: int = 0
    birth: str = ""
    boot: str = ""
    namespace: str = ""

    def __str__(self) -> str:
        return f"{self.host} ({self.job or f'process {self.pid}'})"


class Access(NamedTuple):
    """The credentials of each read and write. The store refuses stale ones.

    Attributes:
        environment: the environment, in the epoch that the caller knows.
        member: the id of the member that writes.
    """

    environment: EnvironmentId
    member: str


class Project(NamedTuple):
    """The plan of a run, as runs compare it before they share an environment.

    Attributes:
        fingerprint: the fingerprint of all steps.
        steps: the names of the steps.
    """

    fingerprint: str
    steps: tuple[str, ...]


class View(NamedTuple):
    """A shared environment at one moment.

    Attributes:
        environment: its id and its current epoch.
        status: its stage.
        owner: its owner; None if the owner has left it to a caretaker, or it is done.
        is_owner_alive: whether the owner's lease holds.
        is_caretaker: whether the owner provisions nothing, and only cleans up.
        beats: how often the owner has renewed its lease. A higher number is a sign of life.
        members: the other members whose lease holds, in the order of their ids.
        lease: the length of a lease, in seconds.
        runs: how many runs the owner waits for before it closes; 0 if it waits for none.
        joins: how many runs have joined, the owner included.
        failures: how many runs have left with a failure.
        project: the plan whose steps are provisioned.
        age: the seconds since it began.
        done_ago: the seconds since it was cleaned up; None if it is not done.
    """

    environment: EnvironmentId
    status: Status
    owner: Member | None
    is_owner_alive: bool
    is_caretaker: bool
    beats: int
    members: tuple[Member, ...]
    lease: float
    runs: int
    joins: int
    failures: int
    project: Project
    age: float
    done_ago: float | None

    @property
    def is_in_use(self) -> bool:
        """Whether its steps are there for its members: it is neither being cleaned up nor done."""
        return self.status in (Status.OPEN, Status.ENDING)


class Joining(NamedTuple):
    """A request to join.

    Attributes:
        member: the process that joins.
        project: its plan.
        lease: the length of a lease, in seconds. It is used if this run begins the environment.
        runs: how many runs the owner waits for before it closes; 0 means none.
    """

    member: Member
    project: Project
    lease: float = 60.0
    runs: int = 0


class Joined(NamedTuple):
    """The answer to a request to join.

    Attributes:
        role: what the run is now.
        access: the credentials for its reads and writes.
        view: the environment after the run has joined. For an heir, `project` is the plan of the
            lost owner.
        begun_again_after: the seconds since the environment of this name was cleaned up, if this
            run begins it again; None otherwise.
    """

    role: Role
    access: Access
    view: View
    begun_again_after: float | None = None


class Row(NamedTuple):
    """A value in a shared environment.

    Attributes:
        kind: its kind.
        key: its key among those of its kind.
        text: its value as text, such as JSON.
        version: its version, higher than those of all earlier writes. A caller that writes leaves
            it 0.
    """

    kind: Kind
    key: str
    text: str
    version: int = 0


class Lock(NamedTuple):
    """A named lock, and the thread that holds it or wants to.

    Attributes:
        name: the name of the lock.
        thread: the thread, as a text that is unique in its member.
    """

    name: str
    thread: str


class News(NamedTuple):
    """Changes in a shared environment.

    Attributes:
        keys: the kind and the key of each row that has changed. Kind NOTICE has `environment` if
            its owner, its members or its status have changed, and `lock:NAME` if a lock was
            released.
        is_everything: whether notifications may have been lost, so that anything may have changed.
    """

    keys: frozenset[tuple[Kind, str]] = frozenset()
    is_everything: bool = False


ENVIRONMENT = (Kind.NOTICE, "environment")  # the key of a notification, see `News`
