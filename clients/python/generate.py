#!/usr/bin/env python3
"""Generates aethyr_event_store/_generated from the protos of the service.

Needs grpcio-tools 1.51: what a newer one generates needs a newer protobuf. The result is checked in.
"""

import pathlib
import re
import shutil
import sys

from grpc_tools import protoc

HERE = pathlib.Path(__file__).resolve().parent
PROTOS = HERE.parent.parent / "proto"
OUT = HERE / "aethyr_event_store" / "_generated"
PACKAGE = "aethyr_event_store._generated"


def main() -> int:
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    parts = "aethyr/eventstore/v1/*.proto", "aethyr/world/v1/*.proto"
    files = [str(path) for part in parts for path in sorted(PROTOS.glob(part))]
    code = protoc.main(
        ["protoc", f"-I{PROTOS}", f"-I{pathlib.Path(protoc.__file__).parent / '_proto'}"]
        + [f"--python_out={OUT}", f"--pyi_out={OUT}", *files]
    )
    for path in OUT.rglob("*.py*"):
        text = re.sub(r"^from aethyr\.", f"from {PACKAGE}.aethyr.", path.read_text(), flags=re.MULTILINE)
        path.write_text(text)
    for folder in [OUT, *(path for path in OUT.rglob("*") if path.is_dir())]:
        (folder / "__init__.py").write_text("")
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
