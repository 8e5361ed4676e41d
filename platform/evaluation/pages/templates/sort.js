
// Tables sort by a click on a heading; without this script they stand from head to tail.
for (const table of document.querySelectorAll("table.sorts")) {
  const body = table.tBodies[0];
  for (const th of table.tHead.rows[0].cells) {
    const button = document.createElement("button");
    button.append(...th.childNodes);
    th.append(button);
    button.onclick = () => {
      const up = th.getAttribute("aria-sort") !== "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      th.setAttribute("aria-sort", up ? "ascending" : "descending");
      const key = row => {
        const text = row.cells[th.cellIndex].firstChild.textContent.trim();
        const number = Number(text.replaceAll(",", "").replace("\u2212", "-"));
        return text === "" || isNaN(number) ? text : number;
      };
      const rows = [...body.rows].map(row => [key(row), row]);
      const undefinedLast = k => k === "\u2013";
      rows.sort(([a], [b]) => undefinedLast(a) - undefinedLast(b)
        || (up ? 1 : -1) * (typeof a === "number" && typeof b === "number" ? a - b
          : String(a).localeCompare(String(b))));
      body.append(...rows.map(([, row]) => row));
    };
  }
}
