"""The rig: starts rows and clients on chosen CPUs, counts what they burn, ends what it started.

Proxy on one CPU, client and upstream on another, all on loopback. CPU time is read from /proc for the whole process
tree of a row, so a row pays for its helpers, too. Deliberately no statistics here: those are in `run`.
"""

import json
import os
import re
import select
import signal
import socket
import subprocess
import threading
import time
import urllib.request

import rows as inventory

HERE = os.path.dirname(os.path.abspath(__file__))
TICKS = os.sysconf("SC_CLK_TCK")


class Broken(Exception):
    """A row or a client did not do what the measurement needs."""


def fill(text, values):
    """Replaces @X@; twice, since a value may hold one."""
    for _ in range(2):
        for name, value in values.items():
            text = text.replace(f"@{name}@", str(value))
    return text


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def own_session():
    # Where the kernel shares CPU between sessions first (autogroup), a session of its own keeps a neighbour's build
    # from halving a measurement; BENCH_AUTOGROUP=-5 asks for more than a fair share.
    os.setsid()
    try:
        with open("/proc/self/autogroup", "w") as group:
            group.write(os.environ.get("BENCH_AUTOGROUP", "0"))
    except OSError:
        pass


class Process:
    """Something that was started and will be ended."""

    def __init__(self, command, cpu, folder, name, stdin=subprocess.DEVNULL, ready_line=False):
        self.log = os.path.join(folder, f"{name}.log")
        self.ready = None
        self.name = name
        with open(self.log, "wb") as log:
            self.child = subprocess.Popen(
                ["taskset", "-c", cpu, *command], cwd=folder, stdin=stdin, stderr=log,
                stdout=subprocess.PIPE if ready_line else log, preexec_fn=own_session)

    def until_line(self, seconds=60):
        """What follows READY on standard output."""
        end, held, pipe = time.monotonic() + seconds, b"", self.child.stdout
        while time.monotonic() < end:
            if select.select([pipe], [], [], 0.2)[0]:
                piece = os.read(pipe.fileno(), 65536)
                held += piece
                for line in held.split(b"\n")[:-1]:
                    if line.startswith(b"READY "):
                        # What else it says must not fill the pipe.
                        threading.Thread(target=self._drain, args=(pipe,), daemon=True).start()
                        return line[6:].decode().strip()
                if not piece:
                    break
        raise Broken(f"{self.name} did not say READY; {self.last_words()}")

    @staticmethod
    def _drain(pipe):
        while os.read(pipe.fileno(), 65536):
            pass

    def until_port(self, port, seconds=30):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.child.poll() is not None:
                break
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return
            except OSError:
                time.sleep(0.05)
        raise Broken(f"{self.name} does not accept on port {port}; {self.last_words()}")

    def last_words(self):
        with open(self.log, "rb") as log:
            return "it said: " + log.read().decode(errors="replace")[-600:]

    def tree(self):
        children = {}
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                try:
                    with open(f"/proc/{entry}/stat") as stat:
                        children.setdefault(int(stat.read().rsplit(")", 1)[1].split()[1]), []).append(int(entry))
                except OSError:
                    pass
        found, todo = [], [self.child.pid]
        while todo:
            pid = todo.pop()
            found.append(pid)
            todo += children.get(pid, [])
        return found

    def cpu(self):
        """User and system seconds of the tree so far."""
        user = system = 0
        for pid in self.tree():
            try:
                with open(f"/proc/{pid}/stat") as stat:
                    fields = stat.read().rsplit(")", 1)[1].split()
                user, system = user + int(fields[11]), system + int(fields[12])
            except OSError:
                pass
        return user / TICKS, system / TICKS

    def pss_kib(self):
        total = 0
        for pid in self.tree():
            try:
                with open(f"/proc/{pid}/smaps_rollup") as rollup:
                    total += int(re.search(r"^Pss:\s+(\d+)", rollup.read(), re.M).group(1))
            except (OSError, AttributeError):
                pass
        return total

    def end(self):
        if self.child.poll() is None:
            self.child.terminate()
            try:
                self.child.wait(5)
            except subprocess.TimeoutExpired:
                # Its own session is its own group: nothing else is in it.
                try:
                    os.killpg(self.child.pid, signal.SIGKILL)
                except OSError:
                    pass
                self.child.wait()
        if self.child.stdin:
            self.child.stdin.close()


