"""Many runs on one page: filters, heat map, curves over any axis, quality against calls of the target, who wins where.

write_many_report(collection, path)    from experiments.collection.collect(...)
write_sweep_report(folder)             all complete runs below a sweep's folder, as its report.html
"""

from experiments.report.many.page import write_many_report, write_sweep_report

__all__ = ["write_many_report", "write_sweep_report"]
