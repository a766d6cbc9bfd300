"""To which rows a partial index is restricted, and whether a condition says as much.

As much as PostgreSQL itself concludes, and no more: to it `active IS TRUE` does not imply `active`, and an
index WHERE active does not serve it. A restriction that is not understood serves nothing.
"""

import re
from typing import Any

from sqlalchemy import BinaryExpression, BindParameter, Boolean, Column, False_, Null, True_
from sqlalchemy.sql import operators

#: What one part of an AND says of a column: ('null', name), ('not null', name), ('in', name, values),
#: ('boolean', name, value), ('is', name, 'true'), or ('text', words) where it is something else.
Part = tuple[Any, ...]

_STRING = re.compile(r"'((?:[^']|'')*)'")
#: `::text`, `::character varying(20)[]`, `::pern."Kind"`.
_CAST = re.compile(
    r"::(?:\w+\.)?(?:\"[^\"]+\"|[a-z_]\w*)(?: varying| precision| with(?:out)? time zone)?"
    r"(?:\([\d,]+\))?(?:\[\])?"
)
_COLUMN = r'"?(?P<column>\w+)"?'
#: A NOT of more than one column: of what is in brackets, say.
_NOT_OF_MORE = re.compile(r"(?<!is )\bnot\b(?! (?:\"?\w+\"?|\(\"?\w+\"?\))(?:\)|$| and ))", re.IGNORECASE)
_VALUE = r"(?:\0\d+\0|-?[\d.]+)"
_FORMS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (kind, re.compile(pattern, re.IGNORECASE))
    for kind, pattern in (
        ("null", rf"{_COLUMN} is null"),
        ("not null", rf"{_COLUMN} is not null"),
        ("is", rf"{_COLUMN} is (?P<value>(?:not )?(?:true|false|unknown))"),
        ("boolean", rf"{_COLUMN}(?: = (?P<value>true|false))?"),
        ("not", rf"not {_COLUMN}"),
        ("in", rf"{_COLUMN} = (?P<value>{_VALUE})"),
        ("in", rf"{_COLUMN} = any array\[(?P<value>{_VALUE}(?:, {_VALUE})*)\]"),
        ("in", rf"{_COLUMN} in (?P<value>{_VALUE}(?:, {_VALUE})*)"),
    )
)


def restriction(where: str) -> frozenset[Part] | None:
    """Return the parts of an index's predicate, as PostgreSQL or a migration spells it; None if not clear."""
    strings: list[str] = []

    def put_aside(found: re.Match[str]) -> str:
        strings.append(found[1].replace("''", "'"))
        return f"\0{len(strings) - 1}\0"

    words = " ".join(_CAST.sub("", _STRING.sub(put_aside, where)).split())
    # What is left has no calls, and brackets that say nothing.
    if re.search(r"\w\(|\bor\b", words, re.IGNORECASE) or _NOT_OF_MORE.search(words):
        return None
    plain = words.replace("(", "").replace(")", "")
    return frozenset(_part(one, strings) for one in re.split(r"\s+and\s+", plain, flags=re.IGNORECASE))


def _part(words: str, strings: list[str]) -> Part:
    for kind, form in _FORMS:
        found = form.fullmatch(words)
        if found is None:
            continue
        column, value = found["column"], found.groupdict().get("value")
        match kind:
            case "boolean":
                return kind, column, (value or "true").lower() == "true"
            case "not":
                return "boolean", column, False
            case "is":
                return kind, column, str(value).lower()
            case "in":
                values = str(value).split(", ")
                return kind, column, frozenset(strings[int(v[1:-1])] if "\0" in v else v for v in values)
            case _:
                return kind, column
    return "text", words


def comparison(condition: Any) -> Part | None:
    """Return what a condition that is no AND or OR says; None where no restriction could say the same."""
    if isinstance(condition, Column):
        return ("boolean", condition.name, True) if isinstance(condition.type, Boolean) else None
    if not isinstance(condition, BinaryExpression) or not isinstance(condition.left, Column):
        return None
    name, right = condition.left.name, condition.right
    negated = condition.operator is operators.is_not
    if negated or condition.operator is operators.is_:
        if isinstance(right, Null):
            return ("not null" if negated else "null"), name
        if isinstance(right, True_ | False_):
            return "is", name, f"{'not ' if negated else ''}{'true' if isinstance(right, True_) else 'false'}"
    if condition.operator is operators.eq and isinstance(right, True_ | False_):
        return "boolean", name, isinstance(right, True_)
    if condition.operator in {operators.eq, operators.in_op} and isinstance(right, BindParameter):
        values = right.value if isinstance(right.value, list | tuple) else [right.value]
        # NOW and its like have no value yet.
        return None if None in values else ("in", name, frozenset(map(str, values)))
    return None


def stated(where: frozenset[Part], parts: frozenset[Part]) -> bool:
    """Return whether the parts of a condition say all that an index is restricted to."""
    return all(_stated(one, parts) for one in where)


def _stated(wanted: Part, parts: frozenset[Part]) -> bool:
    if wanted[0] != "in":
        return wanted in parts
    return any(one[0] == "in" and one[1] == wanted[1] and one[2] <= wanted[2] for one in parts)
