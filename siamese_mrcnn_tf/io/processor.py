"""What the processor of this machine multiplies fast."""

from pathlib import Path

_CPU_INFO = Path("/proc/cpuinfo")  # on Linux
_FLAGS = {
    "bfloat16": ("avx512_bf16", "amx_bf16"),
    "int8": ("avx512_vnni", "avx_vnni", "amx_int8"),
}


def multiplies(number: str) -> bool:
    """Whether the processor multiplies "bfloat16" or "int8" faster than float32.

    False where the system does not say.
    """
    found = _found()
    return not found.isdisjoint(_needed(number, found))


def flags_of(number: str) -> str:
    """The names of the instructions that this processor needs to do so, for messages."""
    return " or ".join(_needed(number, _found()))


def _needed(number: str, found: set[str]) -> tuple[str, ...]:
    # processors with avx512_fp16 have amx_bf16; where a virtual machine hides it, avx512_bf16 is slower than float32
    return ("amx_bf16",) if number == "bfloat16" and "avx512_fp16" in found else _FLAGS[number]


def _found() -> set[str]:
    text = _CPU_INFO.read_text(encoding="utf-8", errors="replace") if _CPU_INFO.is_file() else ""
    return set(text.split())
