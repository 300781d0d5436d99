"""Writes a repository with python-tuf that uses what ours does not: nested delegations, hash prefixes, thresholds."""

import argparse
import hashlib
import json
import os
import sys
from datetime import datetime, timedelta, timezone

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

EXPIRES = datetime.now(timezone.utc).replace(microsecond=0) + timedelta(days=1)


class Repository:
    def __init__(self, directory):
        self.directory = directory
        self.snapshot = Snapshot(expires=EXPIRES)

    def write(self, path, content):
        place = os.path.join(self.directory, path)
        os.makedirs(os.path.dirname(place), exist_ok=True)
        with open(place, "wb") as file:
            file.write(content)

    def publish(self, name, signed, signers):
        signed.unrecognized_fields["x-note"] = {"kept": [1, True, None, 'with "quotes" and \\']}
        metadata = Metadata(signed)
        for signer in signers:
            metadata.sign(signer, append=True)
        version = "" if name == "timestamp" else f"{signed.version}."
        self.write(f"metadata/{version}{name}.json", metadata.to_bytes())
        if isinstance(signed, Targets):
            self.snapshot.meta[f"{name}.json"] = MetaFile(signed.version)

    def target(self, role, path, content):
        role.targets[path] = TargetFile.from_data(path, content)
        head, _, tail = path.rpartition("/")
        self.write(f"targets/{head}/{hashlib.sha256(content).hexdigest()}.{tail}", content)


def delegate(parent, signers, threshold, role):
    parent.delegations = parent.delegations or Delegations({}, {})
    parent.delegations.roles[role.name] = role
    for signer in signers:
        parent.add_key(signer.public_key, role.name)
    role.threshold = threshold


def build(directory):
    repository = Repository(directory)
    keys = [CryptoSigner.generate_ed25519() for _ in range(3)]
    unusual = CryptoSigner.generate_ecdsa()
    root = Root(expires=EXPIRES, consistent_snapshot=True)
    for role in ["root", "timestamp", "snapshot", "targets"]:
        for signer in [*keys, unusual]:
            root.add_key(signer.public_key, role)
        root.roles[role].threshold = 2

    top, first, nested, hashed, late = (Targets(expires=EXPIRES) for _ in range(5))
    digest = hashlib.sha256(b"h/one").hexdigest()
    delegate(top, keys[:1], 1, DelegatedRole("first", [], 1, False, paths=["a/*", "a/?/*.txt"]))
    delegate(top, keys[1:], 2, DelegatedRole("hashed", [], 1, False, path_hash_prefixes=[digest[:2]]))
    delegate(top, keys[:1], 1, DelegatedRole("late", [], 1, False, paths=["a/*", "l/*"]))
    delegate(first, keys[1:2], 1, DelegatedRole("nested", [], 1, True, paths=["a/n*", "x/*"]))

    repository.target(top, "top/file", b"from targets")
    repository.target(first, "a/file", b"from first")
    repository.target(first, "b/file", b"first may not vouch for it")
    repository.target(first, "a/b/c.txt", b"two segments")
    repository.target(nested, "a/nested", b"from nested")
    repository.target(nested, "x/file", b"nested may, first may not")
    repository.target(late, "a/file", b"too late")
    repository.target(late, "a/never", b"nested ends the search")
    repository.target(late, "a/late", b"from late")
    repository.target(hashed, "h/one", b"by hash")

    repository.publish("root", root, keys[:2])
    repository.publish("targets", top, keys)
    repository.publish("first", first, keys[:1])
    repository.publish("nested", nested, keys[1:2])
    repository.publish("hashed", hashed, keys[1:])
    repository.publish("late", late, keys[:1])
    repository.publish("snapshot", repository.snapshot, [keys[0], keys[2]])
    repository.publish("timestamp", Timestamp(expires=EXPIRES), keys[1:])
    every = [path for role in [top, first, nested, hashed, late] for path in role.targets]
    json.dump(sorted(set(every)), sys.stdout)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", help="where the repository is written")
    build(parser.parse_args().directory)
