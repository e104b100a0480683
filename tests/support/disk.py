"""A disk that the test owns, under every SQLite file of this process: what was synced, and how much fits.

SQLite reaches files through a table of functions (a VFS). Ours writes as the usual one does, notes each write and
each sync, and can say that the disk is full. From its notes it can make the files as a power loss would have
left them: everything before a file's last sync, and of the rest whatever the dice say, torn at sectors.
"""

import _sqlite3
import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import CFUNCTYPE, POINTER, Structure, c_char_p, c_int, c_int64, c_void_p
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

SQLITE_OK, SQLITE_FULL = 0, 13
SECTOR = 512

_Open = CFUNCTYPE(c_int, c_void_p, c_void_p, c_void_p, c_int, c_void_p)
"""The name as an address: an open file goes on using the bytes that were there."""
_Delete = CFUNCTYPE(c_int, c_void_p, c_char_p, c_int)
_Write = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int, c_int64)
_Truncate = CFUNCTYPE(c_int, c_void_p, c_int64)
_Sync = CFUNCTYPE(c_int, c_void_p, c_int)


class _Vfs(Structure):
    _fields_ = [
        ("iVersion", c_int),
        ("szOsFile", c_int),
        ("mxPathname", c_int),
        ("pNext", c_void_p),
        ("zName", c_char_p),
        ("pAppData", c_void_p),
        ("xOpen", _Open),
        ("xDelete", _Delete),
        ("others", c_void_p * 13),
    ]


class _Methods(Structure):
    _fields_ = [
        ("iVersion", c_int),
        ("xClose", c_void_p),
        ("xRead", c_void_p),
        ("xWrite", _Write),
        ("xTruncate", _Truncate),
        ("xSync", _Sync),
        ("others", c_void_p * 13),
    ]


