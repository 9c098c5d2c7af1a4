"""Names for new layers that no other layer of a model has."""


class Names:
    """Names that are free in a graph and in the models nested in it."""

    def __init__(self, graph):
        graphs = [graph, *graph.nested()]
        inputs = [kt.name for g in graphs for kt in g.functional.inputs]
        sites = [site.name for g in graphs for site in g.sites]
        self._used = {*inputs, *sites}

    def free(self, name):
        """`name`, with a number behind it if it is taken."""
        found, number = name, 0
        while found in self._used:
            number += 1
            found = f"{name}_{number}"
        self._used.add(found)
        return found
