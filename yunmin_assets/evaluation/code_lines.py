"""How much of an answer to a prompt for code is code.

- Python has to parse (`ast`). The first line has to go on with a prompt that opens a block; any later bad line costs
  only itself. A bare word parses too, but a statement has to do something.
- Of anything else (SQL) single lines are judged by their looks.
- Blank lines, comments and Markdown's fences are neither code nor prose. A last line that the limit cut counts only
  where there is no other, by its looks.

Nothing is run: code that parses may be wrong.
"""

import ast
import re
import warnings
from collections.abc import Sequence

MOST_LINES = 60
"""Judged of one text: parsing takes the square of the number where bracket after bracket is left open."""
PYTHON = re.compile(r"파이썬|python", re.IGNORECASE)
NEITHER = re.compile(r"\s*($|#|--|```)")
"""A line without anything to judge."""
CODE_LINE = re.compile(
    r"""^\s*(?:
        (?:def|class|for|while|if|elif|with|except)\b.*:\s*(?:\#.*)?$   # a Python block
      | (?:else|try|finally)\s*:
      | (?:return|import|from|yield|print)\b
      | [A-Za-z_][\w.\[\]]*\s*(?:[-+*/]?=)\s*\S                         # an assignment
      | [A-Za-z_][\w.]*\(.*\)\s*;?\s*$                                  # a call
      | (?:SELECT|FROM|WHERE|ORDER\s+BY|GROUP\s+BY|LIMIT|JOIN|INSERT|UPDATE)\b
    )""",
    re.VERBOSE,
)
IDLE = (ast.Name, ast.Attribute, ast.Tuple, ast.Constant)
"""Expressions that do nothing as a statement: words of prose."""
ENDS = ("", " pass")
"""What may be missing at the end: the body of a block."""
ENDS_OF_CUT = (*ENDS, '"""', ")", "]")


def share_of_code(prompt: str, text: str, ended: bool) -> float:
    """Share of the characters that stand on lines of code; white space at the beginning of `text` matters."""
    lines, before = text.splitlines(), prompt.splitlines() or [""]
    if len(lines) > MOST_LINES:
        lines, ended = lines[:MOST_LINES], False
    judged = [place for place, line in enumerate(lines) if not NEITHER.match(line)]
    if len(judged) < 2 and not ended:
        return float(any(CODE_LINE.match(lines[place]) for place in judged))
    if not ended:
        lines = lines[: judged.pop()]
    opening = before if before[-1].endswith(":") and isinstance(_parsed(before, ENDS), ast.Module) else []
    if opening or PYTHON.search(prompt):
        code = _python_places(opening, lines, ENDS if ended else ENDS_OF_CUT)
    else:
        begun = before[-1] if CODE_LINE.match(before[-1]) else ""
        code = {place for place in judged if CODE_LINE.match(lines[place] if place else begun + lines[place])}
    sizes = {place: sum(not character.isspace() for character in lines[place]) for place in judged}
    return sum(sizes[place] for place in code.intersection(judged)) / max(1, sum(sizes.values()))


def _python_places(opening: Sequence[str], lines: Sequence[str], ends: Sequence[str]) -> set[int]:
    """Places of the lines of code in runs that parse; none when the first line does not go on with `opening`."""
    found: set[int] = set()
    start = 0
    while start < len(lines):
        end, doing = _longest_run(opening if start == 0 else [], lines[start:], ends)
        if opening and start == 0 and all(map(NEITHER.match, lines[:end])):
            return set()
        found.update(start + place for place in doing)
        start += max(1, end)
    return found


def _longest_run(opening: Sequence[str], lines: Sequence[str], ends: Sequence[str]) -> tuple[int, set[int]]:
    """How many lines parse, from the first on, and the places of those on which something is done."""
    before = len(opening) if opening else 1  # the number, from 1, of the first line in what is parsed
    end = len(lines)
    while end > 0:
        run = lines[:end]
        source = [*opening[:-1], opening[-1] + run[0], *run[1:]] if opening else _outdented(run)
        tree = _parsed(source, ends)
        if isinstance(tree, ast.Module):
            return end, {line - before for line in _doing(tree) if line >= before}
        end = min(end - 1, tree - before)  # nothing that follows can mend an error
    return 0, set()


def _doing(tree: ast.Module) -> set[int]:
    """Numbers of the lines, from 1, of statements that do something; a docstring does."""
    doing: set[int] = set()
    idle: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.stmt):
            lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
            (idle if _is_idle(node) else doing).update(lines)
    return doing - idle


def _is_idle(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.AnnAssign):
        return statement.value is None  # "설명: 평균"
    if not isinstance(statement, ast.Expr) or not isinstance(statement.value, IDLE):
        return False
    return not (isinstance(statement.value, ast.Constant) and isinstance(statement.value.value, str))


def _outdented(lines: Sequence[str]) -> list[str]:
    first = next((line for line in lines if line.strip()), "")
    indent = first[: len(first) - len(first.lstrip())]
    return [line.removeprefix(indent) for line in lines]


def _parsed(lines: Sequence[str], ends: Sequence[str]) -> ast.Module | int:
    """The tree, with one of `ends` behind; or the number, from 1, of the line of the error."""
    source, wrong = "\n".join(lines), len(lines)
    for end in ends:
        try:
            with warnings.catch_warnings(action="ignore"):  # of odd escapes in strings
                return ast.parse(source + end)
        except SyntaxError as error:
            wrong = min(wrong, error.lineno or wrong)
        except (ValueError, MemoryError, RecursionError):  # a NUL, a surrogate; nested too deep
            continue
    return wrong
