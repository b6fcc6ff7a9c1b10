"""What the processor of this machine can multiply."""

from pathlib import Path

_CPU_INFO = Path("/proc/cpuinfo")  # on Linux
_FLAGS = {
    "bfloat16": ("avx512_bf16", "amx_bf16"),
    "int8": ("avx512_vnni", "avx_vnni", "amx_int8"),
}


def multiplies(number: str) -> bool:
    """Whether the processor has instructions that multiply "bfloat16" or "int8"; without them they bring no speed.

    False where the system does not say.
    """
    text = _CPU_INFO.read_text(encoding="utf-8", errors="replace") if _CPU_INFO.is_file() else ""
    return not set(_FLAGS[number]).isdisjoint(text.split())


def flags_of(number: str) -> str:
    """The names of these instructions, for messages."""
    return " or ".join(_FLAGS[number])
