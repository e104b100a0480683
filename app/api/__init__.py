"""HTTP in and out. `app` puts it together; `submit` turns a body into a task; `problems` are the errors."""
