#!/usr/bin/env python3
"""Runs what the conformance suite plays against: ImmuDB, the service and a TCP proxy in front of it.

This file owns the processes, the proxy and the control API. It knows nothing of cases: see README.md.
Python 3.9 or later, standard library only.
"""

import argparse
import http.server
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

SNAPSHOT_THRESHOLD = 5
PATIENCE = 60.0  # Seconds for a process to become ready.
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADERS = 1

# Programs that were started, to be ended in any case.
started = []


class Failed(Exception):
    """A control command could not be done."""


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start(arguments, folder, log_name):
    """Starts a program without settings of the caller in its environment."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("AETHYR_", "IMMUDB_"))
    }
    with open(os.path.join(folder, log_name), "ab") as log:
        process = subprocess.Popen(
            arguments, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    started.append(process)
    return process


def end(process, by, patience=30.0):
    """Ends a process with a signal, and waits for it."""
    if process is None or process.poll() is not None:
        return
    process.send_signal(by)
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def accepts(port):
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    except OSError:
        return False


def tail(folder, name):
    with open(os.path.join(folder, name), "rb") as log:
        return log.read()[-2000:].decode("utf-8", "replace")


class ImmuDb:
    """ImmuDB with a folder of its own, always on the same port."""

    def __init__(self, program, folder):
        self.program, self.folder, self.port = program, folder, free_port()
        self.process = None

    def start(self):
        if self.process is not None and self.process.poll() is None:
            return
        arguments = [self.program, "--dir", os.path.join(self.folder, "immudb"), "--address", "127.0.0.1"]
        arguments += ["--port", str(self.port), "--pgsql-server=false", "--web-server=false"]
        self.process = start(arguments + ["--metrics-server=false"], self.folder, "immudb.log")
        until = time.monotonic() + PATIENCE
        while not accepts(self.port):
            if self.process.poll() is not None or time.monotonic() > until:
                raise Failed("ImmuDB does not start:\n" + tail(self.folder, "immudb.log"))
            time.sleep(0.05)

    def kill(self):
        end(self.process, signal.SIGKILL)


class Service:
    """The service with a storage of its own, always on the same port."""

    def __init__(self, program, folder, immudb):
        self.program, self.folder, self.port, self.immudb = program, folder, free_port(), immudb
        self.process = None
        lines = ["server:", "  listen: 127.0.0.1:%d" % self.port, "  shutdown_grace: 2.0"]
        lines += ["event_sourcing:", "  enabled: true", "  snapshot_threshold: %d" % SNAPSHOT_THRESHOLD]
        lines += ["limits:", "  disk_free_min: 0", "world:", "  player_names: { unique: exact }"]
        if immudb:
            lines += ["immudb:", "  address: 127.0.0.1", "  port: %d" % immudb.port]
            lines += ["  retry_delay: 0.2", "  retry_delay_max: 0.5"]
        os.mkdir(os.path.join(folder, "conf"))
        with open(os.path.join(folder, "conf", "server.yml"), "w", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")

    def ask(self, *arguments):
        """Runs a command of the program against the service: its exit code and its output."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("AETHYR_")}
        done = subprocess.run(
            [self.program, arguments[0], "--address", "127.0.0.1:%d" % self.port, *arguments[1:]],
            cwd=self.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=20,
        )
        return done.returncode, done.stdout.decode("utf-8", "replace")

    def start(self):
        if self.process is None or self.process.poll() is not None:
            self.process = start([self.program, "serve"], self.folder, "service.log")
        until = time.monotonic() + PATIENCE
        while True:
            code, output = (1, "") if not accepts(self.port) else self.ask("health")
            if code == 0:
                return
            if self.process.poll() is not None or time.monotonic() > until:
                log = tail(self.folder, "service.log")
                raise Failed("the service does not start: %s\n%s" % (output, log))
            time.sleep(0.05)

    def stop(self, by):
        end(self.process, by)

    def wait_connected(self):
        if not self.immudb:
            raise Failed("there is no ImmuDB")
        until = time.monotonic() + PATIENCE
        output = ""
        while time.monotonic() < until:
            code, output = self.ask("stats", "--json")
            stats = json.loads(output) if code == 0 else {}
            if stats.get("state") == "STATE_CONNECTED" and not stats.get("pending_events"):
                return
            time.sleep(0.1)
        raise Failed("the service is not connected to ImmuDB: " + output)


