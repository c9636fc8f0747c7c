#!/usr/bin/env python3
"""Plays the conformance suite (../conformance) with this client: blocking, or with --asyncio for asyncio.

Runs against the harness at AETHYR_CONFORMANCE. Arguments: files of cases; without, all.
"""

from __future__ import annotations

import asyncio
import copy
import inspect
import json
import os
import pathlib
import re
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from typing import Any, Callable, Dict, List, Optional, Union

import grpc
from google.protobuf import json_format, message
from google.protobuf.descriptor import FieldDescriptor

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import aethyr_event_store as aethyr  # noqa: E402
from aethyr_event_store.protos import events as event_messages  # noqa: E402
from aethyr_event_store.protos import world  # noqa: E402

CASES = pathlib.Path(__file__).resolve().parent.parent / "conformance"
BESIDE = ("answer", "error", "as", "client", "deadline_ms", "repeat", "background")
AnyClient = Union[aethyr.Client, aethyr.AsyncClient]


class Mismatch(Exception):
    """A step did not do what the case says."""


def control(command: str) -> Dict[str, Any]:
    body = json.dumps({"control": command}).encode()
    request = urllib.request.Request(os.environ["AETHYR_CONFORMANCE"], body)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=180) as answer:
            return dict(json.load(answer))
    except urllib.error.HTTPError as error:
        raise Mismatch(f"control {command}: {error.read().decode()}") from None


# Values: placeholders, the plain form of messages, comparison.


def replaced(value: Any, names: Dict[str, Any]) -> Any:
    """The value with all placeholders replaced."""
    if isinstance(value, dict):
        return {replaced(key, names): replaced(each, names) for key, each in value.items()}
    if isinstance(value, list):
        return [replaced(each, names) for each in value]
    if not isinstance(value, str):
        return value

    def look(name: str) -> Any:
        letter = re.fullmatch(r"(.):(\d+)", name)
        if letter:
            return letter[1] * int(letter[2])
        found: Any = names
        for part in name.split("."):
            found = found[int(part)] if isinstance(found, list) else found[part]
        return found

    whole = re.fullmatch(r"\$\{([^}]*)\}", value)
    if whole:
        return look(whole[1])
    return re.sub(r"\$\{([^}]*)\}", lambda match: str(look(match[1])), value)


def plain_data(data: Any) -> Any:
    return {"binary": data.hex()} if isinstance(data, bytes) else data


def real_data(data: Any) -> Any:
    return bytes.fromhex(data["binary"]) if isinstance(data, dict) and set(data) == {"binary"} else data


def plain(value: Any) -> Any:
    """An answer in the form of the cases."""
    if isinstance(value, (aethyr.Event, aethyr.Snapshot)):
        return {**plain(value.message), "data": plain_data(value.data)}
    if isinstance(value, aethyr.Aggregate):
        snapshot = value.snapshot and plain(value.snapshot)
        return {
            "aggregate_id": value.aggregate_id,
            "aggregate_type": value.aggregate_type,
            "last_sequence": value.last_sequence,
            "snapshot": snapshot,
            "events": [plain(event) for event in value.events],
        }
    if isinstance(value, message.Message):
        if value.DESCRIPTOR.file.package == "google.protobuf":
            return json_format.MessageToDict(value)
        return {field.name: plain_field(field, part) for field, part in value.ListFields()}
    return value


def plain_field(field: FieldDescriptor, value: Any) -> Any:
    def one(part: Any) -> Any:
        if isinstance(part, bytes):
            return part.hex()
        if field.enum_type is not None:
            return field.enum_type.values_by_number[part].name
        return plain(part)

    if hasattr(value, "items") and not isinstance(value, message.Message):
        return {str(key): plain(part) for key, part in value.items()}
    if hasattr(value, "append") and not isinstance(value, (str, bytes)):
        return [one(part) for part in value]
    return one(value)


