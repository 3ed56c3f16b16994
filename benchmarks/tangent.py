"""Time and memory of linearized training, as ratios to non-linear training in the same run.

Three ways to take a training step (forward, loss, backward; the optimizer is the same for all) with
the image tower of an open_clip model, randomly initialized:

* nonlinear: the network itself;
* jvp: the linearized network the usual way, back-propagating through `torch.func.jvp`;
* ours: the linearized network of `task_arithmetic.tangent`.

And, without training, the tangents of eight task vectors on one batch: ours against eight calls of
`torch.func.jvp`. Methods take turns within each repeat, so that whatever else the machine does hits
all of them; times are medians, ratios are medians of the ratios within a repeat. Memory is
that of a process of its own per method: the peak (on a CPU of resident memory above the imports,
every tensor mapped by itself so that no allocator's leftovers count; on a GPU of allocated memory),
and the step's part of it, the most that torch allocates during a step beyond what it holds between
steps: gradients and activations. The rest of the peak is parameters, and θ0 for linearized models.

Examples:
    python benchmarks/tangent.py
    python benchmarks/tangent.py --models embedded ViT-B-32 --threads 1 --repeats 9
"""

import argparse
import csv
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from itertools import accumulate
from pathlib import Path

# The floor: one primal pass, two products per layer for the tangent, two for the backward pass.
FLOOR = 5 / 3
METHODS = ("nonlinear", "jvp", "ours")
VECTORS = 8

# Batch sizes on a CPU and on a GPU.
MODELS = {
    "embedded": (64, 64),
    "ViT-B-32": (32, 128),
    "ViT-B-16": (4, 128),
    "ViT-L-14": (2, 64),
    "RN50": (4, 128),
    "convnext_base": (2, 64),
}


def tower(name: str):
    """Build the image tower of an open_clip model with random weights.

    Args:
        name: open_clip architecture, or "embedded" for a tower of the embedded experiment's size.

    Returns:
        The tower in `eval()` mode, and the side of its square input in pixels.
    """
    import open_clip
    from open_clip.transformer import VisionTransformer

    if name == "embedded":
        return VisionTransformer(32, 8, 192, 4, 3, 4.0, output_dim=64).eval(), 32
    model = open_clip.create_model(name, pretrained=None)
    size = model.visual.image_size
    return model.visual.eval(), size[0] if isinstance(size, tuple) else size


def forward_of(method: str, module):
    """Make one of the three models, displaced from θ0.

    Args:
        method: one of `METHODS`.
        module: the tower; it is used, not copied, by the first two.

    Returns:
        The map from a batch to features, and its trainable parameters.
    """
    import torch
    from torch.func import functional_call, jvp
    from torch.nn.attention import SDPBackend, sdpa_kernel

    from task_arithmetic.tangent import linearize

    theta0 = {n: p.detach().clone() for n, p in module.named_parameters()}
    if method == "nonlinear":
        theta0.clear()
    model = linearize(module) if method == "ours" else module
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for p in parameters.values():
            p.add_(1e-3 * torch.randn_like(p))
    if method != "jvp":
        theta0.clear()
        return model, list(parameters.values())

    def linearized(x):
        tau = {n: p - theta0[n] for n, p in parameters.items()}
        # Fused attention has no forward-mode formula.
        with sdpa_kernel(SDPBackend.MATH):
            f, moved = jvp(lambda p: functional_call(module, p, (x,)), (theta0,), (tau,))
        return f + moved

    return linearized, list(parameters.values())


def features_of(method: str, module):
    """Make one of the two ways to get the tangents of `VECTORS` task vectors.

    Args:
        method: "jvp" or "ours".
        module: the tower.

    Returns:
        The map from a batch to the stacked tangents.
    """
    import torch
    from torch.func import functional_call, jvp
    from torch.nn.attention import SDPBackend, sdpa_kernel

    from task_arithmetic.tangent import tangent_features

    theta0 = {n: p.detach() for n, p in module.named_parameters()}
    vectors = [{n: 1e-3 * torch.randn_like(p) for n, p in theta0.items()} for _ in range(VECTORS)]
    if method == "ours":
        return lambda x: tangent_features(module, vectors, x)[1]

    def separate(x):
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            return torch.stack([
                jvp(lambda p: functional_call(module, p, (x,)), (theta0,), (tau,))[1]
                for tau in vectors
            ])

    return separate