class Frames:
    """Finds the frame headers in one direction of an HTTP/2 connection."""

    def __init__(self, skip):
        self.skip = skip  # Bytes that belong to no header: the preface, then payloads.
        self.header = b""

    def feed(self, data):
        """Yields (offset of the header's end in data, type, stream) for each header that ends in data."""
        at = 0
        while at < len(data):
            if self.skip:
                step = min(self.skip, len(data) - at)
                self.skip -= step
                at += step
                continue
            step = min(9 - len(self.header), len(data) - at)
            self.header += data[at : at + step]
            at += step
            if len(self.header) == 9:
                header, self.header = self.header, b""
                self.skip = int.from_bytes(header[:3], "big")
                yield at, header[3], int.from_bytes(header[5:], "big") & 0x7FFFFFFF


class Connection:
    """One connection through the proxy: a thread for each direction."""

    def __init__(self, proxy, client, server):
        self.proxy, self.client, self.server = proxy, client, server
        self.highest = 0  # The highest stream that the client has opened.
        self.target = None  # The stream whose answer is to be dropped.

    def run(self):
        threading.Thread(target=self.from_client, daemon=True).start()
        threading.Thread(target=self.from_server, daemon=True).start()

    def from_client(self):
        frames = Frames(len(PREFACE))
        try:
            while True:
                data = self.client.recv(65536)
                if not data:
                    break
                for _, kind, stream in frames.feed(data):
                    if kind == HEADERS and stream > self.highest:
                        self.highest = stream
                        if self.proxy.disarm():
                            self.target = stream
                self.server.sendall(data)
        except OSError:
            pass
        self.close()

    def from_server(self):
        frames = Frames(0)
        try:
            while True:
                data = self.server.recv(65536)
                if not data:
                    break
                for _, kind, stream in frames.feed(data):
                    if kind == HEADERS and stream == self.target:
                        return self.close()
                self.proxy.passing.wait()
                allowed, cut = self.proxy.spend(len(data))
                self.client.sendall(data[:allowed])
                if cut:
                    return self.close()
        except OSError:
            pass
        self.close()

    def close(self):
        for end_point in (self.client, self.server):
            try:
                end_point.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            end_point.close()
        self.proxy.forget(self)


class Proxy:
    """Listens on one port of loopback and passes bytes to the service."""

    def __init__(self, target_port):
        self.target_port = target_port
        self.lock = threading.Lock()
        self.connections = set()
        self.armed = False
        self.bytes_left = None
        self.passing = threading.Event()
        self.passing.set()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.address = "127.0.0.1:%d" % self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            client, _ = self.listener.accept()
            try:
                server = socket.create_connection(("127.0.0.1", self.target_port), 5)
            except OSError:
                client.close()
                continue
            for end_point in (client, server):
                end_point.settimeout(None)
                end_point.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = Connection(self, client, server)
            with self.lock:
                self.connections.add(connection)
            connection.run()

    def disarm(self):
        """True for the first request after `cut_after_request`."""
        with self.lock:
            was, self.armed = self.armed, False
            return was

    def arm(self):
        with self.lock:
            self.armed = True

    def limit(self, count):
        """After this many bytes from the service, the connection that carries the last of them is closed."""
        with self.lock:
            self.bytes_left = count

    def spend(self, count):
        """How many of these bytes may pass, and whether the connection is closed then."""
        with self.lock:
            if self.bytes_left is None:
                return count, False
            if count < self.bytes_left:
                self.bytes_left -= count
                return count, False
            allowed, self.bytes_left = self.bytes_left, None
            return allowed, True

    def forget(self, connection):
        with self.lock:
            self.connections.discard(connection)

    def cut(self):
        with self.lock:
            connections = list(self.connections)
        for connection in connections:
            connection.close()


