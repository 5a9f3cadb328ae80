"""Ray Serve's choice of a replica, made by a policy of `tinyllm.scale.policy`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

from tinyllm.scale.policy import Fleet, make_policy
from tinyllm.scale.settings import REMEMBERED, SLACK


class PolicyRouter(RequestRouter):  # type: ignore[misc, unused-ignore]
    """Sends each request to the replica that the policy chooses, and to another where that one is full.

    Replicas come and go; each has a number for the policy as long as it is there, which the next one gets then.
    """

    def initialize_state(self, policy: str = "warm", slack: int = SLACK, remembered: int = REMEMBERED) -> None:
        """Called by Ray with what the deployment says of its router."""
        self._policy = make_policy(policy, slack, remembered)
        self._fleet = Fleet(0)
        self._numbers: dict[ReplicaID, int] = {}
        self._sent: dict[str, ReplicaID] = {}  # where each request was sent that is not done

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """The replica of the policy's choice, then all others: of those Ray takes the one with the shortest queue."""
        if pending_request is None or not candidate_replicas:
            return [candidate_replicas]
        pending_request.routing_context.should_backoff = True  # where all are full
        request = pending_request.metadata.internal_request_id
        self.on_request_completed(self._sent.get(request), request)  # it is chosen for anew
        self._follow(candidate_replicas)
        keys = _keys(pending_request)
        choice = self._policy.choose(self._fleet, keys)
        if choice is None:
            return [candidate_replicas]
        by_number = {self._numbers[replica.replica_id]: replica for replica in candidate_replicas}
        best = by_number.pop(choice.replica)
        # counted at once: many may be chosen for before the first of them is sent
        self._send(request, best.replica_id, keys)
        pending_request.future.add_done_callback(partial(self._drop_cancelled, request))
        return [[best], list(by_number.values())]

    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: Any) -> None:
        """Called by Ray when a replica has taken a request, which may be another than the one chosen."""
        request = pending_request.metadata.internal_request_id
        if self._sent.get(request) != replica_id:
            self.on_request_completed(self._sent.get(request), request)
            self._send(request, replica_id, _keys(pending_request))

    def on_request_completed(self, replica_id: ReplicaID | None, internal_request_id: str) -> None:
        """Called by Ray when a request is done, whatever came of it."""
        if replica_id is None or self._sent.get(internal_request_id) != replica_id:
            return
        del self._sent[internal_request_id]
        if (number := self._numbers.get(replica_id)) is not None:
            self._fleet.in_flight[number] -= 1

    def _send(self, request: str, replica_id: ReplicaID, keys: Sequence[bytes]) -> None:
        if (number := self._numbers.get(replica_id)) is not None:
            self._sent[request] = replica_id
            self._fleet.in_flight[number] += 1
            self._policy.sent(number, keys)

    def _drop_cancelled(self, request: str, future: Any) -> None:
        if future.cancelled():  # the client went away before the request was sent
            self.on_request_completed(self._sent.get(request), request)

    def _follow(self, replicas: Sequence[RunningReplica]) -> None:
        """Take over which replicas there are, and what they say of themselves."""
        there = {replica.replica_id for replica in replicas}
        for gone in self._numbers.keys() - there:
            self._policy.forget(self._numbers.pop(gone))
        free = iter(sorted(set(range(len(replicas))) - set(self._numbers.values())))
        old, new = self._fleet, there - self._numbers.keys()
        self._numbers |= {r.replica_id: next(free) for r in replicas if r.replica_id in new}
        fleet = Fleet(max(self._numbers.values()) + 1)
        for replica in replicas:
            number = self._numbers[replica.replica_id]
            fleet.healthy[number] = True
            if replica.replica_id not in new:
                fleet.in_flight[number] = old.in_flight[number]
            told = replica.routing_stats or {}
            fleet.told[number], fleet.pages_held[number] = told.get("load", 0), told.get("pages_held", 0.0)
        self._fleet = fleet


def _keys(pending_request: PendingRequest) -> Sequence[bytes]:
    """The last argument of `Replica.answer`."""
    return pending_request.args[2] if len(pending_request.args) > 2 else ()
