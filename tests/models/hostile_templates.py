"""Chat templates that ask for more time, memory or text than a conversation is worth: one of each kind that is known,
and a generator of others."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

MESSAGES: list[dict[str, Any]] = [{"role": "user", "content": "hello there"}]


def doubled(step: str, end: str, start: str = "[1]") -> str:
    """A value that becomes a larger one sixty times."""
    loop = f"{{% for i in range(60) %}}{{% set ns.x = {step} %}}{{% endfor %}}"
    return f"{{% set ns = namespace(x={start}) %}}{loop}{end}"


def nested(step: str, end: str) -> str:
    """A value inside of another, and so on, ninety thousand times."""
    return (
        f"{{% set ns = namespace(x=(1,)) %}}{{% for i in range(90000) %}}{{% set ns.x = {step} %}}{{% endfor %}}{end}"
    )


TEMPLATES = {
    "nested loops": "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
    "loops of tests": "{% for a in range(100000) %}{% for b in range(100000) if false %}{% endfor %}{% endfor %}",
    "long body": "{% for i in range(100000) %}" + "{% if i.a.b %}{% endif %}" * 2000 + "{% endfor %}",
    "long text": "{% for i in range(100000) %}" + "x" * 100000 + "{% endfor %}",
    "recursion of macros": "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "recursion of loops": "{% for x in [0, 1] recursive %}{{ loop([0, 1]) if loop.depth < 60 }}{% endfor %}",
    "product": "{{ 'x' * 1000000000 }}",
    "product of lists": "{{ [1] * 1000000000 }}",
    "center": "{{ 'x' | center(1000000000) }}",
    "center of a text": "{{ 'x'.center(1000000000) }}",
    "zeros": "{{ '1'.zfill(1000000000) }}",
    "indent": "{{ ('a\n' * 1000) | indent(1000000000) }}",
    "indent by a text": "{{ ('a\n' * 10000) | indent('x' * 100000) }}",
    "JSON": "{{ messages | tojson(indent=1000000000) }}",
    "JSON by a text": "{{ messages | tojson(indent='x' * 900000) }}",
    "JSON's separators": "{{ range(10000) | list | tojson(separators=('x' * 10000, 'y')) }}",
    "power": "{{ (9 ** 900) ** 9000 }}",
    "squares": doubled("ns.x * ns.x", "{{ ns.x }}", "3"),
    "sum": doubled("ns.x + ns.x", "{{ ns.x }}", "'ab'"),
    "joined": doubled("ns.x ~ ns.x", "{{ ns.x }}", "'ab'"),
    "written": doubled("[ns.x, ns.x]", "{{ ns.x }}"),
    "as JSON": doubled("[ns.x, ns.x]", "{{ ns.x | tojson }}"),
    "compared": doubled("[ns.x, ns.x]", "{{ ns.x == [ns.x] }}{{ ns.x is in [ns.x] }}"),
    "hashed": doubled("(ns.x, ns.x)", "{{ {ns.x: 1} }}", "(1,)"),
    "looked up": doubled("[ns.x, ns.x]", "{{ messages[ns.x].a }}"),
    "changed": doubled("[ns.x, ns.x]", "{% for i in [1, 2] %}{{ loop.changed(ns.x) }}{% endfor %}"),
    "spaces": doubled("[namespace(a=ns.x, b=ns.x)]", "{{ ns.x }}"),
    "deep key": nested("(ns.x,)", "{{ {ns.x: 1} }}"),
    "deep argument": nested("(ns.x,)", "{{ messages[0].get(ns.x) }}"),
    "deep test": nested("(ns.x,)", "{{ ns.x is in messages[0] }}"),
    "own self": "{% set ns = namespace() %}{% set ns.x = [ns] %}{{ ns }}",
    "format": "{{ '%1000000000d' | format(1) }}",
    "percent": "{{ '%1000000000d' % 1 }}",
    "starred": "{{ '%*d' % (1000000000, 1) }}",
    "precision": "{{ '%.999999999f' % 1.5 }}",
    "odd": "{{ '%1000000000d' is odd }}",
    "braces": "{{ '{:>1000000000}'.format(1) }}",
    "nested braces": "{{ '{:>{}}'.format(1, 1000000000) }}",
    "mapped braces": "{{ '{a:>1000000000}'.format_map({'a': 1}) }}",
    "handed braces": "{% macro m() %}{{ caller(1) }}{% endmacro %}{{ m(caller='{:>1000000000}'.format) }}",
    "escaped braces": "{{ ('{:>1000000000}' | safe).format(1) }}",
    "replace": "{{ ('x' * 100000) | replace('x', 'y' * 100000) }}",
    "replace nothing": "{{ ('x' * 100000).replace('', 'y' * 100000) }}",
    "join": "{{ range(100000) | join('x' * 100000) }}",
    "join a text": "{{ ('x' * 100000).join('y' * 100000) }}",
    "round": "{{ 1.5 | round(100000000, 'ceil') }}",
    "round a text": "{{ 'x' | round(9, 'ceil') }}",
    "batch": "{{ [1] | batch(1000000000, 0) | list }}",
    "slice": "{{ [1] | slice(1000000000) | list }}",
    "sum of lists": "{{ (range(100000) | batch(1) | list) | sum(start=[]) }}",
    "attribute": "{{ range(100000) | map(attribute='real.' * 50000) | list }}",
    "words": "{% set s = 'ab ' * 900000 %}{{ s.split() | length }}{{ s | title }}",
    "huge integer": "{{ (('f' * 100000) | int(base=16)) % 7 }}",
    "bytes": "{{ (1).to_bytes(1000000000, 'big') }}",
    "tabs": "{{ '\t'.expandtabs(1000000000) }}",
    "clock": "{{ strftime_now('%c' * 1000000) }}",
    "no such filter": "{{ ('a' * 100000) | urlize }}",
    "constants in the compiler": "{% autoescape 'x' * 1000000000 %}{% endautoescape %}",
    "blocks": "{% block a %}{{ self.a() }}{{ self.a() }}{% endblock %}",
    "long error": "{{ raise_exception('x' * 900000) }}",
    "long name": "{{ messages['x' * 900000].y }}",
    "long source": "{{ 1 }}" * 30000,
    "many nodes": "{% set s = 1 %}{{ " + "~".join("s" * 40000) + " }}",
    "parentheses": "{{ " + "(" * 50000 + "1" + ")" * 50000 + " }}",
    "digits": "{{ " + "9" * 5000 + " }}",
    "blocks in blocks": "{% for a in [1] %}" * 30 + "{% endfor %}" * 30,
    "generator without an item": "{{ cycler() }}",
}
"""Each is refused."""


def _one_of(words: str) -> st.SearchStrategy[str]:
    return st.sampled_from(words.split())


_ATOMS = _one_of(
    "'x' '' 0 -1 3 1000000000 1.5 1e300 none true messages messages[0] ns.a ns.b range(100000) [] () {} loop missing "
    "'%999999999d' '{:>999999999}' '{0!r:>9}' ('ab\\n'*100000) ('\U000e0001'*90000) 0xffffffffffffffffffff"
)
_FILTERS = _one_of(
    "abs attr batch capitalize center count default dictsort e first float format groupby indent int items join last "
    "length list lower map max min reject replace reverse round safe select selectattr slice sort string sum title "
    "tojson trim truncate unique upper urlencode wordcount"
)
_METHODS = _one_of(
    "capitalize center count copy endswith find format format_map get index items join keys ljust lower replace rjust "
    "split splitlines startswith strip title upper values zfill encode append to_bytes __class__ fromkeys next"
)
_OPERATORS = _one_of("+ - * / // % ** ~ == < in and or")
_TESTS = _one_of("defined none string odd even iterable mapping sequence lower upper number")


def _larger(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    arguments = st.lists(inner, max_size=3).map(", ".join)
    return st.one_of(
        st.tuples(inner, _OPERATORS, inner).map(lambda parts: "({} {} {})".format(*parts)),
        st.tuples(inner, _FILTERS, arguments).map(lambda parts: "({} | {}({}))".format(*parts)),
        st.tuples(inner, _METHODS, arguments).map(lambda parts: "({}.{}({}))".format(*parts)),
        st.tuples(inner, _TESTS).map(lambda parts: "({} is {})".format(*parts)),
        st.tuples(inner, inner).map(lambda parts: "({}[{}])".format(*parts)),
        st.tuples(inner, inner).map(lambda parts: "[{0}, {1}, {0}]".format(*parts)),
        st.tuples(inner, inner).map(lambda parts: "({0}, {1}, {0})".format(*parts)),
        st.tuples(inner, inner).map(lambda parts: "{{{}: {}}}".format(*parts)),
        st.tuples(inner, inner).map(lambda parts: "({})[::{}]".format(*parts)),
        st.tuples(inner, inner).map(lambda parts: "(f({}) ~ g({}))".format(*parts)),
    )


EXPRESSIONS = st.recursive(_ATOMS, _larger, max_leaves=8)


def _around(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(EXPRESSIONS, inner).map(lambda parts: "{{% for v in {} %}}{}{{% endfor %}}".format(*parts)),
        inner.map(lambda body: f"{{% for v in range(90000) %}}{body}{{% endfor %}}"),
        st.tuples(EXPRESSIONS, inner).map(lambda parts: "{{% if {} %}}{}{{% endif %}}".format(*parts)),
        st.tuples(_FILTERS, inner).map(lambda parts: "{{% filter {} %}}{}{{% endfilter %}}".format(*parts)),
        inner.map(lambda body: f"{{% set y %}}{body}{{% endset %}}{{% set ns.a = y %}}{{{{ y }}}}"),
        inner.map(lambda body: f"{{% call f(1) %}}{body}{{% endcall %}}"),
    )


_SIMPLE = st.one_of(
    EXPRESSIONS.map(lambda expression: f"{{{{ {expression} }}}}"),
    st.tuples(st.sampled_from("ab"), EXPRESSIONS).map(lambda parts: "{{% set ns.{} = {} %}}".format(*parts)),
)
_BEGINNING = (
    "{% set ns = namespace(a='ab', b=[1]) %}"
    "{% macro f(n) %}{{ n }}{{ varargs }}{{ caller() if caller }}{{ f(n) }}{% endmacro %}"
    "{% macro g(n) %}{{ n }}{% endmacro %}"
)
SOURCES = st.recursive(_SIMPLE, _around, max_leaves=6).map(lambda body: _BEGINNING + body)
"""Templates of whatever Jinja has, with constants that make the most of it."""
