"""The conformance kit on this backend: a test for every check. Options, such as `--tinyllm-tier full`, are told by
`pytest --help`."""

from tinyllm.conformance.test_backend import pytest_generate_tests, test_check  # noqa: F401
