"use strict";
// Draws the traces in #data. All texts come from there, already visible, and enter the page as text, never as markup.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const SERIES = 5;  // candidates whose probability is drawn over the layers

  const make = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  };
  const drawn = (tag, attributes, ...children) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  };
  const rgb = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
  const colours = data.colours.map(rgb);
  const colour = (share) => {
    const place = Math.min(Math.max(share, 0), 1) * (colours.length - 1);
    const below = Math.min(Math.floor(place), colours.length - 2);
    return `rgb(${colours[below].map((low, i) => Math.round(low + (colours[below + 1][i] - low) * (place - below)))})`;
  };
  const percent = (share) => (share >= 0.001 ? `${(100 * share).toFixed(1)}%` : share >= 1e-5 ? `${(100 * share).toFixed(3)}%` : "<0.001%");
  const token = (trace, id) => {
    const text = trace.texts[id];
    return make("span", { class: "token" }, text.trim() ? text : `"${text}"`);
  };
  const spoken = (trace, id) => `"${trace.texts[id]}"`;

  document.getElementById("ramp").style.background = `linear-gradient(to right, ${data.colours})`;
  document.getElementById("main").className = data.traces.length > 1 ? "pair" : "";
  data.traces.forEach((trace, number) => document.getElementById("main").append(section(trace, number)));

  function section(trace, number) {
    const look = make("div", { class: "look", role: "status" });
    const kept = make("div", { class: "kept", "aria-live": "polite" });
    const panel = make("div", { class: "panel" }, look, kept);
    const map = table(trace, number, look, kept);
    const part = make("section", { "aria-labelledby": `title${number}` });
    part.append(make("h2", { id: `title${number}` }, trace.title), make("p", { class: "prompt" }, trace.prompt));
    part.append(make("div", { class: "both" }, make("div", { class: "scroll", tabindex: "-1" }, map), panel));
    showLayer(trace, trace.telling, trace.tokens[trace.telling].layer, look);
    showToken(trace, trace.telling, kept);
    return part;
  }

  function table(trace, number, look, kept) {
    const layers = [...Array(trace.num_layers).keys()];
    const head = make("tr", {}, make("th", { scope: "col" }, "after"));
    for (const layer of layers) {
      const shown = trace.candidates.includes(layer) ? make("span", { class: "candidate", title: "candidate" }, `${layer}`) : `${layer}`;
      head.append(make("th", { scope: "col", "aria-label": `layer ${layer}` }, shown));
    }
    for (const name of ["last layer", "DoLa"]) head.append(make("th", { scope: "col", class: "name" }, name));
    const body = make("tbody");
    const cells = trace.tokens.map((each, index) => row(trace, each, index, layers, body));
    const map = make("table", { class: "map", role: "grid", "aria-labelledby": `title${number}` }, make("thead", {}, head), body);
    behave(map, trace, cells, look, kept);
    return map;
  }

  function row(trace, each, index, layers, body) {
    const line = make("tr", {}, make("th", { scope: "row" }, token(trace, each.after)));
    const cells = layers.map((layer) => {
      const chosen = layer === each.layer;
      const value = each.divergence[layer];
      const label = `layer ${layer}, divergence ${value.toPrecision(2)}${chosen ? ", premature layer" : ""}`;
      const cell = make("td", { class: chosen ? "cell chosen" : "cell", tabindex: "-1", "aria-label": label });
      cell.style.backgroundColor = colour(value / trace.scale);
      cell.dataset.index = index;
      cell.dataset.layer = layer;
      return cell;
    });
    line.append(...cells);
    const differs = each.mature_choice === each.dola_choice ? "name" : "name differs";
    line.append(make("td", { class: "name" }, token(trace, each.mature_choice)));
    line.append(make("td", { class: differs }, token(trace, each.dola_choice)));
    body.append(line);
    return cells;
  }

  function behave(map, trace, cells, look, kept) {
    const of = (cell) => [Number(cell.dataset.index), Number(cell.dataset.layer)];
    let stop = cells[trace.telling][trace.tokens[trace.telling].layer];  // the one cell that Tab reaches
    let pinned = null;
    stop.tabIndex = 0;
    const pin = (index) => {
      if (pinned !== null) cells[pinned][0].parentElement.classList.remove("pinned");
      pinned = index;
      if (index !== null) cells[index][0].parentElement.classList.add("pinned");
    };
    const view = (cell) => {
      const [index, layer] = of(cell);
      showLayer(trace, index, layer, look);
      if (pinned === null) showToken(trace, index, kept);
    };
    const keep = (cell) => {
      pin(of(cell)[0]);
      showToken(trace, pinned, kept);
    };
    map.addEventListener("mouseover", (event) => event.target.matches("td.cell") && view(event.target));
    map.addEventListener("focusin", (event) => {
      if (!event.target.matches("td.cell")) return;
      stop.tabIndex = -1;
      stop = event.target;
      stop.tabIndex = 0;
      view(stop);
    });
    map.addEventListener("click", (event) => {
      const cell = event.target.closest("td.cell") ?? event.target.closest("tbody tr")?.querySelector("td.chosen");
      if (cell) keep(cell);
    });
    map.addEventListener("keydown", (event) => {
      if (!event.target.matches("td.cell")) return;
      const [index, layer] = of(event.target);
      const last = trace.num_layers - 1;
      const to = {
        ArrowUp: [index - 1, layer], ArrowDown: [index + 1, layer], ArrowLeft: [index, layer - 1], ArrowRight: [index, layer + 1],
        Home: [index, 0], End: [index, last], PageUp: [Math.max(index - 10, 0), layer],
        PageDown: [Math.min(index + 10, cells.length - 1), layer],
      }[event.key];
      if (to) cells[to[0]]?.[to[1]]?.focus();
      else if (event.key === "Enter" || event.key === " ") keep(event.target);
      else if (event.key === "Escape") pin(null);
      else return;
      event.preventDefault();
    });
  }

  // The likeliest tokens of one layer at one token.
  function showLayer(trace, index, layer, look) {
    const each = trace.tokens[index];
    const top = make("table", { class: "top" });
    top.append(make("caption", { class: "hint" }, "its likeliest tokens"));
    const body = make("tbody");
    for (const [id, share] of each.top[layer]) {
      const bar = make("span", { class: "bar", "aria-hidden": "true" });
      bar.style.width = `${5 * share}rem`;
      body.append(make("tr", {}, make("td", {}, token(trace, id)), make("td", { class: "number" }, percent(share)), make("td", {}, bar)));
    }
    top.append(body);
    const here = `Layer ${layer} after ${spoken(trace, each.after)}`;
    const what = [trace.candidates.includes(layer) ? "a candidate" : "", layer === each.layer ? "the premature layer" : ""];
    const unit = trace.settings.divergence === "jsd" ? " nats" : "";
    const far = `${each.divergence[layer].toPrecision(3)}${unit} from the last layer${what.filter(Boolean).map((w) => `, ${w}`).join("")}.`;
    const lines = [make("h3", {}, here), make("p", { class: "hint" }, far)];
    if (each.rank) {
      const follows = `${spoken(trace, each.token)} follows in the text: number ${each.rank[layer].toLocaleString("en")} here, ${percent(each.probability[layer])}.`;
      lines.push(make("p", { class: "hint" }, follows));
    }
    look.replaceChildren(...lines, top);
  }

  // The candidates of one token, and their probabilities over the layers.
  function showToken(trace, index, kept) {
    const each = trace.tokens[index];
    const members = make("tbody");
    each.plausible.forEach((member, place) => {
      const name = make("td", {}, token(trace, member.id));
      if (place < SERIES) {
        const key = make("span", { class: "key", "aria-hidden": "true" });
        key.style.background = `var(--series${place})`;
        name.prepend(key);
      }
      const numbers = [percent(member.probability[each.layer]), percent(member.probability[trace.num_layers]), member.contrast.toFixed(2)];
      members.append(make("tr", {}, name, ...numbers.map((value) => make("td", { class: "number" }, value))));
    });
    const head = make("tr", {}, make("th", { scope: "col" }, "plausible"));
    for (const name of [`layer ${each.layer}`, "last layer", "contrast"]) head.append(make("th", { scope: "col", class: "number" }, name));
    const lines = [
      make("h3", {}, `Token ${index + 1}`),
      make("p", { class: "explanation" }, trace.explanations[index]),
      make("table", { class: "members" }, make("thead", {}, head), members),
    ];
    const left = each.plausible_count - each.plausible.length;
    if (left) lines.push(make("p", { class: "hint" }, `and ${left.toLocaleString("en")} more plausible tokens, less likely than these`));
    kept.replaceChildren(...lines, chart(trace, each));
  }

  function chart(trace, each) {
    const [width, height, left, bottom] = [420, 170, 34, 22];
    const x = (layer) => left + ((width - left - 8) * layer) / trace.num_layers;
    const most = Math.max(...each.plausible.slice(0, SERIES).flatMap((member) => member.probability), 1e-3);
    const y = (share) => 6 + (height - bottom - 6) * (1 - share / most);
    const title = `Probability of the first ${Math.min(SERIES, each.plausible.length)} candidates in each layer, 0 to ${trace.num_layers}; the premature layer is ${each.layer}`;
    const picture = drawn("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title });
    for (const share of [0, most / 2, most]) {
      picture.append(drawn("line", { class: "axis", x1: left, x2: width - 8, y1: y(share), y2: y(share) }));
      picture.append(drawn("text", { x: left - 4, y: y(share) + 4, "text-anchor": "end" }, `${(100 * share).toFixed(most < 0.1 ? 1 : 0)}%`));
    }
    const step = Math.ceil(trace.num_layers / 10);
    for (let layer = 0; layer <= trace.num_layers; layer += step) {
      picture.append(drawn("text", { x: x(layer), y: height - 6, "text-anchor": "middle" }, `${layer}`));
    }
    picture.append(drawn("line", { class: "premature", x1: x(each.layer), x2: x(each.layer), y1: 6, y2: height - bottom }));
    each.plausible.slice(0, SERIES).forEach((member, place) => {
      const points = member.probability.map((share, layer) => `${x(layer).toFixed(1)},${y(share).toFixed(1)}`).join(" ");
      const line = drawn("polyline", { points, fill: "none", "stroke-width": 2, "stroke-dasharray": ["", "7 3", "2 3", "8 3 2 3", "4 4"][place] });
      line.style.stroke = `var(--series${place})`;
      picture.append(line);
    });
    return picture;
  }
})();
