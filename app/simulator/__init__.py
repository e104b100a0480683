"""A Claude Messages API on loopback that keeps its own bill: for the demo, for tests, for faults.

It imports nothing of what it checks: prices, token counts and rules are its own. In the order a request
meets them: `server` (the socket) · `core` (a request in, a reply plan out) · `validate` and `turns` (what the
API refuses) · `caching`, `tokens`, `prompt` (what the prompt costs) · `view`, `directive`, `compose`, `fit`
(what is answered) · `faults` (what goes wrong) · `bill`, `prices` (what is owed) · `wire`, `reply` (bytes) ·
`control` (its own endpoints). Prompts steer it as `directive` says, fault scripts as `faults` says.
"""
