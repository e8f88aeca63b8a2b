"""Random damage to bytes, and to trees of lists, dicts and values."""

import copy
import random
from typing import Any

# Integers at which sizes and offsets overflow.
_EXTREME_INTEGERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1)
_EXTREME_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, -3, 2**31, 2**63, 10**30, -(10**30), 0.5, 1e300, -1e300,
    float("nan"), float("inf"), "", "0", "text", "../../x", "/etc/passwd", "\0", "é" * 50, [], {},
    [[]], [[], []], [0], [1, 2, 3, 4], [1e300] * 6, [None] * 6, {"size": [10**9, 10**9]},
    {"size": [4, 4], "counts": [10**12]}, {"size": [4, 4], "counts": "oooooooo0"}, {"a": {"b": 1}},
)  # fmt: skip


def mutate_bytes(data: bytes, rng: random.Random, other: bytes = b"") -> bytes:
    """Damage bytes in one to eight places.

    Args:
        data: what to damage.
        rng: source of all randomness.
        other: where spliced pieces come from.
    """
    result = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        at = rng.randrange(len(result) + 1)
        kind = rng.randrange(8)
        if kind == 0:
            del result[at:]
        elif kind == 1:
            del result[at : at + rng.choice((1, 2, 4, 16, 100))]
        elif kind == 2:
            result[at:at] = rng.randbytes(rng.choice((1, 2, 4, 16, 100)))
        elif kind == 3:
            size = rng.choice((1, 2, 4, 8))
            number = rng.choice(_EXTREME_INTEGERS) % 256**size
            result[at : at + size] = number.to_bytes(size, rng.choice(("little", "big")))
        elif kind == 4 and other:
            start = rng.randrange(len(other))
            result[at : at + 64] = other[start : start + rng.randrange(1, 200)]
        elif kind == 5:
            result[at:at] = result[at : at + rng.choice((4, 32, 200))]
        else:
            for place in range(at, min(at + rng.choice((1, 1, 4, 20)), len(result))):
                result[place] ^= 1 << rng.randrange(8)
    return bytes(result)


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """All (container, key) pairs of a tree."""
    found, pending = [], [tree]
    while pending:
        node = pending.pop()
        items = node.items() if isinstance(node, dict) else enumerate(node)
        for key, value in items:
            found.append((node, key))
            if isinstance(value, dict | list):
                pending.append(value)
    return found


def mutate_tree(tree: Any, rng: random.Random) -> Any:
    """Damage a tree in one to three places: values replaced, removed, doubled, moved."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.choice((1, 1, 2, 3))):
        places = _places(tree)
        if not places:
            break
        node, key = rng.choice(places)
        kind = rng.randrange(6)
        if kind == 0:
            del node[key]
        elif kind == 1 and isinstance(node, list):
            node.append(copy.deepcopy(node[key]))
        elif kind == 2:
            source, name = rng.choice(places)
            if (isinstance(source, dict) and name in source) or (
                isinstance(source, list) and name < len(source)
            ):
                node[key] = copy.deepcopy(source[name])
        elif kind == 3 and isinstance(node[key], int | float):
            node[key] = node[key] * rng.choice((-1, 0, 2, 1e6, 0.5)) + rng.choice((0, 1, 0.25))
        elif kind == 4 and isinstance(node[key], str):
            text = node[key].encode()
            node[key] = mutate_bytes(text, rng).decode("latin1")
        else:
            node[key] = copy.deepcopy(rng.choice(_EXTREME_VALUES))
    return tree
