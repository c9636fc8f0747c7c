"""Tests of streams, cancellation, close and update against a service that does what a test says."""

from __future__ import annotations

import asyncio
import pathlib
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from concurrent import futures
from typing import Any, Callable, Dict, List
from unittest import mock

import grpc

HERE = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(HERE))

import aethyr_event_store as aethyr  # noqa: E402
from aethyr_event_store import protos  # noqa: E402
from aethyr_event_store.protos import commands, events, execution, store  # noqa: E402


class Fake(grpc.GenericRpcHandler):  # type: ignore[misc,type-arg]
    """A service whose methods are functions: of the number of the call from 0 on, request and context."""

    def __init__(self, methods: Dict[str, Callable[[int, Any, Any], Any]]) -> None:
        self.methods = methods
        self.calls: List[str] = []
        self.tokens: List[str] = []

    def service(self, details: Any) -> Any:
        name = details.method.rpartition("/")[2]
        module = execution if name == "ExecuteCommands" else store
        number = self.calls.count(name)
        self.calls.append(name)
        self.tokens.append(dict(details.invocation_metadata).get("authorization", ""))

        def answer(request: Any, context: Any) -> Any:
            return self.methods[name](number, request, context)

        read = getattr(module, name + "Request").FromString
        write = getattr(module, name + "Response").SerializeToString
        unary = name in ("AppendEvents", "ExecuteCommands", "SaveSnapshot", "Stats")
        kind = grpc.unary_unary_rpc_method_handler if unary else grpc.unary_stream_rpc_method_handler
        return kind(answer, read, write)


def recorded(*positions: int) -> List[events.RecordedEvent]:
    return [events.RecordedEvent(position=n, sequence_number=n, chain_hash=bytes([n])) for n in positions]


def batch(*positions: int) -> store.SubscribeResponse:
    return store.SubscribeResponse(events=store.EventBatch(events=recorded(*positions)))


CAUGHT_UP = store.SubscribeResponse(caught_up=store.CaughtUp(checkpoint=events.Checkpoint(position=1)))


