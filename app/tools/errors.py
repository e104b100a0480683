"""What can go wrong with a tool, as exceptions.

ToolError                  a tool's own, expected refusal: its text is meant for the model
InvalidArgumentsError      the model's arguments do not fit the tool: text for the model
NoFreeThreadError          no thread for plain functions will come free
ToolSetupError             the service was put together wrongly; raised at start, for the operator
  ToolDefinitionError      a tool contradicts itself
  DuplicateToolError       two tools of one name
  UnknownToolError         a name nobody registered
  ToolPluginError          an installed distribution's tool could not be loaded
"""


class ToolError(Exception):
    """Raise this inside a tool to tell the model, in plain words, why there is no answer."""


class InvalidArgumentsError(Exception):
    """The arguments do not fit; the message names the field."""


class NoFreeThreadError(Exception):
    """Every thread holds a call that is past its deadline, or the threads were closed."""


class ToolSetupError(Exception):
    """The tools were put together wrongly."""


class ToolDefinitionError(ToolSetupError):
    """A tool contradicts itself."""


class DuplicateToolError(ToolSetupError):
    """Two tools claim one name."""

    def __init__(self, name: str, first: str, second: str) -> None:
        super().__init__(
            f"tool {name!r} is registered twice: by {first or 'the program'} "
            f"and by {second or 'the program'}"
        )


class UnknownToolError(ToolSetupError):
    """No tool of that name is registered."""

    def __init__(self, name: str, known: tuple[str, ...]) -> None:
        super().__init__(f"no tool named {name!r}; registered: {', '.join(known) or 'none'}")


class ToolPluginError(ToolSetupError):
    """An entry point could not be turned into tools."""

    def __init__(self, entry_point: str, distribution: str, reason: str) -> None:
        super().__init__(
            f"tool plug-in {entry_point!r} of distribution {distribution} is broken: {reason}"
        )
