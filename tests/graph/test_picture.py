"""Every node is drawn once, nothing lies on anything else, and edges end where they should."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from itertools import combinations, pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.catalogue.harness import registry
from tests.graph.family_graphs import graphs
from tests.graph.tiny import tiny_config
from tinyllm.graph.graph import Graph
from tinyllm.graph.tools.cards import Card, Facts, cards
from tinyllm.graph.tools.fold import Folded, fold
from tinyllm.graph.tools.graph_data import as_data, rows
from tinyllm.graph.tools.layered import Edge, Size, layered
from tinyllm.graph.tools.picture import Picture, picture
from tinyllm.graph.tools.picture_page import html
from tinyllm.graph.tools.picture_svg import Caption, svg
from tinyllm.models.decoder.decoder import decoder

GRAPHS = graphs()
NOTHING = Facts()
SVG = "{http://www.w3.org/2000/svg}"
Rectangle = tuple[float, float, float, float]


def _drawn(graph: Graph, facts: Facts = NOTHING, equal: bool = True) -> tuple[Folded, dict[str, Card], Picture]:
    folded = fold(graph, equal)
    shown = cards(folded, registry().specs, facts)
    return folded, shown, picture(folded, shown)


@cache
def _drawn_once(name: str) -> tuple[Folded, dict[str, Card], Picture]:
    return _drawn(GRAPHS[name])


def _overlap(a: Rectangle, b: Rectangle) -> bool:
    return a[0] < b[0] + b[2] and b[0] < a[0] + a[2] and a[1] < b[1] + b[3] and b[1] < a[1] + a[3]


def _uprights(points: tuple[tuple[float, float], ...]) -> Iterator[Rectangle]:
    """The upright stretches of an edge, without the ends that touch its boxes."""
    for (x, y), (to_x, to_y) in pairwise(points):
        if abs(x - to_x) < 1e-6 and abs(to_y - y) > 2:
            yield x, min(y, to_y) + 1, 0.0, abs(to_y - y) - 2


@pytest.mark.parametrize("name", GRAPHS)
def test_boxes_lie_apart_and_edges_join_them(name: str) -> None:
    folded, _, drawn = _drawn_once(name)
    boxes = {box.id: box for box in drawn.boxes}
    assert len(boxes) == len(drawn.boxes)
    nodes = [box.id for box in drawn.boxes if box.role == "node"]
    assert Counter(nodes) == Counter(node.name for part in folded.parts for node in part.nodes)
    places = [(b.x, b.y, b.width, b.height) for b in drawn.boxes if b.role != "hidden"]
    assert not any(_overlap(a, b) for a, b in combinations(places, 2))
    assert all(x >= 0 and y >= 0 and x + w <= drawn.width and y + h <= drawn.height for x, y, w, h in places)
    frames = [(f.x, f.y, f.width, f.height) for f in drawn.frames]
    assert not any(_overlap(a, b) for a, b in combinations(frames, 2))
    assert len({(line.source, line.target, line.points[0]) for line in drawn.lines}) == len(drawn.lines)
    for line in drawn.lines:
        source, target = boxes[line.source], boxes[line.target]
        (x, y), (to_x, to_y) = line.points[0], line.points[-1]
        assert source.x <= x <= source.x + source.width and y == pytest.approx(source.y + source.height)
        assert target.x <= to_x <= target.x + target.width and to_y == pytest.approx(target.y)
        assert not any(_overlap(stretch, place) for stretch in _uprights(line.points) for place in places)


@pytest.mark.parametrize("name", GRAPHS)
def test_every_edge_of_the_graph_is_drawn(name: str) -> None:
    """From the node that makes the value, from the pill that names it, or from where it comes into the block."""
    folded, _, drawn = _drawn_once(name)
    lines = {(line.source, line.target) for line in drawn.lines}
    makers = {value: node.name for node in folded.graph.nodes for value in node.outputs}
    for number, part in enumerate(folded.parts):
        inside = {node.name for node in part.nodes}
        for node in part.nodes:
            for value in set(node.inputs.values()) & makers.keys():
                maker = makers[value]
                if maker in inside:
                    assert (maker, node.name) in lines
                elif folded.is_named(part, value):
                    assert (f"{number} from {maker}", node.name) in lines
                else:
                    assert (f"{number} in {value}", node.name) in lines
                    assert any(target == f"{number} in {value}" for _, target in lines)


@pytest.mark.parametrize("name", ["qwen3_next-0", "gemma3_text-0-merged"])
def test_all_blocks_are_drawn_where_nothing_is_folded(name: str) -> None:
    folded, _, drawn = _drawn(GRAPHS[name], equal=False)
    assert {box.id for box in drawn.boxes if box.role == "node"} == {node.name for node in GRAPHS[name].nodes}
    assert len(drawn.frames) == len([part for part in folded.parts if part.numbers]) > 6


def _hostile() -> Graph:
    """One whose names are no good XML."""
    config = tiny_config()
    graph = decoder(replace(config, layers=config.layers[:1] * 3), registry().specs)
    nodes = tuple(replace(node, name=node.name.replace("add_2", "<b a='\"&\x07]]>")) for node in graph.nodes)
    return replace(graph, nodes=nodes)


def test_the_svg_is_xml_and_names_are_escaped() -> None:
    graph = _hostile()
    folded, shown, drawn = _drawn(graph, Facts(seconds={node.name: 0.1 for node in graph.nodes}, step="<i>"))
    text = svg(drawn, Caption("<title>&\x00", "a & b", "<i>"))
    root = ElementTree.fromstring(text)
    assert root.tag == f"{SVG}svg" and "<b a" not in text and "\x07" not in text
    groups = [g.attrib["data-node"] for g in root.iter(f"{SVG}g") if g.attrib.get("class") == "n"]
    assert len(groups) == len(set(groups)) == len(shown)
    assert not [e for e in root.iter() if e.tag in (f"{SVG}script", f"{SVG}image")] and "href" not in text
    page = html(text, Caption("<title>&", "a & b"), rows(folded, shown))
    assert "<b a" not in page.replace(text, "") and "</title>&" not in page
    assert not [word for word in page.split('"') if word.startswith(("http:", "https:", "//")) and "w3.org" not in word]
    inner = page.partition('<script type="application/json" id="rows">')[2].partition("</script>")[0]
    assert [row["id"] for row in json.loads(inner)] == [node.name for part in folded.parts for node in part.nodes]


def test_data_says_what_is_known() -> None:
    graph = decoder(tiny_config(), registry().specs)
    first, *_ = graph.nodes
    facts = Facts(
        kernels={node.name: f"numpy/{node.op}:x" for node in graph.nodes},
        stored=dict.fromkeys(graph.weights, "q4_1"),
        seconds={node.name: float(node is first) for node in graph.nodes},
        step="prompt of 3",
    )
    folded, shown, _ = _drawn(graph, facts)
    data = json.loads(json.dumps(as_data(folded, shown)))
    assert [node["share"] for node in data["nodes"]] == [1.0] + [0.0] * (len(data["nodes"]) - 1)
    found = {node["name"]: node for node in data["nodes"]}["model.layers.0.self_attn.q_proj.linear"]
    assert found["kernels"] == {"numpy/linear:x": found["repeats"]}
    assert found["weights"]["weight"] == {
        "name": "model.layers.0.self_attn.q_proj.weight", "shape": [64, 64], "dtype": "float32",
        "stored": {"q4_1": found["repeats"]},
    }  # fmt: skip
    edges = {(edge["from"], edge["to"], edge["input"]): edge for edge in data["edges"]}
    assert edges["embedding", "model.layers.0.rms_norm", "x"]["shape"] == ["T", 64]
    assert {name for node in graph.nodes for name in node.inputs} == {edge["input"] for edge in data["edges"]}


@st.composite
def _acyclic(draw: st.DrawFn) -> tuple[dict[str, Size], list[Edge]]:
    count = draw(st.integers(1, 12))
    side = st.floats(0, 200)
    sizes = {str(n): Size(draw(side), draw(side), draw(st.booleans())) for n in range(count)}
    pairs = draw(st.sets(st.tuples(st.integers(0, count - 1), st.integers(0, count - 1)), max_size=30))
    part = st.floats(0, 1)
    return sizes, [Edge(str(a), str(b), draw(part) * sizes[str(a)].width) for a, b in sorted(pairs) if a < b]


@settings(max_examples=100, deadline=None)
@given(_acyclic())
def test_any_graph_is_laid_out(case: tuple[dict[str, Size], list[Edge]]) -> None:
    sizes, edges = case
    layout = layered(sizes, edges)
    places = [(*layout.boxes[name], size.width, size.height) for name, size in sizes.items()]
    assert layout.boxes.keys() == sizes.keys()
    inner = [(x + 0.01, y + 0.01, w - 0.02, h - 0.02) for x, y, w, h in places if w > 1 and h > 1]
    assert not any(_overlap(a, b) for a, b in combinations(inner, 2))
    for edge, route in zip(edges, layout.routes, strict=True):
        assert route[0][1] <= route[-1][1] and route == sorted(route, key=lambda point: point[1])
        assert route[0][0] == pytest.approx(layout.boxes[edge.source][0] + edge.start)
        left = layout.boxes[edge.target][0]
        assert left - 12 <= route[-1][0] <= left + sizes[edge.target].width + 12
        assert route[-1][1] == pytest.approx(layout.boxes[edge.target][1])
        assert not any(_overlap(stretch, place) for stretch in _uprights(tuple(route)) for place in inner)
