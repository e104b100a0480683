"""Where rows live. `port` is what everybody uses; `sqlite` is the embedded adapter; `sql/` has the queries."""