def settle(device: str) -> None:
    """Wait for the device and drop garbage, so that a step pays for itself only.

    Args:
        device: "cpu" or "cuda".
    """
    import torch

    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()


def stepper(method: str, name: str, device: str, batch: int) -> Callable[[], float]:
    """Prepare a training step.

    Args:
        method: one of `METHODS`.
        name: architecture.
        device: "cpu" (float32) or "cuda" (bfloat16 autocast).
        batch: images per step.

    Returns:
        A function that takes the step and returns its seconds.
    """
    import torch

    torch.manual_seed(0)
    module, size = tower(name)
    forward, parameters = forward_of(method, module.to(device))
    x = torch.randn(batch, 3, size, size, device=device)
    precision = torch.autocast("cuda", torch.bfloat16) if device == "cuda" else nullcontext()

    def step() -> float:
        settle(device)
        start = time.perf_counter()
        with precision:
            loss = forward(x).float().square().mean()
        loss.backward()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        for p in parameters:
            p.grad = None
        return seconds

    return step


def evaluator(method: str, name: str, device: str, batch: int) -> Callable[[], float]:
    """Prepare one evaluation of the tangents of `VECTORS` task vectors.

    Args:
        method: "jvp" or "ours".
        name: architecture.
        device: "cpu" (float32) or "cuda" (bfloat16 autocast).
        batch: images.

    Returns:
        A function that evaluates and returns its seconds.
    """
    import torch

    torch.manual_seed(0)
    module, size = tower(name)
    features = features_of(method, module.to(device))
    x = torch.randn(batch, 3, size, size, device=device)
    precision = torch.autocast("cuda", torch.bfloat16) if device == "cuda" else nullcontext()

    def evaluate() -> float:
        settle(device)
        start = time.perf_counter()
        with precision:
            features(x)
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    return evaluate


def resident(field: str) -> float:
    """Read a memory figure of this process.

    Args:
        field: "VmRSS" or "VmHWM".

    Returns:
        Mebibytes.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def measure_memory(method: str, name: str, device: str, batch: int) -> dict[str, float]:
    """Take three steps in this process and measure the last one's memory.

    Args:
        method: one of `METHODS`.
        name: architecture.
        device: "cpu" or "cuda".
        batch: images per step.

    Returns:
        `peak`, of resident memory above the imports or of allocated memory, and `step`, the most
        that is allocated during a step beyond what is held between steps, in mebibytes.
    """
    import open_clip  # noqa: F401
    import torch
    from torch.profiler import ProfilerActivity, profile

    import task_arithmetic.tangent  # noqa: F401

    imported = resident("VmRSS")
    step = stepper(method, name, device, batch)
    step()
    settle(device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        between = torch.cuda.memory_allocated() / 2**20
        step()
        peak = torch.cuda.max_memory_allocated() / 2**20
        return {"peak": peak, "step": peak - between}
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    events.sort(key=lambda e: e.start_ns())
    allocated = max(accumulate(e.nbytes() for e in events)) / 2**20
    # Forget the peak of construction, profile and earlier steps.
    del profiler, events
    settle(device)
    Path("/proc/self/clear_refs").write_text("5")
    step()
    return {"peak": resident("VmHWM") - imported, "step": allocated}


def memory_of(method: str, name: str, device: str, batch: int, threads: int) -> dict[str, float]:
    """Run `measure_memory` in a process of its own.

    Args:
        method: one of `METHODS`.
        name: architecture.
        device: "cpu" or "cuda".
        batch: images per step.
        threads: threads of the process.

    Returns:
        What `measure_memory` returns.
    """
    job = json.dumps([method, name, device, batch])
    command = [sys.executable, __file__, "--threads", str(threads), "--measure-memory", job]
    # What glibc keeps of freed memory depends on the order of everything before.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def interleaved(run: dict[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Run each method once to warm up, then in turns.

    Args:
        run: the methods; each returns its seconds.
        repeats: number of turns.

    Returns:
        Seconds of every turn, per method.
    """
    for f in run.values():
        f()
    seconds = {method: [] for method in run}
    for _ in range(repeats):
        for method, f in run.items():
            seconds[method].append(f())
    return seconds


