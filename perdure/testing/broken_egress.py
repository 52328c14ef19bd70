"""Rules of egress that are subtly wrong. The checks must catch each of them."""

from collections.abc import Sequence

from perdure.environments.egress.rules import Refused, Rules


class NamesOnly(Rules):
    """Believes a name that is on the list, wherever it leads."""

    def check_addresses(self, host: str, port: int, found: Sequence[str]) -> list[str]:
        """Return all that was found."""
        return list(found)


class OneIsEnough(Rules):
    """Looks at the first address of a name only."""

    def check_addresses(self, host: str, port: int, found: Sequence[str]) -> list[str]:
        """Return all, when the first may be connected to."""
        super().check_addresses(host, port, found[:1])
        return list(found)


class NoDot(Rules):
    """Takes any name that ends in the right letters for one below the domain."""

    def check_name(self, host: str, port: int) -> None:
        """Raise `Refused` unless the end of the name fits."""
        if not any(rule.name and host.endswith(rule.name) for rule in self._allowed):
            raise Refused(f"{host} is not listed")


class AnyPort(Rules):
    """Lets a listed host be reached at each of its ports."""

    def check_name(self, host: str, port: int) -> None:
        """Raise `Refused` unless the list allows the host at the usual port."""
        super().check_name(host, 443)