class Harness:
    """Everything together, and the control commands."""

    def __init__(self, options, folder):
        self.immudb = ImmuDb(os.path.abspath(options.immudb), folder) if options.immudb else None
        if self.immudb:
            self.immudb.start()
        self.service = Service(os.path.abspath(options.service), folder, self.immudb)
        self.service.start()
        if self.immudb:
            self.service.wait_connected()
        self.proxy = Proxy(self.service.port)
        # Connections are accepted by the kernel, and nobody ever answers.
        self.silent = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.lock = threading.Lock()

    def control(self, request):
        command, *arguments = str(request.get("control", "")).split()[:2] or [""]
        if command == "info":
            silent = "127.0.0.1:%d" % self.silent.getsockname()[1]
            return {"address": self.proxy.address, "silent": silent, "immudb": self.immudb is not None}
        commands = {
            "wait_connected": self.service.wait_connected,
            "kill_service": lambda: self.service.stop(signal.SIGKILL),
            "stop_service": lambda: self.service.stop(signal.SIGTERM),
            "start_service": self.service.start,
            "cut": self.proxy.cut,
            "cut_after_request": self.proxy.arm,
            "cut_after_bytes": lambda: self.proxy.limit(int(arguments[0])),
            "pause": lambda: time.sleep(int(arguments[0]) / 1000),
            "hold": self.proxy.passing.clear,
            "release": self.proxy.passing.set,
        }
        if self.immudb:
            commands.update(kill_immudb=self.immudb.kill, start_immudb=self.immudb.start)
        if command not in commands:
            known = ", ".join(["info", *sorted(commands)])
            raise Failed("unknown control command %r; known: %s" % (command, known))
        with self.lock:
            commands[command]()
        return {}


def serve(harness):
    """Serves the control API on a free port of loopback. Returns its URL."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            try:
                length = int(self.headers.get("content-length") or 0)
                status, answer = 200, harness.control(json.loads(self.rfile.read(length) or b"{}"))
            except Exception as error:
                status, answer = 500, {"error": str(error) or type(error).__name__}
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return "http://127.0.0.1:%d" % server.server_address[1]


class Ended(BaseException):
    """A signal asked to end."""


def ended(*_):
    raise Ended


def run(options, command, folder):
    harness = Harness(options, folder)
    url = serve(harness)
    print(json.dumps({"control": url, "address": harness.proxy.address}), flush=True)
    if command:
        child = subprocess.Popen(command, env=dict(os.environ, AETHYR_CONFORMANCE=url))
        try:
            return child.wait()
        finally:
            end(child, signal.SIGTERM, 5.0)
    while sys.stdin.buffer.read(4096):
        pass
    return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--service", metavar="PATH", help="the program aethyr-event-store")
    parser.add_argument("--immudb", metavar="PATH", help="the program immudb; without it there is no ImmuDB")
    parser.add_argument("--keep", action="store_true", help="keep the folder with the logs, and print it")
    arguments, command = sys.argv[1:], []
    if "--" in arguments:
        at = arguments.index("--")
        arguments, command = arguments[:at], arguments[at + 1 :]
    options = parser.parse_args(arguments)
    service = options.service or os.environ.get("AETHYR_EVENT_STORE") or "aethyr-event-store"
    options.service = shutil.which(service)
    if not options.service:
        parser.error("there is no program %s: give --service PATH, or put it into PATH" % service)
    immudb = options.immudb
    options.immudb = immudb and shutil.which(immudb)
    if immudb and not options.immudb:
        parser.error("there is no program %s" % immudb)
    signal.signal(signal.SIGTERM, ended)
    folder = tempfile.mkdtemp(prefix="aethyr-conformance-")
    code = 1
    try:
        code = run(options, command, folder)
    except (Ended, KeyboardInterrupt):
        pass
    except Failed as error:
        print("harness: %s" % error, file=sys.stderr)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        for process in reversed(started):
            end(process, signal.SIGTERM, 10.0)
        if options.keep:
            print("kept: " + folder, file=sys.stderr)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
