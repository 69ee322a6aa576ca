"""Source code metrics of the Python standard library: a processor, and the jobs to feed it.

Each job reads half a megabyte of source that every machine has, and keeps one core busy for about half a second.
Nothing beyond the standard library is imported: this runs inside a child.
"""

from __future__ import annotations

import ast
import io
import lzma
import sysconfig
import tokenize
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

JOB_BYTES = 500_000  # of source in one job: enough to be worth a process, small enough to watch many of them

# Vendored or deliberately broken code, not the library's own; site-packages is whatever this machine has installed.
_SKIPPED = {"__pycache__", "idle_test", "lib2to3", "site-packages", "test", "tests"}
_NO_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
_BRANCHES = (ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.match_case)
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True, slots=True)
class Measure:
    """What one source file holds."""

    lines: int
    blank: int
    comment: int  # lines with nothing but a comment
    tokens: int
    classes: int
    complexities: tuple[tuple[int, str], ...]  # of each function, with its dotted name
    code_lines: tuple[str, ...]  # stripped, to find the repeated ones


def process(job: Any) -> dict[str, Any]:
    """The metrics of the files that a job names: `{"package": ..., "folder": ..., "files": [...]}`."""
    folder = Path(job.data["folder"])
    files = job.data.get("files") or sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.py"))
    if not files:
        raise FileNotFoundError(f"no .py files in {folder}; give an absolute folder that the supervisor's host has")
    measures: dict[str, Measure] = {}
    packer = lzma.LZMACompressor(preset=9 | lzma.PRESET_EXTREME)
    size = packed = 0
    for number, name in enumerate(files, start=1):
        source = (folder / name).read_bytes()
        size += len(source)
        packed += len(packer.compress(source))
        try:
            measures[name] = measure(source)
        except (SyntaxError, UnicodeDecodeError, RecursionError) as error:
            job.log(f"{name}: not counted, {error}")
        job.progress(round(100 * number / len(files)))
    packed += len(packer.flush())
    return {"package": job.data.get("package", folder.name), "files": len(files), **_summary(measures, size, packed)}


def measure(source: bytes) -> Measure:
    """Count one file; SyntaxError or UnicodeDecodeError when it is not Python."""
    tree = ast.parse(source)
    tokens = list(tokenize.tokenize(io.BytesIO(source).readline))[1:]  # the first only names the encoding
    text = source.decode(tokenize.detect_encoding(io.BytesIO(source).readline)[0])
    # Not splitlines(): it would also cut at form feeds, and then no line number fits the tokens' any more.
    lines = [line.strip() for line in io.StringIO(text)]
    inside = _lines_of_code(tokens)
    code = tuple(line for number, line in enumerate(lines, start=1) if number in inside and line)
    blank = lines.count("")
    return Measure(
        lines=len(lines),
        blank=blank,
        comment=len(lines) - blank - len(code),
        tokens=sum(token.type not in _NO_CODE for token in tokens),
        classes=sum(isinstance(node, ast.ClassDef) for node in ast.walk(tree)),
        complexities=tuple((complexity(node), name) for name, node in _functions(tree)),
        code_lines=code,
    )


def complexity(function: ast.AST) -> int:
    """Cyclomatic complexity: one, and one more for each branch; inner functions count for themselves."""
    total = 1
    todo = list(ast.iter_child_nodes(function))
    while todo:
        node = todo.pop()
        if isinstance(node, (*_FUNCTIONS, ast.ClassDef)):
            continue
        if isinstance(node, _BRANCHES):
            total += 1
        elif isinstance(node, ast.BoolOp):
            total += len(node.values) - 1
        elif isinstance(node, ast.comprehension):
            total += 1 + len(node.ifs)
        todo.extend(ast.iter_child_nodes(node))
    return total


def packages(job_bytes: int = JOB_BYTES) -> list[dict[str, Any]]:
    """The standard library as job data, in order and in pieces of about `job_bytes`, so that jobs take alike."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    jobs = []
    for files in _cut(folder, job_bytes):
        jobs.append(
            {
                "package": _title(files),
                "folder": str(folder),
                "files": files,
            }
        )
    return jobs


def _title(files: list[str]) -> str:
    """A package that takes several jobs is told apart by its files."""
    first, last = (name.removesuffix(".py") for name in (files[0], files[-1]))
    package, others = first.split("/")[0], last.split("/")[0]
    if package != others:
        return f"{package} to {others}"
    return package if len(files) == 1 else f"{first} to {last.removeprefix(f'{package}/')}"


def _summary(measures: dict[str, Measure], size: int, packed: int) -> dict[str, Any]:
    found = measures.values()
    ranked = [(value, f"{file}:{name}") for file, one in measures.items() for value, name in one.complexities]
    repeated = Counter(line for one in found for line in one.code_lines)
    code = sum(repeated.values())
    highest, where = max(ranked, default=(0, ""))
    return {
        "bytes": size,
        "packed_bytes": packed,
        "lines": {
            "code": code,
            "blank": sum(one.blank for one in found),
            "comment": sum(one.comment for one in found),
            "repeated_percent": round(100 * (1 - len(repeated) / code), 1) if code else 0.0,
        },
        "tokens": sum(one.tokens for one in found),
        "functions": len(ranked),
        "classes": sum(one.classes for one in found),
        "complexity": {
            "mean": round(sum(value for value, _ in ranked) / len(ranked), 2) if ranked else 0.0,
            "max": highest,
            "max_at": where,
        },
    }


def _lines_of_code(tokens: list[tokenize.TokenInfo]) -> set[int]:
    return {
        line
        for token in tokens
        if token.type not in _NO_CODE
        for line in range(token.start[0], token.end[0] + 1)  # a string may span lines
    }


def _functions(node: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.AST]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (*_FUNCTIONS, ast.ClassDef)):
            name = f"{prefix}{child.name}"
            if not isinstance(child, ast.ClassDef):
                yield name, child
            yield from _functions(child, f"{name}.")
        else:
            yield from _functions(child, prefix)


def _cut(folder: Path, job_bytes: int) -> Iterator[list[str]]:
    piece: list[str] = []
    total = 0
    for path in sorted(folder.rglob("*.py")):
        relative = path.relative_to(folder)
        if _SKIPPED.intersection(relative.parts):
            continue
        size = path.stat().st_size
        if piece and total + size > job_bytes:
            yield piece
            piece, total = [], 0
        piece.append(relative.as_posix())
        total += size
    if piece:
        yield piece
