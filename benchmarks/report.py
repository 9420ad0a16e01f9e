"""Turns the figures of convert.py into a page and a chart.

    python benchmarks/report.py FIGURES [--out FOLDER]

FIGURES is what `convert.py --json` wrote. FOLDER, which gets results.md and results.svg, is that of
this file unless named. Medians and ratios are computed here, from the runs. The same figures give
the same bytes, with one version of matplotlib, which this needs.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

from convert import SAMPLING_SECONDS, Conversion, Cost, Parser, adam_ratios, spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PAGE, CHART = "results.md", "results.svg"

TOOLS = {"ours": "bertconvert", "peer": "transformers 4 + TensorFlow", "cp": "cp of the same data"}
COLOURS = {"ours": "#0969da", "peer": "#c77d2e", "cp": "#b4bcc6"}
INK, PALE = "#1f2328", "#59636e"
BAR = 0.27  # how thick, where from one checkpoint to the next is 1


def read(figures: Path) -> tuple[dict[str, Any], list[Conversion]]:
    """What was told and what was measured; exits if the file holds something else."""
    try:
        told = json.loads(figures.read_text())
        conversions = [
            Conversion(**each | {"costs": {tool: Cost(**c) for tool, c in each["costs"].items()}})
            for each in told["conversions"]
        ]
    except OSError as error:
        sys.exit(f"{figures} can't be read: {error.strerror}")
    except (ValueError, LookupError, TypeError, AttributeError):
        sys.exit(f"{figures} is not what convert.py --json writes")
    if not conversions or any(set(each.costs) != set(TOOLS) for each in conversions):
        sys.exit(f"{figures} has nothing of the peer: give convert.py its --peer-python")
    return told, conversions


def page(told: dict[str, Any], conversions: list[Conversion]) -> str:
    """The text of results.md."""
    seconds: list[tuple[str, ...]] = []
    memory: list[tuple[str, ...]] = []
    for each in conversions:
        ours, peer, cp = (each.costs[tool] for tool in TOOLS)
        seconds.append(
            (
                each.name,
                f"{each.megabytes:,.0f}",
                *map(spread, (ours, peer, cp)),
                times(peer.median / ours.median),
                times(ours.median / cp.median),
            )
        )
        megabytes = (f"{ours.megabytes:,.0f}", f"{peer.megabytes:,.0f}")
        memory.append((each.name, *megabytes, times(peer.megabytes / ours.megabytes)))
    ratios = ("peer / bertconvert", "bertconvert / cp")
    notes = [
        f"Medians of {runs(conversions)}, with the fastest and the slowest. Each is a whole"
        " process, from start to exit, what it imports included. The checkpoint is in the page"
        " cache, and the commands take turns."
    ]
    if adam := adam_ratios(conversions):
        ours, peer, cp = (f"{adam[tool]:.2f}x" for tool in TOOLS)
        notes.append(
            f"base-adam is base with Adam slots. It takes bertconvert {ours} as long as base, the"
            f" peer {peer}, cp {cp}."
        )
    sizes = ["The peak resident set of the process, in 10^6 bytes."]
    for each in conversions:
        if each.checkpoints > 1:
            notes.append(
                f"The {each.name} is one command each: `bertconvert batch`, one process of the peer"
                " that imports once and converts in a loop, `cp -r` of the folders."
            )
            sizes.append(
                f"For the {each.name}, the peak sum of the proportional set sizes of all processes"
                f" of the command, looked up every {SAMPLING_SECONDS * 1000:.0f} ms."
            )
    where = [f"- {name}: {value}" for name, value in told["machine"].items()]
    for tool, packages in told["versions"].items():
        listed = ", ".join(" ".join(item) for item in packages.items())
        whose = f"- {'peer' if tool == 'peer' else TOOLS[tool]}: {listed}"
        where.append(fill(whose, 100, subsequent_indent="  "))
    return "\n\n".join(
        (
            "# What a conversion takes",
            fill(
                "bertconvert; the peer, which is how it was done before (transformers 4 has"
                " TensorFlow read the checkpoint into a PyTorch model, and saves that); and `cp` of"
                " the checkpoint's data: side by side, in one run, on the machine below. What"
                " carries over to another machine is the ratios; `make bench` measures on yours.",
                100,
            ),
            f"![The tables below as bars]({CHART})",
            "## Seconds",
            table(("checkpoint", "data, MB", "bertconvert", "peer", "cp", *ratios), seconds),
            *(fill(note, 100) for note in notes),
            "## Peak memory, MB",
            table(("checkpoint", "bertconvert", "peer", ratios[0]), memory),
            fill(" ".join(sizes), 100),
            "## Where, and with what",
            "\n".join(where),
            f"Measured on {told['date']} by",
            f"    {told['command']}\n",
        )
    )


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Markdown, the first column to the left, the others to the right."""
    lines = [f"| {' | '.join(cells)} |" for cells in (head, *rows)]
    return "\n".join((lines[0], "|---|" + "--:|" * (len(head) - 1), *lines[1:]))


def times(ratio: float) -> str:
    digits = 0 if ratio >= 9.95 else 1 if ratio >= 1 else 2
    return f"{ratio:.{digits}f}x"


def runs(conversions: list[Conversion]) -> str:
    """How many, e.g. `5 runs (of the peer, 3)`."""
    ours, peer = (len(conversions[0].costs[tool].seconds) for tool in ("ours", "peer"))
    return f"{ours} runs (of the peer, {peer})"