def compare(expected: Any, actual: Any, where: str = "answer") -> None:
    if expected == "$any":
        if actual in (None, 0, "", False, [], {}):
            raise Mismatch(f"{where} is {actual!r}, the default value")
    elif isinstance(expected, dict) and "$length" in expected:
        actual = actual or []
        if len(actual) != expected["$length"]:
            raise Mismatch(f"{where} has {len(actual)} elements, expected {expected['$length']}")
        if "$first" in expected:
            compare(expected["$first"], actual[0], where + "[0]")
        if "$last" in expected:
            compare(expected["$last"], actual[-1], f"{where}[{len(actual) - 1}]")
        counted = expected.get("$counts")
        for index in range(1, len(actual) if counted else 0):
            if actual[index][counted] != actual[index - 1][counted] + 1:
                raise Mismatch(f"{where}[{index}].{counted} is {actual[index][counted]}: not one more")
    elif isinstance(expected, dict):
        if not expected and not actual:
            return
        if not isinstance(actual, dict):
            raise Mismatch(f"{where} is {actual!r}, expected an object")
        for key, value in expected.items():
            compare(value, actual.get(key), f"{where}.{key}")
    elif isinstance(expected, list):
        actual = actual or []
        if not isinstance(actual, list) or len(actual) != len(expected):
            raise Mismatch(f"{where} has other elements: {str(actual)[:400]}, expected {len(expected)}")
        for index, value in enumerate(expected):
            compare(value, actual[index], f"{where}[{index}]")
    elif expected in (None, 0, "", False):
        if actual not in (None, 0, "", False, [], {}):
            raise Mismatch(f"{where} is {actual!r}, expected {expected!r}")
    elif expected != actual or isinstance(expected, bool) != isinstance(actual, bool):
        raise Mismatch(f"{where} is {actual!r}, expected {expected!r}")


def plain_error(error: aethyr.AethyrError) -> Dict[str, Any]:
    fields = {"code": error.code.name, "type": type(error).__name__, "message": str(error)}
    for name in "reason domain expected actual aggregate_id event_id right rule limit id name".split():
        fields[name] = getattr(error, name, "")
    fields["outcome_unknown"] = getattr(error, "outcome_unknown", False)
    fields["fields"] = [violation.field for violation in getattr(error, "violations", ())]
    return fields


def compare_error(expected: Dict[str, Any], actual: Dict[str, Any]) -> None:
    for key, value in expected.items():
        if key == "field":
            if value not in actual["fields"]:
                raise Mismatch(f"error is about {actual['fields']}, expected {value}: {actual['message']}")
        elif key == "message_has":
            if value not in actual["message"]:
                raise Mismatch(f"error has not the text {value!r}: {actual['message']}")
        elif key == "message_lacks":
            if value in actual["message"]:
                raise Mismatch(f"error has the text {value!r}")
        elif value != actual[key]:
            raise Mismatch(f"error.{key} is {actual[key]!r}, expected {value!r}: {actual['message']}")


async def waited(value: Any) -> Any:
    """The result of a call of either client."""
    return await value if inspect.isawaitable(value) else value


async def collected(items: Any) -> List[Any]:
    return [item async for item in items] if hasattr(items, "__aiter__") else list(items)


class Loop:
    """Where the work of steps runs. With asyncio: all of it in one event loop."""

    def __init__(self, with_asyncio: bool) -> None:
        self.loop: Optional[asyncio.AbstractEventLoop] = None
        if with_asyncio:
            self.loop = asyncio.new_event_loop()
            threading.Thread(target=self.loop.run_forever, daemon=True).start()

    def run(self, work: Any) -> Any:
        if self.loop:
            return asyncio.run_coroutine_threadsafe(work, self.loop).result()
        return asyncio.run(work)


