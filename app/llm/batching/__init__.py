"""Economy: a question at half price, answered in a batch some hours later.

`economy` asks (a reservation and an item, written together), `items` are its rows, `results` reads what comes back,
`port` is the provider's side. Who sends and fetches batches is `app.worker.batches`.
"""
