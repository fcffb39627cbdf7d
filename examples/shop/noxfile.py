# /// script
# dependencies = ["nox", "portfree"]
# ///
"""``nox -s tests``; what stands above tells nox what this file itself needs."""

import nox
from portfree import free_ports

PROJECT = nox.project.load_toml("pyproject.toml")


@nox.session
def tests(session):
    session.install(
        *PROJECT["project"]["dependencies"], *nox.project.dependency_groups(PROJECT, "tests")
    )
    with free_ports(8000):
        session.run("pytest", *session.posargs)


if __name__ == "__main__":
    nox.main()
