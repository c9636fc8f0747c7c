#!/usr/bin/env python3
"""Counts the lines of each client, and fails if one has 1000 or more.

Not counted: generated code, blank lines, comments (Python's docstrings are comments), and what is no
part of the client's library: tests, examples and the conformance runner. README.md says the rest.
"""

import ast
import io
import pathlib
import re
import sys
import tokenize

HERE = pathlib.Path(__file__).resolve().parent
LIMIT = 1000
# What is counted, and what stands beside it in a package of its own.
CLIENTS = {
    "python": (["python/aethyr_event_store/*.py"], ["python/aethyr_event_store/testing.py"]),
    "go": (["go/*.go"], ["go/aethyr*/*.go"]),
    "typescript": (["typescript/src/*.ts"], ["typescript/src/testing.ts"]),
}
# Written by generate.py outside of a folder of its own.
GENERATED = ["python/aethyr_event_store/protos.py"]


def python_lines(text):
    """Lines of code of a Python file."""
    lines = set()
    skipped = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in skipped and token.type != tokenize.ENDMARKER:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            if ast.get_docstring(node, clean=False) is not None:
                lines.difference_update(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return len(lines)


def other_lines(text):
    """Lines of code of a Go or TypeScript file: comments are lines of their own."""
    text = re.sub(r"^[ \t]*/\*.*?\*/[ \t]*$", "", text, flags=re.MULTILINE | re.DOTALL)
    return sum(1 for line in text.splitlines() if line.strip() and not line.strip().startswith("//"))


def count(patterns, without=()):
    found = {file for pattern in patterns for file in HERE.glob(pattern) if "_test." not in file.name}
    found -= {file for pattern in without for file in HERE.glob(pattern)}
    counted = {}
    for file in found - {HERE / name for name in GENERATED}:
        lines = python_lines if file.suffix == ".py" else other_lines
        counted[file] = lines(file.read_text("utf-8"))
    if "-v" in sys.argv:
        for file, lines in sorted(counted.items()):
            print(f"    {lines:5} {file.relative_to(HERE)}")
    return sum(counted.values())


def main():
    status = 0
    for name, (library, beside) in CLIENTS.items():
        lines = count(library, beside)
        extra = f", and {count(beside)} in packages beside it" if beside else ""
        print(f"{name}: {lines} lines{extra}")
        status |= lines >= LIMIT
    return status


if __name__ == "__main__":
    sys.exit(main())
