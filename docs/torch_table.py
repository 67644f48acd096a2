"""The table of torch's names: what is in ``torch_names.txt``, in tapegrad, and in the rows of ``differences.md``."""

import html
import inspect
import re
from collections import Counter
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import tapegrad

HERE = Path(__file__).parent
SAME, DIFFERS, ABSENT = "same", "differs", "absent"
# Arguments that say nothing here: where memory is and how it is laid out, and names that torch has given up.
WITHOUT_MEANING = {"layout", "memory_format", "pin_memory", "device", "orig_func", "only_inputs", "grad_variables"}


@dataclass(frozen=True)
class Difference:
    """A row of differences.md."""

    what: str
    torch: str
    here: str
    why: str
    patterns: tuple[str, ...]

    def is_about(self, name: str) -> bool:
        """Whether the row is about a name, given without ``torch.``; a star stands for no dot."""
        return any(name.count(".") == p.count(".") and fnmatchcase(name, p) for p in self.patterns)


@dataclass(frozen=True)
class Row:
    """A name of torch's, and what became of it."""

    name: str
    status: str
    notes: tuple[str, ...]

    @property
    def space(self) -> str:
        return self.name.rpartition(".")[0]


def differences(text: str | None = None) -> list[Difference]:
    """Return the rows of the table in differences.md."""
    rows = []
    for line in (text or (HERE / "differences.md").read_text()).splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) >= 4 and cells[0] != "what" and set(cells[0]) != {"-"}:
            rows.append(Difference(*cells[:4], tuple(re.findall(r"`([^`]+)`", "".join(cells[4:5])))))
    return rows


def torch_names() -> tuple[str, dict[str, list[str]]]:
    """Return torch's version and its names with their parameters, as torch_names.py has listed them."""
    first, *lines = (HERE / "torch_names.txt").read_text().splitlines()
    return re.search(r"[\d.]+\d", first)[0], {name: given for name, *given in map(str.split, lines)}


def find(name: str) -> object:
    """Return what tapegrad has under torch's name; None if nothing."""
    value = tapegrad
    for part in name.split(".")[1:]:
        value = getattr(value, part, None)
    return value


def missing_arguments(value: object, names: list[str]) -> list[str]:
    """Return the parameters in torch's signature that a function of tapegrad's does not have."""
    try:
        found = inspect.signature(value).parameters
    except (TypeError, ValueError):
        return []
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in found.values()):
        return []
    return [name for name in names if name not in found and name not in WITHOUT_MEANING]


def row(name: str, parameters: list[str], known: list[Difference]) -> Row:
    short = name.removeprefix("torch.")
    notes = [f"{difference.what}: {difference.here}" for difference in known if difference.is_about(short)]
    value = find(name)
    if value is None and short != "newaxis":
        return Row(name, ABSENT, tuple(notes))
    # methods' signatures in torch's docstrings do not agree with what they take
    if not name.startswith("torch.Tensor.") and short != "compile":
        lacking = [f"`{argument}`" for argument in missing_arguments(value, parameters)]
        notes += [f"no argument named {', '.join(lacking)}"] if lacking else []
    return Row(name, DIFFERS if notes else SAME, tuple(notes))


def rows() -> list[Row]:
    known = differences()
    return [row(name, parameters, known) for name, parameters in torch_names()[1].items()]


def summary(table: list[Row]) -> str:
    """Return a Markdown table of how many names of each namespace are there."""
    counts = Counter((row.space, row.status) for row in table)
    spaces = dict.fromkeys(row.space for row in table)
    lines = ["| namespace | same | differs | absent |", "|---|---|---|---|"]
    lines += [f"| `{s}` | {counts[s, SAME]} | {counts[s, DIFFERS]} | {counts[s, ABSENT]} |" for s in spaces]
    total = Counter(row.status for row in table)
    return "\n".join([*lines, f"| all | {total[SAME]} | {total[DIFFERS]} | {total[ABSENT]} |"])


def _in_html(text: str) -> str:
    """Return a cell of differences.md, which has code, links and little else, as HTML."""
    text = re.sub(r"\[([^]]*)\]\(([\w/]+)\.md\)", r"\1", html.escape(text, quote=False))
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", text)


FILTER = """
<div class="torch-names">
<p><label>Filter <input type="search" placeholder="for example softmax, or nn.Conv" autocomplete="off"></label>
<label><input type="checkbox" value="same" checked> same</label>
<label><input type="checkbox" value="differs" checked> differs</label>
<label><input type="checkbox" value="absent" checked> absent</label>
<output></output></p>
<div class="torch-rows"><table class="table"><thead>
<tr><th>torch</th><th>here</th><th>how it differs</th></tr></thead><tbody>
"""
SCRIPT = """
</tbody></table></div></div>
<script>
(() => {
  const root = document.querySelector(".torch-names"), rows = [...root.querySelectorAll("tbody tr")];
  const text = root.querySelector("[type=search]"), boxes = [...root.querySelectorAll("[type=checkbox]")];
  const update = () => {
    const wanted = text.value.trim().toLowerCase(), shown = new Set(boxes.filter(b => b.checked).map(b => b.value));
    let count = 0;
    for (const row of rows) {
      row.hidden = !shown.has(row.className) || !row.textContent.toLowerCase().includes(wanted);
      count += !row.hidden;
    }
    root.querySelector("output").textContent = `${count} of ${rows.length} names`;
  };
  root.addEventListener("input", update);
  update();
})();
</script>
"""


def table_html(table: list[Row]) -> str:
    """Return the whole table with its filter."""
    lines = [
        f'<tr class="{row.status}"><td><code>{html.escape(row.name)}</code></td><td>{row.status}</td>'
        f"<td>{'; '.join(map(_in_html, row.notes))}</td></tr>"
        for row in table
    ]
    return FILTER + "\n".join(lines) + SCRIPT


def fill(page: str) -> str:
    """Return the page with its three places filled in."""
    table = rows()
    page = page.replace("{{torch version}}", torch_names()[0]).replace("{{summary}}", summary(table))
    return page.replace("{{table}}", f"```{{raw}} html\n{table_html(table)}\n```")
