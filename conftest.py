"""Makes `programs` importable from the suites when pytest is started anywhere in the project."""

pytest_plugins = ["pytester"]
