"""Finds code in tests whose outcome depends on how fast the machine is.

Rule of this file: it reads syntax trees, and never runs the code. It knows four ways to depend
on seconds of a real clock, and reports each place that uses one of them.

    duration    a difference of two readings of a clock is compared with less than a minute
    patience    a loop or an assertion gives up after less than a minute
    sleep       a sleep of 0.1 s or more, or a `time.sleep` of an unknown time
    timeout     a timeout of less than a minute

It allows a ratio of two durations, and an asserted lower bound (`assert took >= 0.3`): both hold on
a slow machine too. In a function that runs on the virtual clock, it reports only uses of the
operating system's clocks. It skips a function marked `wallclock`.
"""

import ast
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import NamedTuple

__all__ = ["LONGEST_NAP_S", "PATIENCE_S", "Find", "search"]

LONGEST_NAP_S = 0.1  # a shorter sleep belongs to a loop that polls
PATIENCE_S = 60.0  # a longer timeout only ends a test that hangs

_TIME = ("time", "monotonic", "perf_counter", "process_time", "thread_time")
CLOCKS = {name + ending for name in _TIME for ending in ("", "_ns")} | {"clock_gettime"}
OTHER_CLOCKS = {"resource.getrusage", "os.times", "datetime.now", "datetime.utcnow"}
CPU_SECONDS = {"ru_utime", "ru_stime", "user", "system", "elapsed"}  # of `getrusage` and `times`
KEEP_DURATION = {"round", "abs", "min", "max", "sum", "float", "int", "sorted", "median", "mean"}
# Functions whose `timeout` is real time on any loop.
REAL_TIMEOUTS = {
    *("run", "call", "check_call", "check_output", "communicate", "result", "urlopen"),
    *("create_connection", "settimeout", "alarm"),
}
# So is the `timeout` of these functions if they are not awaited.
BLOCKING = {"join", "get", "put", "acquire", "wait"}
LOOP_TIMEOUTS = {"timeout", "timeout_at", "wait_for", "wait", "ClientTimeout", "OpenInterestClient"}
# The position of the timeout as a positional argument; for `join` and `wait`, see `_waiting`.
POSITION = {
    "timeout": 0,
    "timeout_at": 0,
    "settimeout": 0,
    "alarm": 0,
    "wait_for": 1,
    "create_connection": 1,
}
NAMES = {"timeout", "total", "connect", "sock_connect", "sock_read"}


class Find(NamedTuple):
    """One place in a file."""

    line: int
    function: str
    kind: str


class Shape(Enum):
    """The kind of a value of time."""

    INSTANT = "instant"
    DURATION = "duration"
    DEADLINE = "deadline"
    REMAINING = "remaining"


class Value(NamedTuple):
    """A value of time in an expression."""

    shape: Shape
    real: bool
    """Whether the value comes from a clock of the operating system, not of a loop."""
    seconds: float | None = None
    """Seconds from the reading of the clock to the deadline; None if the source hides them."""


Env = dict[str, Value]
Numbers = dict[str, float]
Function = ast.FunctionDef | ast.AsyncFunctionDef


def search(source: str) -> list[Find]:
    """Return all places of a module that depend on the speed of the machine, by line."""
    return sorted(set(_Module(ast.parse(source)).finds()))


def _name(node: ast.AST) -> str:
    """The last part of a name."""
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(attr=name):
            return name
    return ""


def _text(node: ast.expr) -> str:
    """A dotted name, such as `time.monotonic`."""
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=value, attr=attr):
            return f"{_text(value)}.{attr}"
        case ast.Call(func=func):
            return f"{_text(func)}()"
    return "?"


def _number(node: ast.AST | None, numbers: Numbers) -> float | None:
    """The value of an expression of numbers; None if it is unknown."""
    match node:
        case ast.Constant(value=bool()):
            return None
        case ast.Constant(value=int() | float() as value):
            return float(value)
        case ast.Name(id=name):
            return numbers.get(name)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            number = _number(operand, numbers)
            return None if number is None else -number
        case ast.BinOp(left=left, op=op, right=right):
            return _arithmetic(op, _number(left, numbers), _number(right, numbers))
        case ast.Attribute(value=ast.Name(id="math"), attr="inf"):
            return math.inf
    return None


def _arithmetic(op: ast.operator, left: float | None, right: float | None) -> float | None:
    if left is None or right is None:
        return None
    match op:
        case ast.Add():
            return left + right
        case ast.Sub():
            return left - right
        case ast.Mult():
            return left * right
        case ast.Div() if right:
            return left / right
    return None