class Background:
    """Something that runs beside the steps."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.answer: Any = None
        self.error: Optional[BaseException] = None
        self._work = work
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.answer = self._work()
        except BaseException as error:
            self.error = error

    def join(self) -> Any:
        self._thread.join(120)
        if self._thread.is_alive():
            raise Mismatch("what runs in the background does not end")
        if self.error:
            raise self.error
        return self.answer


class Subscribed:
    """A subscription of a case, with all events that have arrived."""

    def __init__(self) -> None:
        self.events: List[Any] = []
        self.subscription: Any = None
        self.loop: Optional[Background] = None


class Case:
    """One run of one case."""

    def __init__(self, loop: Loop, address: str, silent: str) -> None:
        self.loop, self.address = loop, address
        self.names: Dict[str, Any] = {"run": uuid.uuid4().hex[:12], "i": 1}
        self.names.update(address=address, dead="127.0.0.1:1", silent=silent)
        self.clients: Dict[str, AnyClient] = {}
        self.background: Dict[str, Background] = {}
        self.subscriptions: Dict[str, Subscribed] = {}
        self.checkpoints = aethyr.MemoryCheckpoints()
        self.lock = threading.Lock()

    def make(self, address: str) -> AnyClient:
        return aethyr.AsyncClient(address) if self.loop.loop else aethyr.Client(address)

    def client(self, name: str) -> AnyClient:
        with self.lock:
            if name not in self.clients:
                self.clients[name] = self.make("aethyr://" + self.address)
            return self.clients[name]

    def end(self) -> None:
        for name in list(self.subscriptions):
            self.unsubscribe(name)
        for work in self.background.values():
            work._thread.join(60)
        for client in self.clients.values():
            self.loop.run(waited(client.close()))

    # Steps.

    def play(self, step: Dict[str, Any]) -> None:
        if step.get("background"):
            self.background[step["background"]] = Background(lambda: self.repeat(step))
        else:
            self.repeat(step)

    def repeat(self, step: Dict[str, Any]) -> Any:
        answer = None
        for number in range(1, step.get("repeat", 1) + 1):
            names = {**self.names, "i": number}
            answer = self.once(replaced(step, names), "background" in step)
        return answer

    def once(self, step: Dict[str, Any], in_background: bool) -> Any:
        (operation,) = set(step) - set(BESIDE)
        arguments = step[operation]
        expected = step.get("error")
        try:
            answer = self.operate(operation, arguments, step)
        except aethyr.AethyrError as error:
            if in_background and expected is None:
                raise
            fields = plain_error(error)
            if expected is None:
                raise Mismatch(f"{fields['type']}: {error}") from error
            compare_error(expected, fields)
            answer = fields
        except grpc.RpcError as error:
            raise Mismatch(f"a bare error of gRPC: {error}") from error
        else:
            if expected is not None:
                raise Mismatch(f"no error, but the answer {str(answer)[:400]}")
            if "answer" in step:
                compare(step["answer"], answer)
        if "as" in step:
            self.names[step["as"]] = answer
        return answer

    def operate(self, operation: str, arguments: Any, step: Dict[str, Any]) -> Any:
        if operation == "control":
            return control(arguments)
        if operation == "join":
            return self.background.pop(arguments).join()
        if operation == "connect":
            client = self.make(arguments)
            with self.lock:
                self.clients[step.get("client", "a")] = client
            options = client.options
            return {
                "text": str(options),
                "hosts": list(options.hosts),
                "tls": options.tls,
                "deadline_ms": round(options.deadline * 1000),
            }
        if operation == "received":
            return self.received(arguments, step.get("deadline_ms", 20000) / 1000)
        if operation == "unsubscribe":
            return self.unsubscribe(arguments["name"])
        client = self.client(step.get("client", "a"))
        if "deadline_ms" in step:
            client = client.with_deadline(step["deadline_ms"] / 1000)
        return self.loop.run(getattr(self, "do_" + operation)(client, **arguments))

    # Subscriptions.

    async def do_subscribe(
        self, client: AnyClient, name: str, filter: Any = None, checkpoint: Any = None
    ) -> Dict[str, Any]:
        subscribed = self.subscriptions.setdefault(name, Subscribed())
        if checkpoint:
            place = aethyr.Checkpoint(checkpoint["position"], bytes.fromhex(checkpoint.get("chain_hash", "")))
            self.checkpoints.save(name, place)
        subscribed.subscription = client.subscribe(name, self.checkpoints, matching(filter))
        subscription: Any = subscribed.subscription

        async def follow_async() -> None:
            async for event in subscription:
                subscribed.events.append(plain(event))

        def follow() -> None:
            for event in subscription:
                subscribed.events.append(plain(event))

        loop = self.loop
        subscribed.loop = Background(lambda: loop.run(follow_async()) if loop.loop else follow())
        return {}

    def received(self, arguments: Dict[str, Any], patience: float) -> Dict[str, Any]:
        subscribed, count = self.subscriptions[arguments["name"]], arguments["count"]
        until = time.monotonic() + patience
        while len(subscribed.events) < count:
            if subscribed.loop and subscribed.loop.error:
                raise subscribed.loop.error
            if time.monotonic() > until:
                raise Mismatch(f"{len(subscribed.events)} events arrived, expected {count}")
            time.sleep(0.01)
        time.sleep(arguments.get("settle_ms", 0) / 1000)
        return {"events": list(subscribed.events)}

    def unsubscribe(self, name: str) -> Dict[str, Any]:
        subscribed = self.subscriptions[name]
        if subscribed.loop:
            time.sleep(0.05)  # The loop asks for the next event.
            self.loop.run(waited(subscribed.subscription.close()))
            subscribed.loop._thread.join(30)
            if subscribed.loop._thread.is_alive():
                raise Mismatch("the subscription does not end")
            subscribed.loop = None
        return {}

    # Calls.

    async def do_append(self, client: AnyClient, events: Any, expect: Any = "any", times: int = 1) -> Any:
        return plain(await waited(client.append(new_events(events * times), expect)))

    async def do_append_many(
        self, client: AnyClient, events: Any, times: int = 1, **arguments: Any
    ) -> Any:
        work = client.append_many(new_events(events * times), **arguments)
        return {"calls": [plain(each) for each in await waited(work)]}

    async def do_execute_many(
        self, client: AnyClient, commands: Any, times: int = 1, **arguments: Any
    ) -> Any:
        many = [copy.deepcopy(command) for command in commands * times]
        return {"calls": [plain(each) for each in await waited(client.execute_many(many, **arguments))]}

    async def do_close(self, client: AnyClient) -> Any:
        await waited(client.close())
        return {}

    async def do_load(
        self, client: AnyClient, id: str, from_snapshot: bool = False, schema_version: int = 0, **more: Any
    ) -> Any:
        version = schema_version if from_snapshot else None
        return plain(await waited(client.load(id, schema_version=version, **more)))

    async def do_load_many(
        self, client: AnyClient, ids: Any, from_snapshot: bool = False, schema_version: int = 0
    ) -> Any:
        version = schema_version if from_snapshot else None
        loaded = await waited(client.load_many(ids, schema_version=version))
        return {"aggregates": [plain(each) for each in loaded]}

    async def do_fold_count(self, client: AnyClient, id: str, schema_version: Optional[int] = None) -> Any:
        folded = await waited(client.fold(id, {"count": 0}, counted, schema_version=schema_version))
        return {"state": folded.state, "sequence": folded.sequence}

    async def do_update(
        self,
        client: AnyClient,
        id: str,
        aggregate_type: str,
        events: Any,
        race: Any = None,
        snapshot_version: Optional[int] = None,
    ) -> Any:
        decisions = []

        async def decide_async(state: Any, sequence: int) -> Any:
            decisions.append(sequence)
            if race and len(decisions) == 1:
                await waited(self.client("race of the update").append(new_events(race)))
            return new_events(events)

        def decide(state: Any, sequence: int) -> Any:
            decisions.append(sequence)
            if race and len(decisions) == 1:
                self.client("race of the update").append(new_events(race))
            return new_events(events)

        more: Dict[str, Any] = {}
        if snapshot_version is not None:
            more = {"initial": {"count": 0}, "apply": counted, "schema_version": snapshot_version}
            more["snapshot"] = lambda state: state
        function: Any = decide_async if self.loop.loop else decide
        answer = await waited(client.update(id, function, aggregate_type=aggregate_type, **more))
        return {**(plain(answer) if answer else {}), "decisions": len(decisions)}

    async def do_save_snapshot(
        self, client: AnyClient, id: str, sequence: int, data: Any, schema_version: int = 0
    ) -> Any:
        work = client.save_snapshot(id, sequence, real_data(data), schema_version=schema_version)
        return plain(await waited(work))

    async def do_load_snapshot(self, client: AnyClient, id: str) -> Any:
        snapshot = await waited(client.load_snapshot(id))
        return {"snapshot": plain(snapshot), "aggregate_type": snapshot.aggregate_type}

    async def do_list_aggregates(self, client: AnyClient, **arguments: Any) -> Any:
        return {"aggregates": [plain(each) for each in await collected(client.list_aggregates(**arguments))]}

    async def do_read_all(self, client: AnyClient, filter: Any = None, **arguments: Any) -> Any:
        events = await collected(client.read_all(filter=matching(filter), **arguments))
        return {"events": [plain(event) for event in events]}

    async def do_execute(self, client: AnyClient, commands: Any, **arguments: Any) -> Any:
        return plain(await waited(client.execute(copy.deepcopy(commands), **arguments)))

    async def do_get_game_object(self, client: AnyClient, id: str) -> Any:
        return {"game_object": plain(await waited(client.get_game_object(id)))}

    async def do_get_room(self, client: AnyClient, id: str) -> Any:
        return {"room": plain(await waited(client.get_room(id)))}

    async def do_get_player(self, client: AnyClient, id: str) -> Any:
        return {"player": plain(await waited(client.get_player(id)))}

    async def do_find_player(self, client: AnyClient, name: str) -> Any:
        return {"players": [plain(each) for each in await waited(client.find_player(name))]}

    async def do_list_game_objects(self, client: AnyClient, **arguments: Any) -> Any:
        listed = await collected(client.list_game_objects(**arguments))
        return {"game_objects": [plain(each) for each in listed]}

    async def do_list_contents(self, client: AnyClient, **arguments: Any) -> Any:
        return {"game_objects": [plain(each) for each in await collected(client.list_contents(**arguments))]}

    async def do_get_history(self, client: AnyClient, id: str, **arguments: Any) -> Any:
        return {"entries": [plain(each) for each in await collected(client.get_history(id, **arguments))]}

    async def do_stats(self, client: AnyClient) -> Any:
        return plain(await waited(client.stats()))


def counted(state: Any, event: aethyr.Event) -> Any:
    return {"count": state["count"] + 1}


def matching(filter: Any) -> Any:
    return json_format.ParseDict(filter, event_messages.Filter()) if filter else None


def new_events(events: List[Dict[str, Any]]) -> List[aethyr.NewEvent]:
    result = []
    for event in events:
        fields = dict(event)
        if "data" in fields:
            fields["data"] = real_data(fields["data"])
        if "occurred_at" in fields:
            time_message = event_messages.NewEvent()
            time_message.occurred_at.FromJsonString(fields["occurred_at"])
            fields["occurred_at"] = time_message.occurred_at
        result.append(aethyr.NewEvent(**fields))
    return result


def main(arguments: List[str]) -> int:
    with_asyncio = "--asyncio" in arguments
    files = [pathlib.Path(name) for name in arguments if name != "--asyncio"]
    files = files or sorted(CASES.glob("[0-9]*.json"))
    if "AETHYR_CONFORMANCE" not in os.environ:
        sys.exit("AETHYR_CONFORMANCE is not set: run this by ../conformance/harness.py -- COMMAND")
    info, loop = control("info"), Loop(with_asyncio)
    passed = skipped = 0
    for file in files:
        case = json.loads(file.read_text(encoding="utf-8"))
        title = case["title"]
        if "immudb" in case.get("needs", ()) and not info["immudb"]:
            print(f"skipped {title}: no ImmuDB", flush=True)
            skipped += 1
            continue
        run, number = Case(loop, info["address"], info["silent"]), 0
        try:
            for number, step in enumerate(case["steps"], 1):
                run.play(step)
            run.end()
            print(f"ok {title}", flush=True)
            passed += 1
        except Exception as error:
            why = str(error) if isinstance(error, Mismatch) else f"{type(error).__name__}: {error}"
            print(f"FAILED {title}: step {number}: {why}", flush=True)
            for command in ["release", "start_immudb"] if info["immudb"] else ["release"]:
                control(command)
            control("start_service")
            try:
                run.end()
            except Exception as again:
                print(f"  and at its end: {again}", flush=True)
    print(f"{len(files)} cases, {passed} passed" + (f", {skipped} skipped" if skipped else ""), flush=True)
    return 0 if passed + skipped == len(files) else 1


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(code)
