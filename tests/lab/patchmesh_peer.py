"""How the lab's bench runs patchmesh: the release binary, and nothing about the network told to it.

Before the clock: `fleet init`, headquarters starts, every device gets a system with the older packages and joins over the
lab's network; only then the files come in as signed packages, are approved and published. The devices' nodes have never
run: no content, no remembered peers, none of that metadata. The clock runs from the start of their processes.

The policy is in force and has no deploy capability, so that the devices fetch and share what is approved and install
nothing: how long dpkg takes would say nothing about the network.
"""
import json
import os
import re
import shutil
import socket
import subprocess
import time

from peers.base import Peer

VENDOR = "acme"
POLICY = """
[[policy]]
name = "fetch-ahead"
enabled = true
assign = { everyone = true }
"""
CONFIGURATION = """
[node]
directory = "state"
root = "root"
control-socket = "control.socket"
"""
COMPLETE = re.compile(rb"content complete and checked root=([0-9a-f]{64})")
CONTENT = re.compile(r"[0-9a-f]{64}")
APPROVE_AT_ONCE = 500                 # patches named on one command line


class Patchmesh(Peer):
    name = "patchmesh"
    doc = "seed at HQ, a node on every host, default configuration; joined before the patches are published"
    requires = ("dpkg", "dpkg-deb", "openssl")
    many = True
    binary = None                     # set by tests/lab/run
    more = {}                         # what tests/lab/run adds to the bench's result of the last run

    def __init__(self, ctx, accounting):
        super().__init__(ctx, accounting)
        type(self).more = {}
        self.logs = {}                # node -> its log
        self.complete = {}            # host -> roots of the contents that it has
        self.read = {}                # host -> bytes of its log that were looked at
        self.began = None             # when the clock started
        self.uplink = []              # L2: seconds and bytes that headquarters had sent then

    # ---- before the clock

    def prepare(self):
        """The vendor's work: a key, and each file packed into a signed package; one that is older is on the devices."""
        place = self.dir("vendor")
        self.key = os.path.join(place, "key.pem")
        run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", self.key])
        public = run(["openssl", "pkey", "-in", self.key, "-pubout", "-outform", "DER"])
        self.public = public[-32:].hex()
        self.packages = {}            # patch -> (package file, signature file, the file inside it)
        for number, file in enumerate(self.ctx.files):
            name = f"patch{number:03}"
            package = build(place, name, "2.0", file)
            self.packages[f"{VENDOR}/{name}=2.0"] = (package, self.sign(package), file)
        system = os.path.join(place, "system")
        older = [build(place, f"patch{n:03}", "1.0") for n in range(len(self.ctx.files))]
        install(system, older)
        for host in self.ctx.hosts:
            shutil.copytree(system, os.path.join(self.dir(host), "root"), symlinks=True)
            self.write(host, "patchmesh.toml", CONFIGURATION)

    def sign(self, package):
        """The vendor's detached signature, as docs/operations.md makes it."""
        digest = run(["openssl", "dgst", "-sha256", "-binary", package])
        message = self.write("vendor", "message", b"patchmesh artifact 1\n" + digest)
        signature = os.path.splitext(package)[0] + ".sig"
        run(["openssl", "pkeyutl", "-sign", "-inkey", self.key, "-rawin", "-in", message, "-out", signature])
        return signature

    def start_hq(self):
        self.found()
        for site in self.ctx.sites:
            self.join(self.lab.hosts(site), site)
        self.publish()

    def found(self):
        """The fleet and its headquarters."""
        self.fleet, self.headquarters = os.path.join(self.dir("hq"), "fleet"), os.path.join(self.dir("hq"), "node")
        address = f"/ip4/{self.lab.ip('hq')}/tcp"
        sites = [word for site in self.ctx.sites for word in ("--site", site)]
        self.patchmesh("hq", "fleet", "init", self.fleet, "--headquarters", self.headquarters, "--host", "headquarters",
                       "--address", f"{address}/7700", "--enrolment-address", f"{address}/7701", *sites)
        self.start_node("hq", os.path.join(self.headquarters, "patchmesh.toml"))
        self.wait_port("hq", 7701)
        until("headquarters answers", lambda: self.status("hq"))

    def join(self, hosts, site):
        """Enrols devices over the lab's network; their nodes do not run yet."""
        token = self.patchmesh("hq", "token", "create", "--site", site, "--uses", len(hosts), "--socket",
                               self.control_socket("hq"))
        for host in hosts:
            configuration = os.path.join(self.dir(host), "patchmesh.toml")
            self.patchmesh(host, "join", "-", "--host", host, "--config", configuration,
                           text=token["token"]["activation_key"])

    def publish(self):
        """The administrator's work: import, approve, policy, publish."""
        fleet = ("--fleet", self.fleet)
        for package, signature, _ in self.packages.values():
            self.patchmesh("hq", "catalogue", "import", "file", package, "--vendor", VENDOR,
                           "--signature", signature, "--trust-key", self.public, *fleet)
        patches = list(self.packages)
        for at in range(0, len(patches), APPROVE_AT_ONCE):
            self.patchmesh("hq", "patch", "approve", *patches[at:at + APPROVE_AT_ONCE], *fleet)
        self.patchmesh("hq", "policy", "apply", self.write("hq", "policy.toml", POLICY), *fleet)
        published = self.patchmesh("hq", "fleet", "publish", *fleet)["published"]
        if not published["served"]:
            raise RuntimeError(f"{self.name}: headquarters does not serve what was published: {published}")
        self.roots = {}               # patch -> the name of its content
        for patch in patches:
            [manifest] = self.patchmesh("hq", "patch", "show", patch, *fleet)["manifests"]
            self.roots[patch] = manifest["artifacts"][0]["content"]["root"]

    # ---- the clock is running

    def start_host(self, host):
        self.began = self.began or time.monotonic()
        self.start_node(host, os.path.join(self.dir(host), "patchmesh.toml"))

    def start_node(self, node, configuration):
        self.logs[node] = self.spawn(node, [self.binary, "node", "run", "--config", configuration]).log

    def done(self, host):
        """Whether the node has said of every content that it is complete and checked. Reading the new end of its log
        costs the node nothing."""
        self.look_at_uplink()
        seen = self.complete.setdefault(host, set())
        with open(self.logs[host], "rb") as log:
            log.seek(self.read.get(host, 0))
            text = log.read()
        whole = text.rfind(b"\n") + 1
        self.read[host] = self.read.get(host, 0) + whole
        seen.update(COMPLETE.findall(text[:whole]))
        return len(seen) == len(self.packages)

    def look_at_uplink(self):
        """Once a second, as the bench does with the first site."""
        seconds = time.monotonic() - self.began
        if "hq" in self.lab.state["links"] and seconds >= len(self.uplink):
            self.uplink.append([round(seconds, 2), self.lab.wan_counters()["hq"]["up"]["bytes"], 0])

    def progress(self, host):
        """Content files are sparse: what is allocated has arrived and was verified."""
        return sum(os.stat(path).st_blocks * 512 for path in self.contents(host))

    # ---- afterwards

    def results(self, host):
        """Unpacks the packages that the node holds; the bench compares the files inside with the originals."""
        if not type(self).more:
            type(self).more = {"payload_ratio": self.payload() / self.ctx.size / len(self.ctx.sites),
                               "wan_reasons": self.reasons(),
                               "uplink_timeline": self.uplink}
        place = os.path.join(self.ctx.workdir, "unpacked")
        shutil.rmtree(place, ignore_errors=True)      # of the host before, which was compared already
        os.makedirs(place)
        held = {os.path.basename(path): path for path in self.contents(host)}
        copies = []
        for patch, (_, _, file) in self.packages.items():
            copy = os.path.join(place, patch.replace("/", "_"))
            if self.roots[patch] in held:
                run(["dpkg-deb", "--extract", held[self.roots[patch]], copy])
            copies.append(os.path.join(copy, inside(file)))
        return copies

    def payload(self):
        """Bytes of pieces that crossed the WAN: what the seed says it served in whole pieces, or what the devices that
        still run say they received, whichever is more."""
        received = sum(sum(transfer["wan_bytes"] for transfer in self.transfers(host)) for host in self.complete
                       if len(self.complete[host]) == len(self.packages))
        return max(received, sum(transfer["served_bytes"] for transfer in self.transfers("hq")))

    def reasons(self):
        """Bytes of pieces that crossed the WAN by the reason that the devices name."""
        reasons = {}
        for host in self.complete:
            if len(self.complete[host]) == len(self.packages):
                for transfer in self.transfers(host):
                    for reason, count in transfer["wan_reasons"].items():
                        reasons[reason] = reasons.get(reason, 0) + count
        return reasons

    def transfers(self, node):
        """How far content has come, and from where, as the node's control socket says it."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as control:
            control.settimeout(10)
            control.connect(self.control_socket(node))
            control.sendall(b'{"request":"transfers"}\n')
            answer = json.loads(control.makefile("rb").readline())
        return answer["data"]

    def version(self):
        return run([self.binary, "--version"]).decode().strip()

    # ---- tools

    def contents(self, host):
        """The content files of a host's node, whole or in part."""
        place = os.path.join(self.dir(host), "state", "content")
        names = os.listdir(place) if os.path.isdir(place) else []
        return [os.path.join(place, name) for name in names if CONTENT.fullmatch(name)]

    def control_socket(self, node):
        return os.path.join(self.headquarters if node == "hq" else self.dir(node), "control.socket")

    def patchmesh(self, node, *arguments, text=None):
        """What a command on NODE answers."""
        argv = [self.binary, *map(str, arguments), "--output", "json"]
        return json.loads(run(self.lab.argv(node, argv), text))

    def status(self, node):
        """What the node says of itself; None when it does not answer."""
        try:
            return self.patchmesh(node, "status", "--socket", self.control_socket(node))
        except RuntimeError:
            return None