def draw(told: dict[str, Any], conversions: list[Conversion], svg: Path) -> None:
    """The chart, 800 pixels wide: bars of the seconds, and of the peak memory beside them."""
    from matplotlib import rcParams
    from matplotlib.figure import Figure

    rcParams.update(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": "bertconvert",
            # matplotlib brings the first, and measures with it; a browser takes what it has.
            "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial", "sans-serif"],
            "font.size": 8,
            "text.color": INK,
            "axes.edgecolor": PALE,
            "axes.labelcolor": INK,
            "xtick.color": PALE,
            "ytick.color": INK,
        }
    )
    # In points; 600 of them are 800 pixels.
    width, height = 600, 136 + 44 * len(conversions)
    bottom, top = 76, 60
    # GitHub's page may be dark, and the text is not.
    figure = Figure(figsize=(width / 72, height / 72), facecolor="white")

    def panel(left: float, right: float) -> "Axes":
        tall = height - bottom - top
        return figure.add_axes(
            (left / width, bottom / height, (right - left) / width, tall / height)
        )

    def write(x: float, y: float, text: str, **style: Any) -> None:
        figure.text(x / width, y / height, text, **style)

    draw_seconds(panel(84, 370), conversions)
    draw_memory(panel(388, width - 12), conversions)
    title = "From a TensorFlow checkpoint to a PyTorch model folder: time and peak memory"
    write(12, height - 22, title, fontsize=10.5, fontweight="bold")
    for x, (tool, name) in zip((12, 100, 266), TOOLS.items(), strict=True):
        write(x, height - 42, "■", color=COLOURS[tool], fontsize=10)
        write(x + 12, height - 42, name)
    machine = told["machine"]
    family = "; the family is one command each" if conversions[-1].checkpoints > 1 else ""
    small = (
        f"Medians of {runs(conversions)}; a thin line reaches from the fastest to the slowest."
        " In blue: how many times as much the peer takes.\n"
        f"Whole processes, imports included{family}; the checkpoint is in the page cache.\n"
        f"{machine['CPU']}, {machine['cores']} cores, {machine['memory']},"
        f" {machine['file system']}, {told['date']}."
    )
    write(12, 8, small, fontsize=7, color=PALE, linespacing=1.5)
    figure.savefig(svg, metadata={"Date": None, "Creator": None})


def draw_seconds(axes: "Axes", conversions: list[Conversion]) -> None:
    costs = [cost for each in conversions for cost in each.costs.values()]
    axes.set_xscale("log")
    # Room for what stands right of the bars.
    axes.set_xlim(min(min(cost.seconds) for cost in costs) / 1.5, 6 * max(map(slowest, costs)))
    axes.xaxis.set_major_formatter("{x:g}")
    for each, places in rows(axes, conversions):
        faster = times(each.costs["peer"].median / each.costs["ours"].median)
        for tool, place in places.items():
            cost = each.costs[tool]
            axes.barh(place, cost.median, BAR, color=COLOURS[tool])
            axes.hlines(place, min(cost.seconds), slowest(cost), color=INK, linewidth=0.8)
            digits = 3 if cost.median < 0.1 else 2 if cost.median < 10 else 1
            text = f"{cost.median:.{digits}f}"
            note(axes, slowest(cost), place, text, faster if tool == "ours" else "")
    names = [f"{each.name}\n{each.megabytes:,.0f} MB" for each in conversions]
    axes.set_yticks(range(len(conversions)), names, linespacing=1.3)
    axes.set_xlabel("seconds, log scale")


def draw_memory(axes: "Axes", conversions: list[Conversion]) -> None:
    axes.set_xlim(0, 1.3 * max(each.costs["peer"].megabytes for each in conversions))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.locator_params("x", nbins=4)
    for each, places in rows(axes, conversions):
        less = times(each.costs["peer"].megabytes / each.costs["ours"].megabytes)
        for tool in ("ours", "peer"):  # cp needs none to speak of
            megabytes = each.costs[tool].megabytes
            axes.barh(places[tool], megabytes, BAR, color=COLOURS[tool])
            note(axes, megabytes, places[tool], f"{megabytes:,.0f}", less if tool == "ours" else "")
    axes.set_yticks([])
    axes.set_xlabel("peak memory in MB, linear scale")


def rows(
    axes: "Axes", conversions: list[Conversion]
) -> Iterator[tuple[Conversion, dict[str, float]]]:
    """Each conversion, from top to bottom, and where the bar of each tool lies."""
    axes.set_ylim(len(conversions) - 0.5, -0.5)
    axes.tick_params("y", length=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", color="#e4e8ec", linewidth=0.7)
    axes.set_axisbelow(True)
    for row, each in enumerate(conversions):
        yield each, {tool: row + (index - 1) * BAR for index, tool in enumerate(TOOLS)}


def note(axes: "Axes", x: float, y: float, text: str, ratio: str) -> None:
    """A figure right of a bar, and how many times it the peer's is."""
    right = {"textcoords": "offset points", "va": "center"}
    figure = axes.annotate(text, (x, y), (4, 0), fontsize=7, **right)
    if ratio:
        bold = {"fontsize": 8.5, "fontweight": "bold", "color": COLOURS["ours"]}
        axes.annotate(ratio, (1, 0.5), (5, 0), xycoords=figure, **right, **bold)


def slowest(cost: Cost) -> float:
    return max(cost.seconds)


def main() -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("figures", type=Path, metavar="FIGURES", help="what convert.py wrote")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        default=Path(__file__).parent,
        help=f"gets {PAGE} and {CHART}; default: this file's",
    )
    arguments = parser.parse_args()
    if not arguments.out.is_dir():
        parser.error(f"{arguments.out} is no folder")
    told, conversions = read(arguments.figures)
    draw(told, conversions, arguments.out / CHART)
    (arguments.out / PAGE).write_text(page(told, conversions))


if __name__ == "__main__":
    main()
