"""The settings as documentation."""

from app.settings import Settings, variable


def table() -> str:
    """Every setting as a Markdown table: variable, default, meaning."""
    rows = ["| variable | default | |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = "-" if field.default is None else f"`{field.default}`"
        rows.append(f"| `{variable(name)}` | {default} | {field.description} |")
    return "\n".join(rows) + "\n"
