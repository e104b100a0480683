"""Look at it from outside: JSON log lines and Prometheus metrics. Views of events; nothing reads them back."""
