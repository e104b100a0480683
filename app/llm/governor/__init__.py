"""How fast a model may be asked: what one process has learned of its provider, and who goes next.

`buckets` keep the limits that headers told of, `concurrency` the calls in flight, `breaker` the outages; a `lane`
holds all of them for one model, `line` says who of those waiting is next, and `governor` lets calls leave.
"""
