"""What the processor of this machine multiplies fast."""

from pathlib import Path

_CPU_INFO = Path("/proc/cpuinfo")  # on Linux
_FLAGS = {
    "bfloat16": ("avx512_bf16", "amx_bf16"),
    "int8": ("avx512_vnni", "avx_vnni", "amx_int8"),
}


def multiplies(number: str) -> bool:
    """Whether the processor multiplies "bfloat16" or "int8" faster than float32.

    False where the system does not say. Processors with avx512_fp16 have amx_bf16 for bfloat16. Where a virtual machine
    hides it, their avx512_bf16 is slower than float32.
    """
    text = _CPU_INFO.read_text(encoding="utf-8", errors="replace") if _CPU_INFO.is_file() else ""
    found = set(text.split())
    if number == "bfloat16" and "avx512_fp16" in found:
        return "amx_bf16" in found
    return not found.isdisjoint(_FLAGS[number])


def flags_of(number: str) -> str:
    """The names of the instructions that do so, for messages."""
    return " or ".join(_FLAGS[number])
