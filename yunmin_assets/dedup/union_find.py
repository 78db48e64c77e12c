"""Union-find over numbered documents, compiled: the root of a component is its smallest document."""

from yunmin_assets.compiling import kernel

# mypy: allow-untyped-defs
# numba infers the types.


@kernel
def find_root(roots, document):
    """The root of a document; halves the path to it."""
    while roots[document] != document:
        roots[document] = roots[roots[document]]
        document = roots[document]
    return document


@kernel
def join(roots, first, second):
    """Make one component of two."""
    first, second = find_root(roots, first), find_root(roots, second)
    roots[max(first, second)] = min(first, second)


@kernel
def flatten(roots):
    """Let every document point at its root."""
    for document in range(roots.size):
        roots[document] = roots[roots[document]]  # a root is smaller, so what comes before is flat already
