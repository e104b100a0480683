"""The tools that come with the service. None reaches the network, a file of a user, or a shell."""

from app.domain.clock import Clock
from app.tools.builtin.calculator import calculator_tool
from app.tools.builtin.current_time import current_time_tool
from app.tools.builtin.text_stats import text_stats_tool
from app.tools.port import Tool
from app.tools.rest import read_result_tool


def builtin_tools(clock: Clock) -> list[Tool]:
    """All of them. `clock` is the time that current_time tells."""
    return [calculator_tool(), current_time_tool(clock), text_stats_tool(), read_result_tool()]
