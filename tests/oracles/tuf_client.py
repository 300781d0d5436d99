"""Refreshes from a repository directory with python-tuf and prints what it trusts, or why it refuses, as JSON."""

import argparse
import hashlib
import json
import os
import sys
import tempfile

from tuf.api.exceptions import DownloadError, DownloadHTTPError, RepositoryError
from tuf.ngclient import FetcherInterface, Updater

BASE = "repository:"


class DirectoryFetcher(FetcherInterface):
    """Reads files where another fetcher would use a network."""

    def __init__(self, directory):
        self.directory = directory

    def _fetch(self, url):
        path = os.path.join(self.directory, url.removeprefix(BASE))
        try:
            with open(path, "rb") as file:
                content = file.read()
        except FileNotFoundError as error:
            raise DownloadHTTPError(f"{url} not found", 404) from error
        yield content


def refresh(options):
    with open(options.root, "rb") as file:
        root = file.read()
    with tempfile.TemporaryDirectory() as downloads:
        updater = Updater(
            metadata_dir=options.state,
            metadata_base_url=f"{BASE}metadata/",
            target_dir=downloads,
            target_base_url=f"{BASE}targets/",
            fetcher=DirectoryFetcher(options.repository),
            bootstrap=root,
        )
        updater.refresh()
        found = {}
        for target in options.target:
            info = updater.get_targetinfo(target)
            if info is not None:
                with open(updater.download_target(info), "rb") as file:
                    found[target] = hashlib.sha256(file.read()).hexdigest()
        return found


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repository", required=True, help="directory with metadata/ and targets/")
    parser.add_argument("--state", required=True, help="directory of the client's own trusted metadata")
    parser.add_argument("--root", required=True, help="file of the first root metadata")
    parser.add_argument("target", nargs="*", help="paths of targets to download")
    options = parser.parse_args()
    try:
        answer = {"trusted": refresh(options)}
    except (RepositoryError, DownloadError) as error:
        answer = {"refused": type(error).__name__, "message": str(error)}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
