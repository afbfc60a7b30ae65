"""What a reader may ask: one statement that reads, without functions that reach beyond the database.

    text --> the engine's parser (``formatQuerySingleLine``) --> one statement in normal form --> looked through --> run

What is looked through is what is run: the normal form has no comments, its keywords are upper case, and its names are
quoted where they need it. ``readonly = 1`` is not enough: under it the embedded engine still reads any file by
the function ``file`` and by ``DESCRIBE TABLE file(...)``, writes one by ``INTO OUTFILE``, and kills queries.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

READONLY = 164
"""ClickHouse's code of what is refused to readers."""
SYNTAX_ERROR = 62

STATEMENTS = frozenset({"SELECT", "WITH", "SHOW", "DESCRIBE", "EXPLAIN", "EXISTS", "("})
"""What a statement that reads begins with, in normal form."""
SHOWN = frozenset({"TABLES", "DATABASES", "COLUMNS", "CREATE", "FUNCTIONS", "FULL", "INDEXES", "SETTINGS", "CHANGED"})
"""What SHOW may show."""
TABLE_FUNCTIONS = frozenset({"numbers", "numbers_mt", "zeros", "zeros_mt", "values", "null", "view", "generateseries",
    "generate_series", "generaterandom", "primes", "format"})  # fmt: skip
"""Table functions that make their rows themselves; all others of the engine are refused, also those of later versions.

``format`` is a function of texts too; as a table function ``readonly`` refuses it."""
REACHING = ("ai", "addressto", "catboost", "dictget", "dicthas", "dictisin", "evalml", "file", "getmacro", "getserver",
    "joinget", "logtrace", "naivebayes", "showcertificate", "sleep", "zookeeper")  # fmt: skip
"""How functions begin that reach files, networks, models, addresses or time."""
SYSTEM_DATABASES = frozenset({"system", "information_schema"})
SYSTEM_TABLES = frozenset({"one", "numbers", "tables", "columns", "databases", "settings", "functions", "formats",
    "data_type_families", "table_engines", "table_functions", "parts", "build_options", "time_zones", "schemata",
    "keywords", "aggregate_function_combinators", "completions", "statements"})  # fmt: skip
"""Tables of the system that tell of the database and of nobody's queries."""

_TOKEN = re.compile(
    r"(?P<space>\s+)|(?P<text>'(?:[^'\\]|\\.|'')*')|(?P<quoted>`(?:[^`\\]|\\.)*`|\"(?:[^\"\\]|\\.)*\")"
    r"|(?P<number>[0-9][0-9A-Za-z_.]*)|(?P<word>\w+)|(?P<sign>.)",
    re.DOTALL,
)


class RefusedError(Exception):
    """A query that is not answered: ClickHouse's code and name of the error, and why."""

    def __init__(self, code: int, name: str, why: str) -> None:
        super().__init__(why)
        self.code = code
        self.name = name


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of a statement in normal form."""

    kind: str
    """``text``, ``quoted``, ``number``, ``word`` or ``sign``."""
    value: str

    @property
    def name(self) -> str:
        """The name that it is, in lower case and without quotes; empty if it is none."""
        if self.kind == "quoted":
            return re.sub(r"\\(.)", r"\1", self.value[1:-1]).lower()
        return self.value.lower() if self.kind == "word" else ""

    def is_word(self, *values: str) -> bool:
        """Whether it is one of these keywords."""
        return self.kind == "word" and self.value in values


END = Token("sign", "")


def check_statement(statement: str, table_functions: Collection[str]) -> list[Token]:
    """Look through a statement in normal form; returns its pieces.

    Args:
        statement: what the engine's parser made of one statement.
        table_functions: names, in lower case, of all table functions of the engine.

    Raises:
        RefusedError: it does something else than to read this database.
    """
    tokens = split(statement)
    _check_kind(tokens)
    following = [*tokens[1:], END]
    for token, after, last in zip(tokens, following, [*following[1:], END], strict=True):
        if after.value == "(" and token.name:
            _check_function(token.name, table_functions)
        if token.is_word("INTO") and after.is_word("OUTFILE"):
            raise _refuse("INTO OUTFILE is not for readers")
        if token.is_word("SETTINGS") and after.name and last.value == "=":
            raise _refuse("settings are not for readers to change")
        if token.name in SYSTEM_DATABASES and after.value == "." and last.name not in SYSTEM_TABLES:
            raise _refuse(f"the table {token.name}.{last.name} is not for readers")
        if token.value == ":" and after.name == "identifier":
            raise _refuse("parameters are values, not names")
    return tokens


def split(statement: str) -> list[Token]:
    """The pieces of a statement, without spaces."""
    return [
        Token(match.lastgroup or "", match[0]) for match in _TOKEN.finditer(statement) if match.lastgroup != "space"
    ]


def find_format(tokens: Sequence[Token]) -> str:
    """The format that a statement asks for; empty if it asks for none."""
    for token, after in zip(tokens[-2:-1], tokens[-1:], strict=True):
        if token.is_word("FORMAT") and after.kind == "word":
            return after.value
    return ""


def check_database(name: str) -> str:
    """The name of the database that tables without one are of.

    Raises:
        RefusedError: it is a database of the system.
    """
    if name.lower() in SYSTEM_DATABASES:
        raise _refuse(f"the database {name} is not for readers")
    return name


def _check_kind(tokens: Sequence[Token]) -> None:
    first, second = [token.value for token in (*tokens, END, END)[:2]]
    if first not in STATEMENTS or (first == "SHOW" and second not in SHOWN):
        words = f"{first} {second}" if first == "SHOW" else first
        raise _refuse(f"{words or 'nothing'} is not for readers, who SELECT, SHOW TABLES, DESCRIBE and EXPLAIN")


def _check_function(name: str, table_functions: Collection[str]) -> None:
    if (name in table_functions and name not in TABLE_FUNCTIONS) or name.startswith(REACHING):
        raise _refuse(f"the function {name} is not for readers")


def _refuse(why: str) -> RefusedError:
    return RefusedError(READONLY, "READONLY", why)
