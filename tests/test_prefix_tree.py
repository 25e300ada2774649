"""Rows by the longest prefix that they share with a prompt, held against looking at every row."""

from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st
from prefix_tree import PrefixTree

ROWS = 5

# Few tokens and lengths near each other: nearly every text is the beginning of another, or nearly.
texts = st.lists(st.integers(0, 1), max_size=7)
rows = st.integers(0, ROWS - 1)
changes = st.lists(
    st.one_of(
        st.tuples(st.just("hold"), rows, texts),
        st.tuples(st.just("drop"), rows),
        st.tuples(st.just("swap"), rows, rows).filter(lambda change: change[1] != change[2]),
        st.tuples(st.just("touch"), rows),
    ),
    max_size=30,
)


class Rows:
    """The same by brute force: what each row holds, and when it was last used."""

    def __init__(self) -> None:
        self.held: dict[int, list[int]] = {row: [] for row in range(ROWS)}
        self.used = dict.fromkeys(self.held, -1)
        self.clock = 0

    def hold(self, row: int, tokens: list[int]) -> None:
        self.held[row] = tokens
        self.touch(row)

    def drop(self, row: int) -> None:
        self.held[row] = []

    def swap(self, first: int, second: int) -> None:
        for kept in (self.held, self.used):
            kept[first], kept[second] = kept[second], kept[first]

    def touch(self, row: int) -> None:
        self.clock += 1
        self.used[row] = self.clock

    def is_alone(self, row: int) -> bool:
        mine = self.held[row]
        others = [held for other, held in self.held.items() if other != row]
        return bool(mine) and all(held[: len(mine)] != mine for held in others)

    def match(self, tokens: list[int]) -> tuple[int, set[int]]:
        for length in range(len(tokens), 0, -1):
            if found := {row for row, held in self.held.items() if held[:length] == tokens[:length]}:
                return length, found
        return 0, set()


@settings(max_examples=80)
@given(changes, texts)
def test_the_tree_says_what_looking_at_every_row_says(changes, asked) -> None:
    tree, plain = PrefixTree(), Rows()
    for name, *arguments in changes:
        getattr(tree, name)(*arguments)
        getattr(plain, name)(*arguments)
    length, found = tree.match(asked)
    assert (length, set(found)) == plain.match(asked)
    assert len(found) == len(set(found))
    assert [tree.length(row) for row in range(ROWS)] == [len(held) for held in plain.held.values()]
    for pair in combinations(range(ROWS), 2):
        # What another row holds too is missed least, then what was used longest ago.
        doubles = [row for row in pair if not plain.is_alone(row)]
        assert tree.least(pair) == (doubles[0] if doubles else min(pair, key=plain.used.__getitem__))
    require_no_node_too_many(tree, [row for row, held in plain.held.items() if held])


def require_no_node_too_many(tree: PrefixTree, held: list[int]) -> None:
    nodes = [tree._root]
    for node in nodes:
        nodes += node.children.values()
        assert node is tree._root or node.rows or len(node.children) > 1
        assert [child.tokens[0] for child in node.children.values()] == list(node.children)
    assert sorted(row for node in nodes for row in node.rows) == held