class PatchmeshBusiest(Patchmesh):
    name = "patchmesh-busiest"
    doc = "patchmesh; L4 switches off the host that fetched most over the WAN"

    def victim(self, progress):
        talkers = self.lab.talkers()
        fetched = {row["dst"]: row["bytes"] for site in self.ctx.sites for row in talkers[site]["down"]
                   if row["proto"] == 6}
        return max(progress, key=lambda host: fetched.get(self.lab.ip(host), 0))


def run(argv, text=None):
    """Runs a command to its end and returns its standard output."""
    done = subprocess.run(argv, input=(text or "").encode(), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv)}: exit code {done.returncode}: {done.stderr.decode().strip()}")
    return done.stdout


def until(what, condition, timeout=20):
    """Waits until CONDITION returns something."""
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError(f"this does not come true: {what}")
        time.sleep(0.05)


def inside(file):
    """Where a package has the file."""
    return os.path.join("usr/share/lab", os.path.basename(file))


def build(place, name, version, file=None):
    """Builds a package that holds FILE, or nothing; weak compression, since the files are random."""
    tree = os.path.join(place, "tree")
    os.makedirs(os.path.join(tree, "DEBIAN"))
    with open(os.path.join(tree, "DEBIAN", "control"), "w") as control:
        control.write(f"Package: {name}\nVersion: {version}\nArchitecture: all\n"
                      "Maintainer: Acme <patches@acme.example>\nDescription: a patch of the lab\n")
    if file:
        os.makedirs(os.path.join(tree, "usr/share/lab"))
        os.link(file, os.path.join(tree, inside(file)))
    package = os.path.join(place, f"{name}_{version}_all.deb")
    run(["dpkg-deb", "-Zgzip", "-z1", "--root-owner-group", "--build", tree, package])
    shutil.rmtree(tree)
    return package


def install(root, packages):
    """A root directory of this machine's operating system, with an empty package database but for PACKAGES."""
    for directory in ("etc", "var/lib/dpkg/info", "var/lib/dpkg/updates"):
        os.makedirs(os.path.join(root, directory))
    shutil.copy("/etc/os-release", os.path.join(root, "etc"))
    open(os.path.join(root, "var/lib/dpkg/status"), "w").close()
    run(["dpkg", f"--root={root}", f"--log={root}.log", "--force-unsafe-io", "--install", *packages])
