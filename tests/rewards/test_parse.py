"""Text to expression: the inverse of printing, safe on any text."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rewards import R, ensemble, max_, min_, pointwise, rank
from rewards.errors import ExpressionError
from rewards.expression import AGGREGATES, Constraint, Expression, Number
from rewards.panel import RewardTable
from rewards.parse import MAX_CHARACTERS, MAX_DEPTH, parse_constraint, parse_expression
from rewards.selection import Where
from rewards.semantics import value_of
from rewards.user_functions import Apply


@pointwise(name="parse_test_first")
def finite(*tensors):
    return torch.nan_to_num(tensors[0])


FUNCTIONS = ("parse_test_first", "my.module.f", "path/to/file.py:f", "my.clip")
TARGETS = dict.fromkeys(FUNCTIONS, finite)
A, B, C = R("a"), R("b"), R("c")
NAMES = ("a", "b", "my.module.f", "path/to/file.py:f", "it's", "my.class", "été", "ﬁ", "a b")
TABLE = RewardTable(
    torch.randn(6, len(NAMES), generator=torch.Generator().manual_seed(0)),
    torch.ones(6, len(NAMES), dtype=torch.bool),
    torch.rand(6, len(NAMES), generator=torch.Generator().manual_seed(1)),
    NAMES,
)


def _pair(inner: st.SearchStrategy[Expression]) -> st.SearchStrategy[tuple[Expression, ...]]:
    return st.lists(inner, min_size=2, max_size=3).map(tuple)


def _different(members: tuple[Expression, ...]) -> bool:
    return len(set(members)) == len(members)


NUMBERS = st.one_of(st.floats(-1e6, 1e6), st.integers(-9, 9).map(float), st.floats(1e-30, 1e30))
LEAVES = st.one_of(st.sampled_from(NAMES).map(R), NUMBERS.map(Number))
EXPRESSIONS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda p: p[0] + p[1]),
        st.tuples(inner, inner).map(lambda p: p[0] - p[1]),
        st.tuples(inner, inner).map(lambda p: p[0] * p[1]),
        st.tuples(inner, inner).map(lambda p: p[0] / p[1]),
        inner.map(lambda e: -e),
        inner.map(lambda e: e.calibrated()),
        st.tuples(inner, st.floats(-9, 0), st.floats(0.01, 9)).map(lambda p: p[0].clip(*p[1:])),
        _pair(inner).map(lambda p: min_(*p)),
        _pair(inner).map(lambda p: max_(*p)),
        st.tuples(_pair(inner).filter(_different), st.sampled_from(AGGREGATES)).map(
            lambda p: ensemble(*p[0], aggregate=p[1])
        ),
        st.tuples(
            inner.filter(lambda e: not isinstance(e, Number)),
            st.sampled_from(("<=", ">=")),
            NUMBERS,
            inner,
            inner,
        ).map(lambda p: Where(*p)),
        inner.map(rank),
        st.tuples(st.sampled_from(FUNCTIONS), _pair(inner)).map(
            lambda p: Apply(p[0], p[1], TARGETS[p[0]])
        ),
    ),
    max_leaves=12,
)


class TestReading:
    @pytest.mark.parametrize(
        ("text", "expression"),
        [
            ("a", A),
            (" a + b ", A + B),
            ("my.module.f", R("my.module.f")),
            ('R("path/to/file.py:f")', R("path/to/file.py:f")),
            ("path/to/file.py:f", R("path/to/file.py:f")),
            ("0.5 * ./my-own/file.py:f - a", 0.5 * R("./my-own/file.py:f") - A),
            ("-shapes/file.py:f", -R("shapes/file.py:f")),
            ("a / b", A / B),
            ("a/b", A / B),
            ("a - b - c", A - B - C),
            ("a * (b + 1)", A * (B + 1)),
            ("-a * b", -A * B),
            ("-3", Number(-3.0)),
            ("1e-3", Number(0.001)),
            ("min(a, 0.5)", min_(A, 0.5)),
            ("max_(a, b)", max_(A, B)),
            ("clip(a, -1, 1)", A.clip(-1, 1)),
            ("a.clip(-1, 1)", A.clip(-1, 1)),
            ("R('a').calibrated()", A.calibrated()),
            ("(a + b).calibrated()", (A + B).calibrated()),
            ("ensemble(a, b)", ensemble(A, B)),
            ("ensemble(a, b, aggregate='min')", ensemble(A, B, aggregate="min")),
        ],
    )
    def test_value(self, text, expression):
        assert parse_expression(text) == expression

    @pytest.mark.parametrize(
        ("text", "constraint"),
        [
            ("a <= 0.03", Constraint(A, "<=", 0.03)),
            ("a >= -2", Constraint(A, ">=", -2.0)),
            ("0.5 >= a", Constraint(A, "<=", 0.5)),
            ("0.5 * a + b <= 1", Constraint(0.5 * A + B, "<=", 1.0)),
            ("a <= b", Constraint(A - B, "<=", 0.0)),
        ],
    )
    def test_constraint(self, text, constraint):
        assert parse_constraint(text) == constraint
        assert parse_constraint(str(constraint)) == constraint


@pytest.mark.usefixtures("unchecked")
class TestRoundTrip:
    @given(EXPRESSIONS)
    def test_text_to_tree_is_the_inverse_of_printing(self, expression):
        text = str(expression)
        again = parse_expression(text)
        assert again == expression
        assert str(again) == text

    @given(EXPRESSIONS)
    def test_the_value_is_the_same(self, expression):
        statistics = {str(node): (0.3, 1.7) for node in expression.walk()}
        before = value_of(expression, TABLE, statistics)
        with pytest.MonkeyPatch.context() as patch:
            # What a path names, without the file.
            patch.setattr("rewards.user_functions.import_object", lambda path, name: finite)
            after = value_of(parse_expression(str(expression)), TABLE, statistics)
        for name in ("values", "valid", "std"):
            first, second = getattr(before, name), getattr(after, name)
            assert (first is None and second is None) or torch.equal(
                torch.nan_to_num(first), torch.nan_to_num(second)
            )

    @given(EXPRESSIONS, st.sampled_from(("<=", ">=")), NUMBERS)
    def test_constraints(self, expression, sense, threshold):
        if isinstance(expression, Number):
            return  # `1 <= 2` is read as `2 >= 1`, and refused by the objective either way
        constraint = Constraint(expression, sense, threshold)
        assert parse_constraint(str(constraint)) == constraint


@pytest.mark.usefixtures("unchecked")
class TestErrors:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "is no expression"),
            ("a +", "is no expression: invalid syntax"),
            ("a b", "is no expression"),
            ("a = 3", "is no expression"),
            ("a; b", "is no expression"),
            ("a\x00b", "is no expression"),
            ("\ud800", "is no expression"),
            ("a <= 1", "'a <= 1' is a constraint; here an expression is expected"),
            ("a ** 2", r"'a \*\* 2' is not part of an expression; it takes rewards, numbers"),
            ("a // 2", "'a // 2' is not part of an expression"),
            ("not a", "'not a' is not part of an expression"),
            ("a and b", "'a and b' is not part of an expression"),
            ("[a]", r"'\[a\]' is not part of an expression"),
            ("a[0]", r"'a\[0\]' is not part of an expression"),
            ("lambda: a", "'lambda: a' is not part of an expression"),
            ("(a := 3)", "is not part of an expression"),
            ("f'{a}'", "is not part of an expression"),
            ("min(*a)", r"'\*a' is not part of an expression"),
            ("'a'", r"'a' is not a number; a quoted name goes in R\(\.\.\.\)"),
            ("True", "True is not a number"),
            ("None", "None is not a number"),
            ("2j", "2j is not a number"),
            ("1e999", "1e309 is too large for a number"),
            ("9" * 400, "is too large for a number"),
            ("minimum(a, b)", "unknown call 'minimum'; nearest: 'min'"),
            ("a.exp()", "unknown call 'a.exp'; nearest: 'max'; known: R, "),
            ("__import__('os')", "unknown call '__import__'"),
            ("a()()", r"'a\(\)' is no name"),
            ("R(a)", r"R\(\) takes one quoted name"),
            ("R(3)", r"R\(\) takes one quoted name"),
            ("R('')", r"R\(\) takes one quoted name"),
            ("R('a', 'b')", r"R\(\) takes one quoted name"),
            ("R('a', device='cpu')", r"R\(\) takes no device"),
            ("clip(a, 0)", r"clip\(\) takes 3 arguments; got 2"),
            ("clip(a, b, 1)", r"clip takes an expression and two numbers; got clip\(a, b, 1\)"),
            ("clip(a, 1, 0)", "clip needs low < high; got 1 and 0"),
            ("clip(a, low=0, high=1)", r"clip\(\) takes no low, high"),
            ("calibrated(a, b)", r"calibrated\(\) takes 1 arguments; got 2"),
            ("min()", r"min\(\) needs at least one expression"),
            ("ensemble(a)", "an ensemble needs at least two members"),
            ("ensemble(a, b, how='min')", r"ensemble\(\) takes no how"),
            ("ensemble(a, b, **c)", r"ensemble\(\) takes no \*\*"),
            ("ensemble(a, b, aggregate=min)", '`aggregate` is quoted, as in aggregate="min"'),
            ("ensemble(a, b, aggregate='mode')", "unknown `aggregate` 'mode'"),
        ],
    )
    def test_expression(self, text, message):
        with pytest.raises(ExpressionError, match=message):
            parse_expression(text)

    @pytest.mark.parametrize(
        "text", ["a", "a < 1", "a == 1", "a != 1", "0 <= a <= 1", "a in b", "a <= 1 and a >= 0"]
    )
    def test_no_constraint(self, text):
        message = "is no constraint; write it as `expression <= number` or `expression >= number`"
        with pytest.raises(ExpressionError, match=message):
            parse_constraint(text)

    def test_the_whole_text_is_shown(self):
        with pytest.raises(ExpressionError, match=r"^'0.5 \* a \+ sqrt\(b\)': unknown call 'sqrt'"):
            parse_expression("0.5 * a + sqrt(b)")


ATTACKS = {
    "brackets": "(" * 1500 + "a" + ")" * 1500,
    "open brackets": "(" * 3999,
    "lists": "[" * 3999,
    "calls": "min(" * 700 + "a" + ")" * 700,
    "signs": "-" * 3999 + "a",
    "sum": "a" + "+a" * 1999,
    "product": "a" + "*a" * 1999,
    "quotients": "a" + "/a" * 1999,
    "attributes": "a" + ".b" * 1999,
    "methods": "a" + ".calibrated()" * 300,
    "comparisons": "a" + "<=a" * 1300,
    "lambdas": "lambda:" * 500 + "a",
    "negations": "not " * 900 + "a",
    "digits": "9" * 3999,
    "exponent": "1e" + "9" * 3000,
    "powers": "9**9**9**9**9",
    "paths": "a-" * 1999 + "b",
    "almost paths": "a.py:" * 700,
    "almost quoted": "'" * 3999,
    "strings": "'a' " * 900,
}


@pytest.mark.usefixtures("unchecked")
class TestAttacks:
    def test_length(self):
        assert parse_expression("a" * MAX_CHARACTERS) == R("a" * MAX_CHARACTERS)
        message = f"at most {MAX_CHARACTERS} characters; got {MAX_CHARACTERS + 1}"
        with pytest.raises(ExpressionError, match=message):
            parse_expression("a" * (MAX_CHARACTERS + 1))
        with pytest.raises(ExpressionError, match=message):
            parse_constraint("a" * (MAX_CHARACTERS + 1))

    def test_depth(self):
        # The k-th bracket of a sum lies k levels deep; a leaf holds its name's context one below.
        deepest = "a" + "+a" * (MAX_DEPTH - 2)
        assert str(parse_expression(deepest)).count("+") == MAX_DEPTH - 2
        with pytest.raises(ExpressionError, match=f"nests at most {MAX_DEPTH} levels deep; 'a\\+a"):
            parse_expression(deepest + "+a")

    def test_the_deepest_tree_can_be_used(self):
        deepest = parse_expression("a" + "-(a" * (MAX_DEPTH - 2) + ")" * (MAX_DEPTH - 2))
        assert parse_expression(str(deepest)) == deepest
        assert deepest.leaves() == (A,)
        assert hash(deepest) == hash(parse_expression(str(deepest)))
        assert torch.isfinite(value_of(deepest, TABLE, {}).values).all()

    @pytest.mark.parametrize("name", ATTACKS)
    def test_is_refused(self, name):
        for parse in (parse_expression, parse_constraint):
            with pytest.raises(ExpressionError):
                parse(ATTACKS[name])

    def test_no_attack_ends_the_process(self):
        # A stack overflow in C would kill pytest itself, so a process of its own takes them all.
        code = (
            "import sys, json\n"
            "from rewards.errors import ExpressionError\n"
            "from rewards.parse import parse_expression\n"
            "refused = 0\n"
            "for text in json.load(sys.stdin):\n"
            "    try: parse_expression(text)\n"
            "    except ExpressionError: refused += 1\n"
            "print(refused)\n"
        )
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code],
            input=json.dumps(list(ATTACKS.values())),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert int(done.stdout) == len(ATTACKS)

    @given(st.text(max_size=60))
    def test_any_text_is_read_or_refused(self, text):
        try:
            expression = parse_expression(text)
        except ExpressionError:
            return
        assert parse_expression(str(expression)) == expression

    @given(st.text(alphabet="ab01.+-*/(),<=' \"Rminclp:y_", max_size=40))
    def test_almost_an_expression_is_read_or_refused(self, text):
        for parse in (parse_expression, parse_constraint):
            try:
                found = parse(text)
            except ExpressionError:
                continue
            assert parse(str(found)) == found
