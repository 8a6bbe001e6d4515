"use strict";
// Lists the items in #data. Texts enter the page as text, never as markup.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  if (!data.items.length) return;
  const PAGE = 25;
  const find = (id) => document.getElementById(id);
  const make = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  };
  const [search, row, show, list, more, count] = ["search", "row", "show", "list", "more", "count"].map(find);
  data.rows.forEach((each, i) => i && row.append(make("option", { value: i }, each.name)));
  const telling = data.rows.findIndex((each) => each.name === data.telling);
  row.value = String(telling > 0 ? telling : Math.min(1, data.rows.length - 1));
  if (data.items.some((item) => item.traces)) show.append(make("option", { value: "traced" }, "traced items"));
  let shown = PAGE;

  const apart = (item, i) => (item.values[i] === null ? 0 : data.sign * (item.values[i] - item.values[0]));
  const moved = (item, i) => (item.mass[i] === null ? 0 : item.mass[i] - item.mass[0]);
  const texts = (item) => [item.id, item.question, ...item.right, ...item.wrong, ...item.answers].join("\n").toLowerCase();
  const wanted = {
    all: () => true,
    better: (item, i) => apart(item, i) > 0,
    worse: (item, i) => apart(item, i) < 0,
    changed: (item, i) => item.answers[i] !== null && item.answers[i] !== item.answers[0],
    most: (item, i) => apart(item, i) !== 0 || Math.abs(moved(item, i)) >= 0.1,
    traced: (item) => item.traces !== null,
  };
  const percent = (share) => (share === null ? "" : `${(100 * share).toFixed(0)}%`);
  const value = (number) => (number === null ? "" : String(+number.toFixed(3)));

  function entry(item, i) {
    const change = apart(item, i);
    const mark = change > 0 ? "better" : change < 0 ? "worse" : "";
    const line = make("summary", {}, `${item.id}: ${item.question.replace(/\s+/g, " ").slice(0, 160)}`);
    if (mark) line.append(make("span", { class: `mark ${mark}` }, mark));
    if (item.traces) line.append(make("span", { class: "mark" }, "traced"));
    const box = make("details", { class: "item" }, line);
    box.addEventListener("toggle", () => box.open && box.childElementCount === 1 && box.append(...inside(item)));
    return box;
  }
  function inside(item) {
    const known = item.mass.some((each) => each !== null);
    const head = make("tr", {}, ...["Row", "Answer", data.metric, ...(known ? ["Right answers' probability"] : [])].map((name) => make("th", { scope: "col" }, name)));
    const rows = data.rows.map((each, i) =>
      make("tr", each.control ? { class: "control" } : {}, make("th", { scope: "row" }, each.name),
        make("td", { class: "text", dir: "auto" }, item.answers[i] === null ? "" : item.answers[i] || "(empty)"), make("td", {}, value(item.values[i])),
        ...(known ? [make("td", {}, percent(item.mass[i]))] : [])));
    const right = item.right.length ? [make("p", { class: "text" }, `Right: ${item.right.join(" | ")}`)] : [];
    const wrong = item.wrong.length ? [make("p", { class: "text" }, `Wrong: ${item.wrong.join(" | ")}`)] : [];
    const group = item.group ? [make("p", {}, `Group: ${item.group}`)] : [];
    return [make("p", { class: "text", dir: "auto" }, item.question), ...right, ...wrong, ...group, make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows)), ...(item.traces ? [layers(item)] : [])];
  }
  // The page of `dola trace`, in a frame that can reach nothing around it. It is given its traces, and says how high it is.
  function layers(item) {
    const button = make("button", { type: "button" }, "Show what each layer says");
    button.addEventListener("click", () => {
      const frame = make("iframe", { sandbox: "allow-scripts", title: `Layers, item ${item.id}`, srcdoc: data.frame });
      frame.addEventListener("load", () => frame.contentWindow.postMessage({ layers: item.traces }, "*"));
      window.addEventListener("message", (event) => {
        if (event.source === frame.contentWindow && event.data?.height) frame.style.height = `${event.data.height}px`;
      });
      button.replaceWith(frame);
      frame.focus();
    });
    return button;
  }
  function draw() {
    const i = Number(row.value), sought = search.value.trim().toLowerCase();
    const found = data.items.filter((item) => wanted[show.value](item, i) && (!sought || texts(item).includes(sought)));
    if (show.value === "most") found.sort((a, b) => Math.abs(apart(b, i)) - Math.abs(apart(a, i)) || Math.abs(moved(b, i)) - Math.abs(moved(a, i)));
    list.replaceChildren(...found.slice(0, shown).map((item) => entry(item, i)));
    count.textContent = `${found.length} of ${data.items.length} items`;
    more.hidden = found.length <= shown;
  }
  const restart = () => { shown = PAGE; draw(); };
  for (const control of [search, row, show]) control.addEventListener("input", restart);
  document.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
  more.addEventListener("click", () => { shown += PAGE; draw(); });
  find("items").hidden = false;
  draw();
})();
