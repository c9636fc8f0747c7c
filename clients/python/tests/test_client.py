"""Tests of the client that need no conformance harness: options, checkpoints, retries, README and example."""

from __future__ import annotations

import asyncio
import datetime
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from concurrent import futures
from typing import Any, List, Tuple
from unittest import mock

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

HERE = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(HERE))

import aethyr_event_store as aethyr  # noqa: E402
from aethyr_event_store import errors  # noqa: E402
from aethyr_event_store.options import token_of  # noqa: E402
from aethyr_event_store.protos import store  # noqa: E402
from aethyr_event_store.testing import LocalService  # noqa: E402


class OptionsTest(unittest.TestCase):
    def test_token_is_masked_everywhere(self) -> None:
        options = aethyr.Options.parse("aethyr://geheim@127.0.0.1")
        client = aethyr.Client("aethyr://geheim@127.0.0.1")
        for text in (str(options), repr(options), repr(client), str(aethyr.Options(token="geheim"))):
            self.assertNotIn("geheim", text)
        self.assertEqual(options.token, "geheim")

    def test_arguments_take_precedence(self) -> None:
        options = aethyr.Options.parse("aethyr://localhost?deadline=1s", deadline=2.0, tls=True)
        self.assertEqual((options.deadline, options.tls), (2.0, True))
        with self.assertRaises(TypeError):
            aethyr.Options.parse("aethyr://localhost", colour="red")

    def test_token_file_is_read_again(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "token")
            path.write_text("first\n# comment\n")
            options = aethyr.Options(token_file=str(path))
            self.assertEqual(token_of(options), "first")
            path.write_text("second\r\n")
            self.assertEqual(token_of(options), "second")
            for wrong in ("", "two words\n", "schlüssel\n"):
                path.write_text(wrong, encoding="utf-8")
                with self.assertRaisesRegex(aethyr.InvalidArgument, "token_file: its first line is no token"):
                    token_of(options)
            path.unlink()
            with self.assertRaises(aethyr.InvalidArgument):
                token_of(options)

    def test_a_token_that_no_header_can_have(self) -> None:
        for token in ("ge heim", "geheim\n", "gehéim"):
            with self.assertRaises(aethyr.InvalidArgument) as raised:
                aethyr.Options(token=token)
            self.assertNotIn(token, str(raised.exception))

    def test_certificates_that_cannot_be_read(self) -> None:
        with aethyr.Client("aethyr://localhost?ca=/nowhere/ca.pem") as client:
            with self.assertRaisesRegex(aethyr.InvalidArgument, "ca: /nowhere/ca.pem"):
                client.stats()

    def test_times(self) -> None:
        zone = datetime.timezone(datetime.timedelta(hours=2))
        far = datetime.datetime(3025, 1, 2, 3, 4, 5, 999999, zone)
        message = aethyr.NewEvent("E", occurred_at=far).to_message()
        self.assertEqual(message.occurred_at.ToJsonString(), "3025-01-02T01:04:05.999999Z")
        local = datetime.datetime(2026, 1, 2, 3, 4, 5)
        message = aethyr.NewEvent("E", occurred_at=local).to_message()
        self.assertEqual(message.occurred_at.seconds, int(local.timestamp()))

    def test_data_that_is_no_json(self) -> None:
        with aethyr.Client() as client:
            for data in ({1, 2}, float("nan"), object()):
                with self.assertRaises(aethyr.InvalidArgument) as raised:
                    client.append([aethyr.NewEvent("E", 1, "a"), aethyr.NewEvent("E", data, "a")])
                self.assertEqual(raised.exception.violations[0].field, "events[1].data")

    def test_expectations(self) -> None:
        two = [aethyr.NewEvent("E", None, "a"), aethyr.NewEvent("E", None, "b")]
        with aethyr.Client() as client:
            expects: List[Any] = ["new", {"a": -1}, {"a": "old"}]
            for expect in expects:
                with self.assertRaisesRegex(aethyr.InvalidArgument, "expect"):
                    client.append(two, expect=expect)


class CheckpointTest(unittest.TestCase):
    def test_file(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "checkpoints.json")
            checkpoints = aethyr.FileCheckpoints(path)
            self.assertIsNone(checkpoints.load("a"))
            checkpoints.save("a", aethyr.Checkpoint(1, b"\x00\xff"))
            checkpoints.save("b", aethyr.Checkpoint(2))
            again = aethyr.FileCheckpoints(path)
            self.assertEqual(again.load("a"), aethyr.Checkpoint(1, b"\x00\xff"))
            self.assertEqual(again.load("b"), aethyr.Checkpoint(2, b""))
            self.assertEqual(os.listdir(folder), ["checkpoints.json"])