class FakeTest(unittest.TestCase):
    def serve(self, **methods: Any) -> Any:
        fake = Fake(methods)
        server = grpc.server(futures.ThreadPoolExecutor(8))
        server.add_generic_rpc_handlers((fake,))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        self.addCleanup(lambda: server.stop(0).wait())
        self.addCleanup(server.stop, 0)
        return fake, f"aethyr://127.0.0.1:{port}"

    def read(self, address: str, **arguments: Any) -> List[int]:
        with aethyr.Client(address) as client:
            return [event.position for event in client.read_all(**arguments)]

    def test_a_filter_that_matches_seldom(self) -> None:
        def slow(number: int, request: Any, context: Any) -> Any:
            for _ in range(10):
                time.sleep(0.1)
                yield store.ReadAllResponse(last_position=9)
            yield store.ReadAllResponse(events=recorded(9), last_position=9)

        fake, address = self.serve(ReadAll=slow)
        self.assertEqual(self.read(address + "?attempt_deadline=500ms&deadline=800ms"), [9])
        self.assertEqual(fake.calls, ["ReadAll"])

    def test_a_message_that_does_not_come(self) -> None:
        def stuck(number: int, request: Any, context: Any) -> Any:
            yield store.ReadAllResponse(events=recorded(request.from_position or 1), last_position=2)
            while number == 0 and context.is_active():
                time.sleep(0.05)

        fake, address = self.serve(ReadAll=stuck)
        self.assertEqual(self.read(address + "?attempt_deadline=300ms"), [1, 2])
        self.assertEqual(len(fake.calls), 2)

    def test_a_read_ends_where_it_ended_at_its_begin(self) -> None:
        def growing(number: int, request: Any, context: Any) -> Any:
            if number == 0:
                yield store.ReadAllResponse(events=recorded(1), last_position=2)
                context.abort(grpc.StatusCode.UNAVAILABLE, "broken")
            yield store.ReadAllResponse(events=recorded(2, 3), last_position=3)

        _, address = self.serve(ReadAll=growing)
        self.assertEqual(self.read(address), [1, 2])

    def test_a_subscription_goes_on_with_a_new_token(self) -> None:
        def ends(number: int, request: Any, context: Any) -> Any:
            if number == 1:
                yield batch(2)
            elif number < 3:
                yield CAUGHT_UP
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "the credential has changed")

        fake, address = self.serve(Subscribe=ends)
        with tempfile.NamedTemporaryFile("w") as file:
            file.write("one\n")
            file.flush()
            with aethyr.Client(f"{address}?token_file={file.name}") as client:
                checkpoints = aethyr.MemoryCheckpoints()
                with client.subscribe("s", checkpoints) as each:
                    self.assertEqual(next(each).position, 2)
                    with self.assertRaises(aethyr.Unauthenticated):
                        next(each)  # It was the first answer of the stream.
        self.assertEqual(len(fake.calls), 4)

    def test_asyncio_a_timeout_does_not_end_a_subscription(self) -> None:
        begun = threading.Event()

        def waits(number: int, request: Any, context: Any) -> Any:
            yield CAUGHT_UP
            if number == 0:
                begun.set()
                while context.is_active():
                    time.sleep(0.05)
            yield batch(2, 3)

        _, address = self.serve(Subscribe=waits)

        async def main() -> None:
            async with aethyr.AsyncClient(address) as client:
                async with client.subscribe("s", aethyr.MemoryCheckpoints()) as each:
                    with self.assertRaises(asyncio.TimeoutError):
                        await asyncio.wait_for(each.__anext__(), 1)
                    self.assertTrue(begun.is_set())
                    found = [await asyncio.wait_for(each.__anext__(), 5) for _ in range(2)]
                    self.assertEqual([event.position for event in found], [2, 3])

        asyncio.run(main())

    def silent(self) -> str:
        def silent(number: int, request: Any, context: Any) -> Any:
            while context.is_active():
                time.sleep(0.05)
            return iter(())

        _, address = self.serve(AppendEvents=silent, LoadEvents=silent, Subscribe=silent, ReadAll=silent)
        return str(address) + "?attempt_deadline=1m&deadline=1m"

    def test_asyncio_cancel_and_close(self) -> None:
        address = self.silent()

        async def main() -> None:
            for close_first in (True, False):
                client = aethyr.AsyncClient(address)
                calls: List[Callable[[], Any]] = [
                    lambda: client.append(aethyr.NewEvent("E", None, "a", "A")), lambda: client.load("a"),
                    lambda: client.read_all().__anext__()]
                tasks = [asyncio.ensure_future(call()) for call in calls]
                await asyncio.sleep(0.3)
                if not close_first:
                    for task in tasks:
                        task.cancel()
                await client.close()
                kind: Any = aethyr.AethyrError if close_first else asyncio.CancelledError
                for task in tasks:
                    with self.assertRaises(kind) as raised:
                        await task
                    if close_first:
                        self.assertEqual(raised.exception.reason, "CLOSED")

        asyncio.run(main())

    def test_close_ends_subscriptions(self) -> None:
        client, done = aethyr.Client(self.silent()), threading.Event()

        def follow() -> None:
            for _ in client.subscribe("s", aethyr.MemoryCheckpoints()):
                pass
            done.set()

        threading.Thread(target=follow, daemon=True).start()
        time.sleep(0.3)
        client.close()
        self.assertTrue(done.wait(5))

        async def main() -> None:
            other = aethyr.AsyncClient(self.silent())
            subscription = other.subscribe("s", aethyr.MemoryCheckpoints())
            task = asyncio.ensure_future(subscription.__anext__())
            await asyncio.sleep(0.3)
            await other.close()
            with self.assertRaises(StopAsyncIteration):
                await asyncio.wait_for(task, 5)

        asyncio.run(main())

    def appends(self) -> Any:
        def append(number: int, request: Any, context: Any) -> Any:
            due = store.AppendedAggregate(aggregate_id="a", snapshot_due=True)
            return store.AppendEventsResponse(event_ids=[request.events[0].event_id], aggregates=[due])

        return self.serve(AppendEvents=append, LoadEvents=lambda *_: iter([store.LoadEventsResponse()]))

    def test_a_snapshot_that_cannot_be_made_fails_no_update(self) -> None:
        def fails(state: Any) -> Any:
            raise KeyError("no such thing")

        _, address = self.appends()
        with aethyr.Client(address) as client, self.assertLogs("aethyr_event_store.aio", "WARNING") as log:
            for snapshot in (lambda state: {1, 2}, fails):
                answer = client.update(
                    "a", lambda state, sequence: [aethyr.NewEvent("E")], apply=lambda state, event: state,
                    snapshot=snapshot)
                self.assertIsNotNone(answer)
        self.assertEqual(len(log.output), 2)

    def test_an_event_that_is_returned_twice_is_stored_twice(self) -> None:
        constant = aethyr.NewEvent("E")
        _, address = self.appends()
        with aethyr.Client(address) as client:
            ids = {client.update("a", lambda *_: [constant]).event_ids[0] for _ in range(2)}  # type: ignore
        self.assertEqual(len(ids), 2)
        self.assertEqual(constant, aethyr.NewEvent("E"))

    def test_a_snapshot_without_a_version_is_loaded_again(self) -> None:
        asked: List[Any] = []

        def load(number: int, request: Any, context: Any) -> Any:
            asked.append((request.from_snapshot, request.snapshot_schema_version))
            return iter([store.LoadEventsResponse()])

        _, address = self.serve(LoadEvents=load)
        with aethyr.Client(address) as client:
            client.update("a", lambda *_: [], apply=lambda state, event: state, snapshot=lambda state: state)
        self.assertEqual(asked, [(True, 0)])

    def test_ids_of_commands(self) -> None:
        sent: List[Any] = []

        def execute(number: int, request: Any, context: Any) -> Any:
            sent.extend(request.commands)
            return execution.ExecuteCommandsResponse()

        _, address = self.serve(ExecuteCommands=execute)
        message = commands.Command(create_room=commands.CreateRoom(id="a"))
        camel: Any = {"commandId": "mine", "createRoom": {"id": "a"}}
        snake: Any = {"create_room": {"id": "a"}}
        with aethyr.Client(address) as client:
            client.execute([message, camel, snake], actor="bob")
            with self.assertRaises(aethyr.InvalidArgument) as raised:
                client.execute([message, {"create_rom": {}}])
        self.assertEqual(raised.exception.violations[0].field, "commands[1]")
        ids = [each.command_id for each in sent]
        self.assertEqual(ids, [message.command_id, "mine", snake["command_id"]])
        self.assertEqual((camel["commandId"], len(set(ids)), message.actor), ("mine", 3, ""))
        self.assertNotIn("command_id", camel)

    def test_a_delay_of_nothing_is_no_hot_loop(self) -> None:
        from aethyr_event_store import _core

        error = aethyr.ResourceExhausted("", grpc.StatusCode.RESOURCE_EXHAUSTED)
        error.retry_after = 0.0
        transport = mock.Mock()
        transport.closed = False
        transport.sleep = mock.AsyncMock()
        for delay, endless in ((0.0, False), (1e12, True)):
            error.retry_after = delay
            attempts = _core.Attempts(transport, float("inf") if endless else 15.0)
            attempts.begin()
            with mock.patch("random.uniform", return_value=0.04):
                asyncio.run(attempts.failed(error, 0))
        self.assertEqual([call.args[0] for call in transport.sleep.call_args_list], [0.04, 60.0])


class ModulesTest(unittest.TestCase):
    def test_each_client_has_below_1000_lines(self) -> None:
        done = subprocess.run([sys.executable, str(HERE.parent / "lines.py")], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_the_names_of_the_messages(self) -> None:
        self.assertEqual(protos.commands.Command.DESCRIPTOR.full_name, "aethyr.world.v1.Command")


if __name__ == "__main__":
    unittest.main()
