"""Arguments of the commands that talk to a CVAT server."""

from __future__ import annotations

import argparse

from anyregion.integrations.cvat_server import PASSWORD_VARIABLE, TOKEN_VARIABLE, CvatConnection


def add_connection_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the server is, and who asks."""
    group = parser.add_argument_group("the CVAT server")
    group.add_argument(
        "--host",
        metavar="URL",
        help="https://app.cvat.ai, http://localhost:8080 (default: that of the saved profile, else "
        "http://localhost)",
    )
    group.add_argument(
        "--auth",
        metavar="USER[:PASSWORD]",
        help=f"a user; the password from the variable {PASSWORD_VARIABLE}, or asked for. Default: "
        f"the personal access token in the variable {TOKEN_VARIABLE}, or the saved profile",
    )
    group.add_argument("--profile", metavar="NAME", help="a profile that cvat-cli has saved")
    group.add_argument("--organization", metavar="SLUG", help="an organization's short name")


def connection_of(args: argparse.Namespace) -> CvatConnection:
    """What `add_connection_arguments` let choose."""
    return CvatConnection(
        host=args.host, user=args.auth, profile=args.profile, organization=args.organization
    )