class Scripted(grpc.GenericRpcHandler):  # type: ignore[misc,type-arg]
    """A service that refuses each AppendEvents as its script says, and then accepts it."""

    def __init__(self, *script: Tuple[Any, str, float]) -> None:
        self.script = list(script)
        self.requests: List[Any] = []
        self.metadata: List[Any] = []

    def service(self, details: Any) -> Any:
        self.metadata.append(dict(details.invocation_metadata))
        read, write = store.AppendEventsRequest.FromString, store.AppendEventsResponse.SerializeToString
        return grpc.unary_unary_rpc_method_handler(self.answer, read, write)

    def answer(self, request: Any, context: Any) -> Any:
        self.requests.append(request)
        if not self.script:
            return store.AppendEventsResponse(first_position=7)
        code, reason, delay = self.script.pop(0)
        status = status_pb2.Status(code=code.value[0], message="scripted")
        details: List[Any] = []
        if reason:
            details.append(error_details_pb2.ErrorInfo(reason=reason, domain="aethyr.eventstore"))
        if delay:
            retry = error_details_pb2.RetryInfo()
            retry.retry_delay.FromMilliseconds(int(delay * 1000))
            details.append(retry)
        for detail in details:
            packed = any_pb2.Any()
            packed.Pack(detail)
            status.details.append(packed)
        context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
        context.abort(code, "scripted")