class Running:
    """A row that serves."""

    def __init__(self, row, rig, way=inventory.CLEAR, prefix=(), overrides=None):
        self.way = way
        folder = os.path.join(rig.folder, re.sub(r"\W", "_", f"{row.name}_{way}") + ("_v" if prefix else ""))
        os.makedirs(folder, exist_ok=True)
        self.row, self.port, self.folder = row, free_port(), folder
        host, _, port = rig.upstream_address.rpartition(":")
        nofile = rig.nofile
        values = {**rig.values, **inventory.coming(row, way), **row.values, **(overrides or {}), "PORT": self.port, "DIR": folder, "UP": rig.upstream_address,
                  "UP_HOST": host, "UP_PORT": port, "NOFILE": nofile, "MAXCONN": max(1000, nofile // 2 - 100)}
        for name, template in row.files.items():
            with open(os.path.join(HERE, "conf", template)) as source, open(os.path.join(folder, name), "w") as target:
                target.write(fill(source.read(), values))
        command = [*prefix, *(fill(word, values) for word in row.command)]
        self.process = Process(command, rig.proxy_cpu, folder, "row", ready_line=row.ready == "line")
        rig.started.append(self.process)
        self.admin = None
        if row.ready == "line":
            said = self.process.until_line(600 if prefix else 120)
            if said.startswith("{"):
                ready = json.loads(said)
                self.admin = ready.get("admin")
                self.port = int(next(iter(ready["listeners"].values())).rpartition(":")[2])
        else:
            self.process.until_port(self.port, 600 if prefix else 30)

    def log_lines(self):
        """Lines of the access log so far; `None`: the row writes none."""
        path = os.path.join(self.folder, "access.log")
        if not os.path.exists(path):
            return None
        with open(path, "rb") as log:
            return sum(piece.count(b"\n") for piece in iter(lambda: log.read(1 << 20), b""))

    def log_reaches(self, lines, seconds=10):
        """Waits for the log's own thread to have written this much."""
        end = time.monotonic() + seconds
        while (self.log_lines() or 0) < lines:
            if time.monotonic() > end:
                raise Broken(f"{self.row.name} was to have {lines} lines in its access log and has {self.log_lines()}")
            time.sleep(0.05)

    def connections(self):
        """Client connections that are open now, as the kernel sees them."""
        with open("/proc/net/tcp") as table:
            rows = (line.split() for line in table.readlines()[1:])
            return sum(row[3] == "01" and int(row[1].rpartition(":")[2], 16) == self.port for row in rows)

    def url(self, path, host="127.0.0.1"):
        return f"{'https' if 'tls' in self.way else 'http'}://{host}:{self.port}{path}"


class Scrape:
    """Reads a row's metrics every second while it is measured, as a monitoring system does. The row pays for it."""

    def __init__(self, admin):
        self.stop, self.thread, self.count = threading.Event(), None, 0
        if admin:
            self.thread = threading.Thread(target=self._run, args=(f"http://{admin}/metrics",), daemon=True)

    def _run(self, url):
        while True:
            try:
                urllib.request.urlopen(url, timeout=5).read()
                self.count += 1
            except OSError as error:
                print(f"# metrics of a row could not be read: {error}", flush=True)
            if self.stop.wait(1.0):
                return

    def __enter__(self):
        if self.thread:
            self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        if self.thread:
            self.thread.join()


def certificate(folder):
    """A certificate for all rows, and where it is."""
    chain, key, both = (os.path.join(folder, name) for name in ("chain.pem", "key.pem", "both.pem"))
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
                    "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", key, "-out", chain],
                   check=True, capture_output=True)
    with open(both, "w") as out:
        for path in (chain, key):
            with open(path) as part:
                out.write(part.read())
    return {"CHAIN": chain, "KEY": key, "BOTH": both}


