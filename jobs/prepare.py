"""Prepare everything under PATH... or matching KEY=VALUE...; without either, all there is.

    raypacs submit prepare --follow -- /data/incoming
    raypacs submit prepare --follow -- ModalitiesInStudy=CT StudyDate=20240101-20240131
    ray job submit -- python jobs/prepare.py --url http://127.0.0.1:8104 /data/incoming

The node to talk to comes from --url or RAYPACS_URL (set by `raypacs submit`). Paths are those of
the host the job runs on. The last line is a JSON summary; exit code 1 if something failed.
"""

import argparse
import json
import os
import sys
from pathlib import Path

from raypacs.cluster.jobs import prepare


def main() -> int:
    """Read the arguments, prepare, print the summary."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="*", metavar="PATH | KEY=VALUE")
    parser.add_argument("--url", default=os.environ.get("RAYPACS_URL", "http://127.0.0.1:8104"))
    parser.add_argument("--timeout", type=float, default=24 * 3600.0, metavar="SECONDS")
    given = parser.parse_args()
    paths = [Path(word) for word in given.what if "=" not in word]
    query = dict(word.split("=", 1) for word in given.what if "=" in word)
    missing = [str(path) for path in paths if not path.exists()]
    if missing:
        parser.error(f"not on this host: {', '.join(missing)}")
    told = prepare(paths, query, url=given.url, timeout_s=given.timeout)
    print(json.dumps(told))
    return 1 if told["prepare"]["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