def rows_of(seconds: dict[str, list[float]], baseline: str, facts: dict) -> list[dict]:
    """Summarize interleaved times.

    Args:
        seconds: of every turn, per method.
        baseline: method that the others are divided by.
        facts: columns that are the same for all.

    Returns:
        A row per method: median, quartiles, and the median of the ratios within a turn.
    """
    rows = []
    for method, times in seconds.items():
        low, median, high = statistics.quantiles(times, n=4, method="inclusive")
        ratios = [t / b for t, b in zip(times, seconds[baseline], strict=True)]
        rows.append({
            **facts,
            "method": method,
            "seconds": round(median, 4),
            "seconds_q1": round(low, 4),
            "seconds_q3": round(high, 4),
            "time_ratio": round(statistics.median(ratios), 3),
        })
    return rows


def benchmark(name: str, device: str, batch: int, threads: int, repeats: int) -> list[dict]:
    """Benchmark one architecture.

    Args:
        name: architecture.
        device: "cpu" or "cuda".
        batch: images per step.
        threads: CPU threads.
        repeats: turns.

    Returns:
        Rows of the result table.
    """
    facts = {
        "model": name,
        "device": device,
        "precision": "bf16 autocast" if device == "cuda" else "fp32",
        "batch": batch,
        "threads": threads,
        "repeats": repeats,
    }
    steps = {m: stepper(m, name, device, batch) for m in METHODS}
    rows = rows_of(interleaved(steps, repeats), "nonlinear", {**facts, "work": "training step"})
    del steps
    memory = {m: memory_of(m, name, device, batch, threads) for m in METHODS}
    for row in rows:
        for part in ("peak", "step"):
            found = memory[row["method"]][part]
            row[f"{part}_mib"] = round(found)
            row[f"{part}_ratio"] = round(found / memory["nonlinear"][part], 3)
    # As many network evaluations as several steps: fewer images and turns do.
    facts |= {"work": f"{VECTORS} tangents", "batch": max(1, batch // 4)}
    facts["repeats"] = max(3, repeats // 2)
    evaluations = {m: evaluator(m, name, device, facts["batch"]) for m in ("jvp", "ours")}
    return rows + rows_of(interleaved(evaluations, facts["repeats"]), "jvp", facts)


def hardware(device: str) -> str:
    """Name the machine.

    Args:
        device: "cpu" or "cuda".

    Returns:
        Processor, memory and versions.
    """
    import open_clip
    import torch

    if device == "cuda":
        chip = torch.cuda.get_device_name()
    else:
        info = Path("/proc/cpuinfo")
        found = [
            line.split(":")[1].strip()
            for line in (info.read_text().splitlines() if info.exists() else [])
            if line.startswith("model name")
        ]
        chip = f"{found[0] if found else platform.processor()}, {os.cpu_count()} cores"
    return (
        f"{chip}; {platform.system()}, Python {platform.python_version()}, "
        f"torch {torch.__version__}, open_clip {open_clip.__version__}"
    )


def markdown(rows: list[dict], command: str) -> str:
    """Render the rows.

    Args:
        rows: the results.
        command: what made them.

    Returns:
        A Markdown document.
    """
    steps = [r for r in rows if r["work"] == "training step"]
    tangents = [r for r in rows if r["work"] != "training step"]
    lines = [
        "# Linearized training against non-linear training",
        "",
        f"Made by `{command}` on: {'; '.join(sorted({r['hardware'] for r in rows}))}.",
        "",
        f"One training step. Floor of the time ratio: {FLOOR:.2f}. Peak is the process's memory "
        "(parameters, θ0 if linearized, gradients and activations; on a CPU above the imports); "
        "step is the most that torch allocates during a step (gradients and activations).",
        "",
        "| model | device | batch | threads | method | seconds (quartiles) | time ratio "
        "| peak MiB | peak ratio | step MiB | step ratio |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in steps:
        lines.append(
            f"| {r['model']} | {r['device']} {r['precision']} | {r['batch']} | {r['threads']} "
            f"| {r['method']} | {r['seconds']:.3f} ({r['seconds_q1']:.3f}–{r['seconds_q3']:.3f}) "
            f"| {r['time_ratio']:.2f} | {r['peak_mib']} | {r['peak_ratio']:.2f} "
            f"| {r['step_mib']} | {r['step_ratio']:.2f} |"
        )
    lines += [
        "",
        f"J·τ of {VECTORS} task vectors on one batch: primal shared, against {VECTORS} separate "
        "calls of `torch.func.jvp`.",
        "",
        "| model | device | batch | threads | method | seconds (quartiles) | time ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in tangents:
        lines.append(
            f"| {r['model']} | {r['device']} {r['precision']} | {r['batch']} | {r['threads']} "
            f"| {r['method']} | {r['seconds']:.3f} ({r['seconds_q1']:.3f}–{r['seconds_q3']:.3f}) "
            f"| {r['time_ratio']:.2f} |"
        )
    return "\n".join(lines) + "\n"


def chart(rows: list[dict], path: Path) -> None:
    """Draw the time ratios of the training steps, with the floor.

    Args:
        rows: the results.
        path: of the picture.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    steps = [r for r in rows if r["work"] == "training step"]
    places = list(dict.fromkeys((r["model"], r["device"], r["batch"]) for r in steps))
    figure, axes = plt.subplots(figsize=(1.5 + 1.4 * len(places), 4), layout="constrained")
    colors = {"nonlinear": "#999999", "jvp": "#d55e00", "ours": "#0072b2"}
    labels = {"nonlinear": "non-linear", "jvp": "through torch.func.jvp", "ours": "ours"}
    for i, method in enumerate(METHODS):
        heights = [
            next(
                r["time_ratio"]
                for r in steps
                if r["method"] == method and (r["model"], r["device"], r["batch"]) == place
            )
            for place in places
        ]
        left = [x + 0.27 * (i - 1) for x in range(len(places))]
        bars = axes.bar(left, heights, 0.25, label=labels[method], color=colors[method])
        axes.bar_label(bars, fmt="%.2f", fontsize=8)
    axes.axhline(FLOOR, color="black", linewidth=1, linestyle="--", label="floor 5/3")
    axes.set_xticks(range(len(places)), [f"{m}\n{d}, batch {b}" for m, d, b in places])
    axes.set_ylabel("time of a step / non-linear")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(frameon=False, fontsize=8, ncols=2, loc="outside upper center")
    figure.savefig(path, dpi=150)


def save(rows: list[dict], path: Path) -> None:
    """Write the results so far.

    Args:
        rows: the results.
        path: of the results without suffix.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with path.with_suffix(".csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    command = " ".join(["python benchmarks/tangent.py", *sys.argv[1:]])
    path.with_suffix(".md").write_text(markdown(rows, command))
    chart(rows, path.with_suffix(".png"))


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--models", nargs="+", choices=MODELS, default=list(MODELS), help="default: all"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where present")
    parser.add_argument("--batch", type=int, help="default: per model and device")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads")
    parser.add_argument("--repeats", type=int, default=5, help="turns of every method")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path(__file__).parent / "results" / "tangent",
        help="results are written to OUTPUT.csv, .md and .png",
    )
    parser.add_argument("--measure-memory", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")

    import torch

    torch.set_num_threads(arguments.threads)
    # Its kernel for evaluation has no forward-mode formula.
    torch.backends.mha.set_fastpath_enabled(False)
    if arguments.measure_memory:
        print(json.dumps(measure_memory(*json.loads(arguments.measure_memory))))
        return

    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    rows = []
    for name in arguments.models:
        batch = arguments.batch or MODELS[name][device == "cuda"]
        found = benchmark(name, device, batch, arguments.threads, arguments.repeats)
        rows += [{**row, "hardware": hardware(device)} for row in found]
        for row in found:
            print(row["model"], row["work"], row["method"], row["seconds"], row["time_ratio"])
        save(rows, arguments.output)


if __name__ == "__main__":
    main()