class RetryTest(unittest.TestCase):
    def serve(self, *script: Tuple[Any, str, float], credentials: Any = None) -> Tuple[Scripted, str]:
        handler = Scripted(*script)
        server = grpc.server(futures.ThreadPoolExecutor(4))
        server.add_generic_rpc_handlers((handler,))
        where = "127.0.0.1:0"
        port = server.add_secure_port(where, credentials) if credentials else server.add_insecure_port(where)
        server.start()
        self.addCleanup(lambda: server.stop(0).wait())
        return handler, f"127.0.0.1:{port}"

    def test_what_is_retried(self) -> None:
        Code = grpc.StatusCode
        handler, address = self.serve(
            (Code.UNAVAILABLE, "STARTING", 0.05), (Code.UNAVAILABLE, "", 0),
            (Code.UNKNOWN, "OUTCOME_UNKNOWN", 0), (Code.CANCELLED, "", 0),
            (Code.ABORTED, "CONTENTION", 0), (Code.RESOURCE_EXHAUSTED, "SHARE", 0.3),
        )
        with aethyr.Client(f"aethyr://secret@{address}") as client:
            begin = time.monotonic()
            answer = client.append(aethyr.NewEvent("E", None, "a", "A"))
            self.assertGreaterEqual(time.monotonic() - begin, 0.35)
        self.assertEqual(answer.first_position, 7)
        self.assertEqual(len(handler.requests), 7)
        self.assertEqual(len({request.events[0].event_id for request in handler.requests}), 1)
        self.assertEqual({each["authorization"] for each in handler.metadata}, {"Bearer secret"})

    def test_what_is_not_retried(self) -> None:
        Code = grpc.StatusCode
        for code, reason, kind in (
            (Code.RESOURCE_EXHAUSTED, "METADATA_BYTES", aethyr.ResourceExhausted),
            (Code.FAILED_PRECONDITION, "FENCED", aethyr.AethyrError),
            (Code.UNAUTHENTICATED, "BAD_CREDENTIALS", aethyr.Unauthenticated),
            (Code.PERMISSION_DENIED, "NOT_ALLOWED", aethyr.NotAllowed),
            (Code.DATA_LOSS, "DAMAGED", aethyr.Damaged),
            (Code.INTERNAL, "INTERNAL", aethyr.AethyrError),
        ):
            handler, address = self.serve((code, reason, 0))
            with aethyr.Client(f"aethyr://{address}") as client, self.assertRaises(kind) as raised:
                client.append(aethyr.NewEvent("E", None, "a", "A"))
            self.assertIs(type(raised.exception), kind)
            self.assertEqual((raised.exception.code, raised.exception.reason), (code, reason))
            self.assertEqual(len(handler.requests), 1)

    def test_deadline_has_the_last_error_as_cause(self) -> None:
        for code, reason, unknown in (
            (grpc.StatusCode.RESOURCE_EXHAUSTED, "DISK_FULL", False),
            (grpc.StatusCode.UNKNOWN, "OUTCOME_UNKNOWN", True),
        ):
            _, address = self.serve((code, reason, 5.0))
            with aethyr.Client(f"aethyr://{address}?deadline=1s") as client:
                with self.assertRaises(aethyr.DeadlineExceeded) as raised:
                    client.append(aethyr.NewEvent("E", None, "a", "A"))
            cause: Any = raised.exception.__cause__
            self.assertEqual((cause.reason, cause.retry_after), (reason, 5.0))
            self.assertEqual(raised.exception.outcome_unknown, unknown)

    @unittest.skipUnless(shutil.which("openssl"), "there is no openssl")
    def test_tls(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            ca, key, token = (os.path.join(folder, name) for name in ("ca.pem", "key.pem", "token"))
            command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
            command += f" -subj /CN=store -addext subjectAltName=DNS:store.example -keyout {key} -out {ca}"
            subprocess.run(command.split(), check=True, capture_output=True)
            pathlib.Path(token).write_text("secret\nsha256: …\n", encoding="utf-8")
            pair = pathlib.Path(key).read_bytes(), pathlib.Path(ca).read_bytes()
            handler, address = self.serve(credentials=grpc.ssl_server_credentials([pair]))
            event = aethyr.NewEvent("E", None, "a", "A")
            right = f"aethyr://{address}?ca={ca}&server_name=store.example&token_file={token}"
            with aethyr.Client(right) as client:
                client.append(event)
            self.assertEqual(handler.metadata[0]["authorization"], "Bearer secret")
            for wrong in (f"ca={ca}", "tls=on"):
                wrong = f"aethyr://{address}?{wrong}&deadline=1s"
                with aethyr.Client(wrong) as client, self.assertRaises(aethyr.DeadlineExceeded):
                    client.append(event)
            self.assertEqual(len(handler.requests), 1)

    def test_next_host(self) -> None:
        handler, address = self.serve()
        with aethyr.Client(f"aethyr://127.0.0.1:1,{address}") as client:
            client.append(aethyr.NewEvent("E", None, "a", "A"))
            client.append(aethyr.NewEvent("E", None, "a", "A"))
        self.assertEqual(len(handler.requests), 2)

    def test_close_ends_a_wait(self) -> None:
        _, address = self.serve((grpc.StatusCode.UNAVAILABLE, "STARTING", 10.0))
        client = aethyr.Client(f"aethyr://{address}")
        threading.Timer(0.3, client.close).start()
        begin = time.monotonic()
        with self.assertRaisesRegex(aethyr.AethyrError, "closed"):
            client.append(aethyr.NewEvent("E", None, "a", "A"))
        self.assertLess(time.monotonic() - begin, 5)

    def test_coroutine_functions_need_the_asyncio_client(self) -> None:
        async def waits() -> None:
            await asyncio.sleep(0)

        with self.assertRaisesRegex(RuntimeError, "AsyncClient"):
            from aethyr_event_store._transport import run

            run(waits())

    def test_unknown_reasons_are_the_base_class(self) -> None:
        error = mock.Mock()
        error.code.return_value = grpc.StatusCode.FAILED_PRECONDITION
        error.details.return_value = "new"
        error.trailing_metadata.return_value = None
        self.assertIs(type(errors.from_rpc(error)), aethyr.AethyrError)


class ServiceTest(unittest.TestCase):
    service: LocalService

    @classmethod
    def setUpClass(cls) -> None:
        cls.service = LocalService().start()
        cls.addClassCleanup(cls.service.stop)

    def test_readme(self) -> None:
        text = (HERE / "README.md").read_text(encoding="utf-8")
        blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        self.assertGreater(len(blocks), 8)
        script = "\n".join(blocks).replace("127.0.0.1:50051", self.service.address)
        with tempfile.TemporaryDirectory() as folder:
            self.run_script(["-c", script], folder)

    def test_example(self) -> None:
        program = str(HERE / "examples" / "quest_game.py")
        output = self.run_script([program, self.service.connection_string], str(HERE))
        self.assertIn("1 QuestOffered {'name': 'The Lost Sword'}\n2 QuestAccepted", output)
        self.assertIn("GameObjectContainerUpdated by alice", output)

    def run_script(self, arguments: List[str], folder: str) -> str:
        environment = {**os.environ, "PYTHONPATH": str(HERE), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, *arguments]
        more: Any = {"capture_output": True, "text": True, "timeout": 60}
        done = subprocess.run(command, cwd=folder, env=environment, **more)
        self.assertEqual(done.returncode, 0, done.stderr)
        return str(done.stdout)

    def test_asyncio_cancellation_reaches_the_caller(self) -> None:
        async def main() -> None:
            async with aethyr.AsyncClient(self.service.connection_string) as client:
                none = aethyr.Filter(event_types=["None"])
                async with client.subscribe("s", aethyr.MemoryCheckpoints(), none) as each:
                    with self.assertRaises(asyncio.TimeoutError):
                        await asyncio.wait_for(each.__anext__(), 0.3)

        asyncio.run(main())

    def test_an_iterator_that_is_left(self) -> None:
        with self.service.client() as client:
            client.append([aethyr.NewEvent("E", {"n": n}, "left", "L") for n in range(500)])
            for event in client.read_all(filter=aethyr.Filter(aggregate_types=["L"])):
                break
            self.assertEqual(event.data, {"n": 0})
            self.assertEqual(len(client.load("left").events), 500)


class ProgramTest(unittest.TestCase):
    def test_a_missing_program_says_how_to_get_it(self) -> None:
        with mock.patch.dict(os.environ, {"PATH": "", "AETHYR_EVENT_STORE": ""}):
            with self.assertRaisesRegex(FileNotFoundError, "cargo build --release"):
                LocalService()

    def test_a_program_that_does_not_start(self) -> None:
        with self.assertRaisesRegex(RuntimeError, "does not start"):
            LocalService("/bin/false").start()


if __name__ == "__main__":
    unittest.main()
