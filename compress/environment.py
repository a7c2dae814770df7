"""What a run ran on: processor, device, threads and library versions; no name of the machine."""

import os
import platform
from datetime import date
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import torch


def environment(device: torch.device) -> dict[str, str | int]:
    """The facts that a reader needs to judge a time, and to run the same again."""
    accelerator = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {
        "processor": processor(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "device": accelerator,
        "system": platform.system(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "torchvision", "torch-pruning", "numpy")},
        **{name: version(name) for name in ("onnx", "onnxruntime") if find_spec(name)},
        "date": date.today().isoformat(),
    }


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """The processor's name as the system tells it."""
    told = Path("/proc/cpuinfo")
    lines = told.read_text(encoding="utf-8").splitlines() if told.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
