"""Ask a model: route, reserve, attempt (with retries), settle. `caller` is the way in."""
