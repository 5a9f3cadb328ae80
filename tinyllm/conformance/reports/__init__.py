"""What a run of the kit leaves behind: a report, and the forms in which it is shown, kept and compared."""

from tinyllm.conformance.reports.files import check_suffix, check_target, read, write
from tinyllm.conformance.reports.report import Report

__all__ = ["Report", "check_suffix", "check_target", "read", "write"]