class _File(Structure):
    _fields_ = [("pMethods", POINTER(_Methods))]


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that SQLite did to a file: a write (`data`), a truncation (`size`), a sync, a removal."""

    name: str
    kind: str
    offset: int = 0
    data: bytes = b""
    size: int = 0


@dataclass
class Disk:
    """What happened below `folder` since `owned` began."""

    folder: Path
    steps: list[Step] = field(default_factory=list)
    room: int | None = None
    """Bytes that files may still grow by; None is no end."""
    refused: int = 0
    """Writes that found no room."""
    syncing: bool = True
    """False: syncs are noted by nobody, as on a disk that lies."""
    _sizes: dict[str, int] = field(default_factory=dict)

    @property
    def position(self) -> int:
        """How many steps there were so far."""
        return len(self.steps)

    def fits(self, name: str, end: int) -> bool:
        """Let the file reach to `end`, if there is room for it."""
        more = end - self._sizes.get(name, 0)
        if more <= 0:
            return True
        if self.room is not None:
            if more > self.room:
                self.refused += 1
                return False
            self.room -= more
        self._sizes[name] = end
        return True

    def note(self, step: Step) -> None:
        """Remember what happened."""
        if step.kind in {"truncate", "delete"}:  # a removal is synced with its folder
            freed = self._sizes.get(step.name, 0) - step.size
            self._sizes[step.name] = step.size
            if self.room is not None:
                self.room += max(freed, 0)
        if step.kind != "sync" or self.syncing:
            self.steps.append(step)

    def after_power_loss(self, folder: Path, position: int, draw: Random | None = None) -> None:
        """Write into `folder` what a power loss after `position` steps leaves.

        Without `draw` nothing survives that was not synced; with it some of that does, torn.
        """
        folder.mkdir(parents=True)
        steps = self.steps[:position]
        for name in sorted({step.name for step in steps}):
            found = [step for step in steps if step.name == name]
            lasting = [n for n, step in enumerate(found) if step.kind in {"sync", "delete"}]
            synced = lasting[-1] + 1 if lasting else 0
            content: bytearray | None = bytearray()
            for number, step in enumerate(found):
                if number < synced or (draw is not None and draw.random() < 0.6):
                    content = _applied(content, step, draw if number >= synced else None)
            if content is not None and (content or synced):
                (folder / name).write_bytes(content)


def _applied(content: bytearray | None, step: Step, draw: Random | None) -> bytearray | None:
    if step.kind == "delete":
        return None
    content = bytearray() if content is None else content
    if step.kind == "truncate":
        del content[step.size :]
    if step.kind == "write":
        data = step.data
        if draw is not None:  # only whole sectors arrive, from the first up to some
            data = data[: SECTOR * draw.randint(0, len(data) // SECTOR + 1)]
        if len(content) < step.offset:
            content.extend(bytes(step.offset - len(content)))
        content[step.offset : step.offset + len(data)] = data
    return content


@contextmanager
def owned(folder: Path) -> Iterator[Disk]:
    """The disk under `folder` while the block lasts; open nothing there before, close everything before its end."""
    disk = Disk(folder)
    library = ctypes.CDLL(_sqlite3.__file__)
    find, register, unregister = (
        library.sqlite3_vfs_find,
        library.sqlite3_vfs_register,
        library.sqlite3_vfs_unregister,
    )
    find.restype, find.argtypes = POINTER(_Vfs), [c_char_p]
    register.argtypes, unregister.argtypes = [c_void_p, c_int], [c_void_p]
    usual = find(None)
    ours, kept = _vfs(usual, disk)
    assert register(ctypes.byref(ours), 1) == SQLITE_OK
    try:
        yield disk
    finally:
        assert register(usual, 1) == SQLITE_OK
        assert unregister(ctypes.byref(ours)) == SQLITE_OK
        kept.clear()


def _vfs(usual: Any, disk: Disk) -> tuple[_Vfs, list[Any]]:
    """The usual table with our functions, and what must be kept alive for it."""
    ours = _Vfs()
    ctypes.pointer(ours)[0] = usual.contents
    usual_open, usual_delete = usual.contents.xOpen, usual.contents.xDelete
    kept: list[Any] = [ours]

    def open_file(_vfs: Any, name: int | None, file: int, flags: int, out: Any) -> int:
        result: int = usual_open(usual, name, file, flags, out)
        path = None if name is None else Path(ctypes.string_at(name).decode())
        if result == SQLITE_OK and path is not None and path.parent == disk.folder:
            _watch(ctypes.cast(file, POINTER(_File)).contents, path.name, disk, kept)
        return result

    def delete_file(_vfs: Any, name: bytes, sync_folder: int) -> int:
        result: int = usual_delete(usual, name, sync_folder)
        path = Path(name.decode())
        if result == SQLITE_OK and path.parent == disk.folder:
            disk.note(Step(path.name, "delete"))
        return result

    ours.xOpen, ours.xDelete = _Open(open_file), _Delete(delete_file)
    ours.zName = b"owned by a test"
    kept += [ours.xOpen, ours.xDelete]
    return ours, kept


def _watch(file: _File, name: str, disk: Disk, kept: list[Any]) -> None:
    """Put our functions into the table of a file just opened."""
    usual: _Methods = file.pMethods.contents
    ours = _Methods()
    ctypes.pointer(ours)[0] = usual
    write, truncate, sync = usual.xWrite, usual.xTruncate, usual.xSync

    def noted(result: int, step: Callable[[], Step]) -> int:
        if result == SQLITE_OK:
            disk.note(step())
        return result

    def write_file(this: int, data: int, count: int, offset: int) -> int:
        if not disk.fits(name, offset + count):
            return SQLITE_FULL
        result = write(this, data, count, offset)
        return noted(result, lambda: Step(name, "write", offset, ctypes.string_at(data, count)))

    def truncate_file(this: int, size: int) -> int:
        return noted(truncate(this, size), lambda: Step(name, "truncate", size=size))

    def sync_file(this: int, flags: int) -> int:
        return noted(sync(this, flags), lambda: Step(name, "sync"))

    ours.xWrite, ours.xTruncate, ours.xSync = (
        _Write(write_file),
        _Truncate(truncate_file),
        _Sync(sync_file),
    )
    kept += [ours, ours.xWrite, ours.xTruncate, ours.xSync]
    file.pMethods = ctypes.pointer(ours)
