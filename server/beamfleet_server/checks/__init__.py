"""The checks of a device's health: what a report means. Pure: a report and thresholds in, findings out.

One small file is one check, `check(report, thresholds)`: what it finds, or None. `verdict` asks all of them. Numbers
come from devices and may be anything: a check never fails over them, and says nothing about what was not reported.
"""
