"""The passes over captured programs, by name: each can be left out."""

from __future__ import annotations

from collections.abc import Collection

PASSES = {
    "dead_code": "leave out what nobody reads",
    "dead_results": "leave out single results that nobody reads, such as a layer norm's beside its gradients",
    "folding": "make constants of what depends on constants alone",
    "common": "compute the same value only once",
    "joining": "make one instruction of a loss and its gradient",
    "gather": "bring elementwise instructions of one length together",
    "tiles": "run groups of them tile by tile",
    "generated": "compile loops for such groups, and code for runs of single numbers, where they run often",
}


def check_names(without: Collection[str]) -> frozenset[str]:
    """Return the names of the passes but for some.

    Raises:
        ValueError: a name is none of a pass.
    """
    names = {without} if isinstance(without, str) else set(without)
    if names - PASSES.keys():
        raise ValueError(f"there is no pass {min(names - PASSES.keys())!r}, only {', '.join(PASSES)}")
    return frozenset(PASSES.keys() - names)
