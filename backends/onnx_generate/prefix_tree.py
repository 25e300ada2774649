"""Which row holds the longest prefix of a prompt: a radix tree over the tokens that rows hold. No numpy, no clock.

An edge carries one token or more; a row's tokens are the path from the root to the node where it ends. Nodes are no
more than twice the rows: one at which no row ends has two children at least. What is looked for is walked once, however
many rows are nearly equal (the structure is Morrison's PATRICIA, 1968; for prompts, Zheng et al., SGLang, 2024).
"""

from itertools import count


class _Node:
    def __init__(self, tokens, parent):
        self.tokens, self.parent = tokens, parent  # the edge that leads here
        self.length = len(tokens) + (parent.length if parent else 0)  # of the whole path
        self.children = {}  # by their edge's first token
        self.rows = set()  # those that end here

    def ends(self):
        """Return the rows that end here or below."""
        found, nodes = [], [self]
        for node in nodes:
            found += node.rows
            nodes += node.children.values()
        return found


class PrefixTree:
    """Rows by the tokens that they hold, and how long ago each was used. Tokens are anything that hashes."""

    def __init__(self):
        self._root = _Node([], None)
        self._end, self._used = {}, {}  # of each row that holds something
        self._clock = count()

    def hold(self, row, tokens):
        """Note that `row` holds `tokens`, and nothing else; it has just been used."""
        self.drop(row)
        if not tokens:
            return
        node, length = self._walk(tokens)
        if length < len(tokens):
            child = _Node(list(tokens[length:]), node)
            node.children[tokens[length]] = child
            node = child
        node.rows.add(row)
        self._end[row] = node
        self.touch(row)

    def drop(self, row):
        """Note that `row` holds nothing any more."""
        node = self._end.pop(row, None)
        if node is None:
            return
        node.rows.remove(row)
        if not (node.rows or node.children):
            del node.parent.children[node.tokens[0]]
            node = node.parent
        if node.parent and not node.rows and len(node.children) == 1:
            (child,) = node.children.values()
            child.tokens, child.parent = node.tokens + child.tokens, node.parent
            node.parent.children[child.tokens[0]] = child

    def swap(self, first, second):
        """Note that the two rows have exchanged what they hold."""
        ends = {first: self._end.pop(second, None), second: self._end.pop(first, None)}
        used = {first: self._used.get(second), second: self._used.get(first)}
        for node in ends.values():
            if node:
                node.rows -= {first, second}
        for row, node in ends.items():
            if node:
                node.rows.add(row)
                self._end[row], self._used[row] = node, used[row]

    def touch(self, row):
        """Note that what `row` holds was used just now."""
        self._used[row] = next(self._clock)

    def length(self, row):
        """Return how many tokens `row` holds."""
        return self._end[row].length if row in self._end else 0

    def match(self, tokens):
        """Return how many of `tokens`, from the first on, some row holds, and all rows that do."""
        node, length = self._root, 0
        while length < len(tokens) and (child := node.children.get(tokens[length])):
            node, shared = child, _shared(child.tokens, tokens, length)
            length += shared
            if shared < len(child.tokens):
                break
        return length, node.ends() if length else []

    def least(self, rows):
        """Return which of `rows` is missed least: whose tokens another holds too; else the least recently used."""
        return min(rows, key=lambda row: (self._is_alone(row), self._used.get(row, -1) if self._is_alone(row) else row))

    def _is_alone(self, row):
        """Whether `row` holds tokens that no other row holds."""
        node = self._end.get(row)
        return node is not None and not node.children and len(node.rows) == 1

    def _walk(self, tokens):
        """Return the node of the longest prefix of `tokens` that the tree has, split off if need be; its length."""
        node, length = self._root, 0
        while length < len(tokens) and (child := node.children.get(tokens[length])):
            shared = _shared(child.tokens, tokens, length)
            if shared < len(child.tokens):
                child = self._split(child, shared)
            node, length = child, length + shared
        return node, length

    def _split(self, node, length):
        """Put a node `length` tokens down the edge to `node`; return it."""
        upper = _Node(node.tokens[:length], node.parent)
        node.parent.children[node.tokens[0]] = upper
        node.tokens, node.parent = node.tokens[length:], upper
        upper.children[node.tokens[0]] = node
        return upper


def _shared(edge, tokens, start):
    """Return how many tokens of `edge` are those of `tokens` from `start` on."""
    for index, (ours, theirs) in enumerate(zip(edge, tokens[start : start + len(edge)], strict=False)):
        if ours != theirs:
            return index
    return min(len(edge), len(tokens) - start)