def _own_nodes(function: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a function except those of nested functions, in the order of the source."""
    for child in ast.iter_child_nodes(function):
        if not isinstance(child, Function):
            yield child
            yield from _own_nodes(child)


def _marks(decorators: list[ast.expr]) -> set[str]:
    return {_name(d.func if isinstance(d, ast.Call) else d) for d in decorators}


def _fixtures(function: Function) -> set[str]:
    """`virtual_time` if it is an argument: the fixture of that name works like the mark."""
    return {arg.arg for arg in function.args.args} & {"virtual_time"}


@dataclass
class _Scope:
    """A function; its name and its marks include those of enclosing functions and classes."""

    node: Function
    name: str
    marks: set[str]
    nodes: list[ast.AST]
    """Its nodes, without those of nested functions."""
    uses: set[str] = field(default_factory=set[str])


class _Module:
    """One file: its constants, its functions, and which of them run on the virtual clock."""

    def __init__(self, tree: ast.Module) -> None:
        self._tree = tree
        self._numbers: Numbers = {}
        marks = set[str]()
        for node in tree.body:
            match node:
                case ast.Assign(targets=[ast.Name(id="pytestmark")], value=value):
                    marks = {_name(n) for n in ast.walk(value) if isinstance(n, ast.Attribute)}
                case ast.Assign(targets=targets, value=value):
                    self._note_numbers(targets, value)
        self._scopes = list(self._scopes_in(tree, "", marks))
        self._by_name = {scope.node.name: scope for scope in self._scopes}
        self._virtual = self._virtual_ones()
        self._returned: Env = {}
        self._learn_returns()

    def _note_numbers(self, targets: list[ast.expr], value: ast.expr) -> None:
        """Note the numbers of assignments such as `A = 1.0` and `A, B = 0.3, 0.75`."""
        for target in targets:
            pairs = (
                zip(target.elts, value.elts, strict=False)
                if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple)
                else [(target, value)]
            )
            for one, its in pairs:
                number = _number(its, self._numbers)
                if isinstance(one, ast.Name) and number is not None:
                    self._numbers[one.id] = number

    def _scopes_in(self, node: ast.AST, outer: str, marks: set[str]) -> Iterator[_Scope]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, Function):
                name = f"{outer}.{child.name}" if outer else child.name
                own = _marks(child.decorator_list) | _fixtures(child)
                scope = _Scope(child, name, marks | own, list(_own_nodes(child)))
                scope.uses = {_name(n) for n in ast.walk(child)} - {"", child.name}
                yield scope
                yield from self._scopes_in(child, name, scope.marks)
            elif isinstance(child, ast.ClassDef):
                name = f"{outer}.{child.name}" if outer else child.name
                yield from self._scopes_in(child, name, marks | _marks(child.decorator_list))
            else:
                yield from self._scopes_in(child, outer, marks)

    def _virtual_ones(self) -> set[str]:
        """Functions marked `virtual_time`, and those that only such functions use."""
        virtual = {s.name for s in self._scopes if "virtual_time" in s.marks}
        users = {
            s.name: [o for o in self._scopes if s.node.name in o.uses and o.name != s.name]
            for s in self._scopes
        }
        while True:
            more = {
                s.name
                for s in self._scopes
                if s.name not in virtual
                and not s.node.name.startswith("test_")
                and users[s.name]
                and all(o.name in virtual for o in users[s.name])
            }
            if not more:
                return virtual
            virtual |= more

    def _learn_returns(self) -> None:
        """Find the functions that return a time, in a few rounds, because they call each other."""
        returning = [s for s in self._scopes if any(isinstance(n, ast.Return) for n in s.nodes)]
        for _ in range(3):
            before = dict(self._returned)
            for scope in returning:
                reader = _Reader(self._numbers, self._returned, virtual=False)
                for node in scope.nodes:
                    reader.read(node)
                    if isinstance(node, ast.Return) and node.value is not None:
                        value = reader.value(node.value)
                        if value is not None and scope.node.name not in _TIME:
                            self._returned[scope.node.name] = value
            if self._returned == before:
                break

    def finds(self) -> Iterator[Find]:
        for scope in self._scopes:
            if "wallclock" not in scope.marks:
                virtual = scope.name in self._virtual
                yield from self._in(scope.nodes, scope.name, virtual)
        outside = ast.Module(
            [n for n in self._tree.body if not isinstance(n, Function | ast.ClassDef)], []
        )
        yield from self._in(list(_own_nodes(outside)), "", False)
        yield from self._programs()

    def _in(self, nodes: list[ast.AST], name: str, virtual: bool) -> Iterator[Find]:
        reader = _Reader(self._numbers, self._returned, virtual=virtual)
        asserted = {
            id(part)
            for child in nodes
            if isinstance(child, ast.Assert)
            for part in ast.walk(child.test)
        }
        for child in nodes:
            reader.read(child)
            for kind in reader.kinds(child, asserted=id(child) in asserted):
                yield Find(getattr(child, "lineno", 0), name, kind)

    def _programs(self) -> Iterator[Find]:
        """Search programs for separate processes, which a test module has as strings."""
        for node in self._tree.body:
            match node:
                case ast.Assign(
                    targets=[ast.Name(id=name)], value=ast.Constant(value=str() as text)
                ) if "import " in text and "\n" in text:
                    try:
                        found = search(text)
                    except SyntaxError:
                        continue
                    for find in found:
                        yield Find(node.lineno + find.line - 1, name, find.kind)


class _Reader:
    """Reads one function, and tracks which of its variables are times."""

    def __init__(self, numbers: Numbers, returned: Env, *, virtual: bool) -> None:
        self._numbers = dict(numbers)
        self._returned = returned
        self._virtual = virtual
        self._env: Env = {}
        self._awaited = set[int]()

    # -- values of time ----------------------------------------------------------------------

    def read(self, node: ast.AST) -> None:
        """Note an assignment, or an awaited call."""
        match node:
            case ast.Await(value=value):
                self._awaited.add(id(value))
            case ast.Assign(targets=targets, value=value):
                for target in targets:
                    self._assign(target, value)
            case ast.AnnAssign(target=target, value=ast.expr() as value):
                self._assign(target, value)
            case ast.AugAssign(target=target, value=value):
                found = self.value(value) or self.value(target)
                self._set(target, found)
            case ast.NamedExpr(target=target, value=value):
                self._assign(target, value)

    def _assign(self, target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            for one, its in zip(target.elts, value.elts, strict=False):
                self._assign(one, its)
            return
        number = _number(value, self._numbers)
        if isinstance(target, ast.Name) and number is not None:
            self._numbers[target.id] = number
        self._set(target, self.value(value))

    def _set(self, target: ast.expr, value: Value | None) -> None:
        if value is not None:
            self._env[_text(target)] = value
        else:
            self._env.pop(_text(target), None)

    def value(self, node: ast.AST) -> Value | None:
        """The value of time of an expression; None if the expression is not a time."""
        match node:
            case ast.Name() | ast.Attribute():
                known = self._env.get(_text(node))
                if known is None and isinstance(node, ast.Attribute):
                    return self.value(node.value) if node.attr in CPU_SECONDS else None
                return known
            case ast.NamedExpr(value=value) | ast.Await(value=value):
                return self.value(value)
            case ast.IfExp(body=body, orelse=orelse):
                return self.value(body) or self.value(orelse)
            case ast.Call():
                return self._call(node)
            case ast.BinOp(left=left, op=op, right=right):
                return self._operation(op, left, right)
            case ast.GeneratorExp(elt=elt) | ast.ListComp(elt=elt):
                return self.value(elt)
        return None

    def _call(self, node: ast.Call) -> Value | None:
        name, whole = _name(node.func), _text(node.func)
        if name == "time" and "loop" in whole.casefold():
            return Value(Shape.INSTANT, real=False)
        if whole in {f"time.{clock}" for clock in CLOCKS} | OTHER_CLOCKS:
            return Value(Shape.INSTANT, real=True)
        if isinstance(node.func, ast.Name) and name in CLOCKS and name != "time":
            return Value(Shape.INSTANT, real=True)
        if isinstance(node.func, ast.Name) and name in self._returned:
            return self._returned[name]
        if name in KEEP_DURATION:
            found = [v for argument in node.args if (v := self.value(argument))]
            return next((v for v in found if v.shape is Shape.DURATION), None)
        if name == "total_seconds" and isinstance(node.func, ast.Attribute):
            return self.value(node.func.value)
        return None

    def _operation(self, op: ast.operator, left: ast.expr, right: ast.expr) -> Value | None:
        one, other = self.value(left), self.value(right)
        first = one or other
        if first is None or isinstance(op, ast.Mod | ast.FloorDiv):
            return None
        if Shape.DURATION in {v.shape for v in (one, other) if v}:
            both = one is not None and other is not None
            is_ratio = both and isinstance(op, ast.Div)
            return None if is_ratio else Value(Shape.DURATION, _real(one, other))
        if isinstance(op, ast.Sub) and one and one.shape is Shape.DEADLINE and other:
            return Value(Shape.REMAINING, one.real, one.seconds)
        if isinstance(op, ast.Sub):
            if one is None or (other is None and _number(right, self._numbers) is not None):
                return first  # minus a number, which changes no shape
            return Value(Shape.DURATION, _real(one, other))
        if isinstance(op, ast.Add) and first.shape is Shape.INSTANT:
            ahead = _number(right if one else left, self._numbers)
            return Value(Shape.DEADLINE, first.real, ahead)
        return first if isinstance(op, ast.Mult | ast.Div) else None

    # -- dependencies on speed ----------------------------------------------------------------

    def kinds(self, node: ast.AST, *, asserted: bool) -> Iterator[str]:
        match node:
            case ast.Compare(left=left, ops=ops, comparators=comparators):
                pairs = itertools.pairwise([left, *comparators])
                for op, (one, other) in zip(ops, pairs, strict=True):
                    yield from self._comparison(one, op, other, asserted)
            case ast.Call():
                yield from self._waiting(node)
            case ast.For() | ast.AsyncFor():
                yield from self._tries(node)

    def _tries(self, node: ast.For | ast.AsyncFor) -> Iterator[str]:
        """Report a loop that sleeps after each try, and gives up within a minute."""
        if not (isinstance(node.iter, ast.Call) and _name(node.iter.func) == "range"):
            return
        tries = _number(node.iter.args[0], self._numbers) if node.iter.args else None
        naps = [part for part in _own_nodes(node) if isinstance(part, ast.Call)]
        seconds = sum(
            _number(nap.args[0], self._numbers) or 0.0
            for nap in naps
            if _name(nap.func) == "sleep" and nap.args and self._passes_here(nap)
        )
        if tries is not None and 0 < tries * seconds < PATIENCE_S:
            yield "patience"

    def _passes_here(self, nap: ast.Call) -> bool:
        """Whether this call sleeps in real time."""
        return _text(nap.func) == "time.sleep" or not self._virtual

    def _comparison(
        self, left: ast.expr, op: ast.cmpop, right: ast.expr, asserted: bool
    ) -> Iterator[str]:
        one, other = self._counts(left), self._counts(right)
        shapes = {v.shape for v in (one, other) if v}
        if shapes & {Shape.DEADLINE, Shape.REMAINING}:
            late = next(v for v in (one, other) if v and v.shape in _AHEAD)
            with_clock = late.shape is Shape.REMAINING or Shape.INSTANT in shapes
            if with_clock and (late.seconds is None or late.seconds < PATIENCE_S):
                yield "patience"
        elif shapes == {Shape.DURATION} and (one is None) != (other is None):
            bound = _number(right if one else left, self._numbers)
            upper = isinstance(op, ast.Lt | ast.LtE) if one else isinstance(op, ast.Gt | ast.GtE)
            lower = isinstance(op, ast.Gt | ast.GtE) if one else isinstance(op, ast.Lt | ast.LtE)
            if lower and asserted:
                return
            if not (upper and bound is not None and bound >= PATIENCE_S):
                yield "duration"

    def _counts(self, node: ast.expr) -> Value | None:
        """The value of an expression if it is a time on a real clock; otherwise None."""
        value = self.value(node)
        return value if value and (value.real or not self._virtual) else None

    def _waiting(self, node: ast.Call) -> Iterator[str]:
        name, whole = _name(node.func), _text(node.func)
        if whole in ("time.sleep", "asyncio.sleep", "sleep"):
            if self._is_long_nap(node) and self._passes_here(node):
                yield "sleep"
            return
        on_loop = whole.startswith("asyncio.") or name in ("ClientTimeout", "OpenInterestClient")
        on_loop = on_loop or (name in BLOCKING and id(node) in self._awaited)
        if on_loop and self._virtual:
            return
        if name in LOOP_TIMEOUTS | REAL_TIMEOUTS | BLOCKING:
            short = partial(_is_short, numbers=self._numbers)
            given = [k.value for k in node.keywords if k.arg in NAMES]
            position = POSITION.get(name)
            if position is not None and len(node.args) > position:
                given.append(node.args[position])
            if not on_loop and name in ("join", "wait"):
                given += node.args[:1]
            if any(short(value) for value in given) or any(
                v.shape is Shape.DEADLINE and v.seconds is not None and v.seconds < PATIENCE_S
                for value in given
                if (v := self.value(value))
            ):
                yield "timeout"

    def _is_long_nap(self, node: ast.Call) -> bool:
        seconds = _number(node.args[0], self._numbers) if node.args else None
        if seconds is None:
            return _text(node.func) == "time.sleep"
        return seconds >= LONGEST_NAP_S


_AHEAD = (Shape.DEADLINE, Shape.REMAINING)


def _real(one: Value | None, other: Value | None) -> bool:
    return any(v is not None and v.real for v in (one, other))


def _is_short(node: ast.expr, numbers: Numbers) -> bool:
    """Whether a busy machine may need more than this number of seconds; 0 or less is no wait."""
    seconds = _number(node, numbers)
    return seconds is not None and 0 < seconds < PATIENCE_S
