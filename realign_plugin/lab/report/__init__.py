"""The report: one self-contained HTML page from the run folder of a study."""

from realign_plugin.lab.report.page import write_report

__all__ = ["write_report"]