class Rig:
    def __init__(self, folder, values, proxy_cpu, client_cpu):
        self.folder, self.proxy_cpu, self.client_cpu = folder, proxy_cpu, client_cpu
        self.values = {**values, **certificate(folder)}
        self.started = []
        import resource
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        self.nofile = min(hard, 1 << 16)
        upstream = Process([f"{values['TOOLS']}/upstream", "127.0.0.1:0"], client_cpu, folder, "upstream", ready_line=True)
        self.started.append(upstream)
        self.upstream_address = upstream.until_line()

    def start(self, row, **options):
        return Running(row, self, **options)

    def client(self, command, seconds):
        done = subprocess.run(["taskset", "-c", self.client_cpu, *command], capture_output=True, text=True, timeout=seconds, preexec_fn=own_session)
        return done.stdout + done.stderr

    def wrk(self, running, path, connections, seconds, fields=()):
        """Closed loop. Requests answered, requests a second, answers that are none."""
        headers = [word for line in fields for word in ("-H", line)]
        said = self.client(["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", *headers, running.url(path)], seconds + 30)
        count = re.search(r"(\d+) requests in", said)
        if not count:
            raise Broken(f"wrk against {running.row.name} said {said[-300:]!r}")
        rate = float(re.search(r"Requests/sec:\s+([\d.]+)", said).group(1))
        bad = sum(int(number) for number in re.findall(r"Non-2xx or 3xx responses: (\d+)", said))
        for errors in re.findall(r"Socket errors: (.*)", said):
            bad += sum(int(number) for number in re.findall(r"\d+", errors))
        return int(count.group(1)), rate, bad

    def h2load(self, running, path, connections, count, fields=()):
        """A fixed count of requests; how many were answered 2xx."""
        said = self._h2load(running, path, [f"-c{connections}", f"-n{count}"], 900, fields)
        good = re.search(r"status codes: (\d+) 2xx", said)
        return int(good.group(1)) if good else 0

    def h2load_for(self, running, path, connections, seconds, fields=()):
        """For a time, the way that the row's clients come. Requests answered, requests a second, answers that are none."""
        said = self._h2load(running, path, [f"-c{connections}", f"-D{seconds}"], seconds + 30, fields)
        # Those that the end of the time cut off are in `total`, and in neither of the others.
        counts = re.search(r"(\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", said)
        good = re.search(r"status codes: (\d+) 2xx", said)
        if not counts or not good:
            raise Broken(f"h2load against {running.row.name} said {said[-300:]!r}")
        spoken = re.search(r"Application protocol: (\S+)", said)
        wanted = "http/1.1" if "--h1" in inventory.CLIENT[running.way] else "h2"
        if spoken and not spoken.group(1).startswith(wanted):
            raise Broken(f"{running.row.name} speaks {spoken.group(1)}, and {wanted} was to be measured")
        if "tls" in running.way and "TLSv1.3" not in said:
            raise Broken(f"{running.row.name} does not speak TLS 1.3; h2load said {said[-300:]!r}")
        done, bad = int(good.group(1)), sum(int(counts.group(at)) for at in (3, 4, 5))
        # What is still on its way when the time is over is neither.
        return done, done / seconds, bad + max(0, int(counts.group(1)) - done)

    def _h2load(self, running, path, words, seconds, fields):
        headers = [word for line in fields for word in ("-H", line)]
        return self.client(["h2load", "-t1", *inventory.CLIENT[running.way], *words, *headers, running.url(path)], seconds)

    def close(self):
        for process in reversed(self.started):
            process.end()


def machine():
    """CPU time of the whole machine so far: all, and what the hypervisor took."""
    with open("/proc/stat") as stat:
        fields = [int(number) for number in stat.readline().split()[1:9]]
    return sum(fields), fields[7]
