"use strict";
// Draws the traces in #data. All texts come from there, already visible, and enter the page as text, never as markup.
(() => {
  let data = JSON.parse(document.getElementById("data").textContent);
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
  const percent = (share) =>
    share >= 0.001 ? `${(100 * share).toFixed(1)}%` : share >= 1e-5 ? `${(100 * share).toFixed(3)}%` : share ? share.toExponential(0) : "0";
  const token = (trace, id) => {
    const text = trace.texts[id];
    return make("span", { class: "token" }, text.trim() ? text : `"${text}"`);
  };
  const spoken = (trace, id) => `"${trace.texts[id]}"`;

  // A box that scrolls must be reached by keyboard; one that does not should be no stop on the way.
  const scrollable = (box) => (box.scrollHeight > box.clientHeight ? box.setAttribute("tabindex", "0") : box.removeAttribute("tabindex"));

  document.getElementById("ramp").style.background = `linear-gradient(to right, ${data.colours})`;
  let seen = [];  // of each section in which somebody has looked: the cell, and the token that is kept
  const strengths = [];  // of each section whose slider somebody has moved
  show();
  // `dola ui` holds this page in a frame and sends it the traces as they grow.
  if (window.parent !== window) {
    const tell = () => window.parent.postMessage({ height: document.documentElement.offsetHeight }, "*");
    window.addEventListener("message", (event) => {
      if (event.source !== window.parent || !event.data?.layers) return;
      document.documentElement.classList.add("framed");
      data = event.data.layers;
      show();
      tell();  // the observer waits until the frame is in sight
    });
    new ResizeObserver(tell).observe(document.documentElement);
  }

  function show() {
    const bounded = data.traces.every((trace) => (trace.settings.divergence ?? "jsd") === "jsd");  // the old formula has no largest value
    document.getElementById("most").textContent = bounded ? "0.69 nats, nothing in common" : "most of all here";
    const words = (name, joint) => [...new Set(data.traces.map((trace) => trace.words[name]))].join(joint);
    if (data.traces.length) {
      document.getElementById("used-word").textContent = `the ${words("layer", " or the ")}`;
      document.getElementById("method-word").textContent = words("method", " or ");
      document.getElementById("used").hidden = data.traces.every((trace) => trace.tokens.every((each) => each.layer === null));
    }
    const main = document.getElementById("main");
    const places = [...main.querySelectorAll(".scroll")].map((box) => [box.scrollLeft, box.scrollTop]);
    const focused = [...main.children].findIndex((part) => part.contains(document.activeElement));
    const sliding = document.activeElement?.type === "range";
    seen = data.traces.map((trace, number) => (seen[number]?.index < trace.tokens.length ? seen[number] : undefined));
    main.className = data.traces.length > 1 ? "pair" : "";
    main.replaceChildren(...data.traces.map(section));
    main.querySelectorAll(".scroll").forEach((box, number) => places[number] && box.scrollTo(...places[number]));
    if (sliding) main.children[focused]?.querySelector("input").focus({ preventScroll: true });
    else if (seen[focused]) main.children[focused].querySelector('td[tabindex="0"]').focus({ preventScroll: true });
  }

  function section(trace, number) {
    const look = make("div", { class: "look", role: "status" });
    const kept = make("div", { class: "kept", "aria-live": "off" });  // spoken when a token is pinned, not at every step
    const prompt = make("p", { class: "prompt", role: "group", "aria-label": "prompt" }, trace.prompt);
    new ResizeObserver(() => scrollable(prompt)).observe(prompt);
    const panel = make("div", { class: "panel" }, look, kept);
    const map = table(trace, number, look, kept);
    const part = make("section", { "aria-labelledby": `title${number}` });
    part.append(make("h2", { id: `title${number}` }, trace.title), prompt);
    if (!trace.settings.method) panel.insertBefore(slider(trace, number, map, kept), kept);
    part.append(make("div", { class: "both" }, make("div", { class: "scroll", tabindex: "-1" }, map), panel));
    const at = place(trace, number);
    showLayer(trace, at.index, at.layer, look);
    showToken(trace, number, at.pinned ?? at.index, kept);
    return part;
  }

  function recorded(trace) {
    return trace.settings.strength ?? 1;  // files of earlier versions have none
  }
  function strengthOf(trace, number) {
    return strengths[number] ?? recorded(trace);
  }

  // The plausible tokens that are listed, by F = log p - strength * log q: from the numbers of the file.
  function members(trace, number, each) {
    const strength = strengthOf(trace, number);
    if (strength === recorded(trace)) return each.plausible;
    const log = (share) => (share > 0 ? Math.log(share) : -745);
    return each.plausible.map((member) => {
      const p = member.log_p ?? log(member.probability[trace.num_layers]);
      return { ...member, contrast: p - strength * (member.log_q ?? log(member.probability[each.layer])) };
    }).sort((a, b) => b.contrast - a.contrast);
  }
  function choice(trace, number, each) {
    return strengthOf(trace, number) === recorded(trace) ? each.dola_choice : members(trace, number, each)[0].id;
  }

  // How much of the premature layer is subtracted: moved, the choices are drawn again.
  function slider(trace, number, map, kept) {
    const strength = strengthOf(trace, number);
    const most = Math.max(2, recorded(trace));
    const range = make("input", { type: "range", min: 0, max: most, step: "any", value: strength });
    const said = make("span", { class: "number", "aria-hidden": "true" });
    const say = (value) => {
      said.textContent = value.toFixed(2);
      range.setAttribute("aria-valuetext", value.toFixed(2));
    };
    say(strength);
    range.addEventListener("input", () => {
      const moved = Math.round(20 * range.value) / 20;
      strengths[number] = Math.abs(moved - recorded(trace)) < 0.025 ? recorded(trace) : moved;
      say(strengths[number]);
      [...map.tBodies[0].rows].forEach((line, index) => line.lastElementChild.replaceWith(chosen(trace, number, trace.tokens[index])));
      const at = place(trace, number);
      showToken(trace, number, at.pinned ?? at.index, kept);
    });
    return make("p", { class: "strength" }, make("label", {}, "strength of the contrast ", range), " ", said);
  }

  function chosen(trace, number, each) {
    const id = choice(trace, number, each);
    return make("td", { class: each.mature_choice === id ? "name" : "name differs" }, token(trace, id));
  }

  // Where somebody looks, or what tells most.
  function place(trace, number) {
    const index = trace.telling;
    return seen[number] ?? { index, layer: trace.tokens[index].layer ?? trace.candidates.at(-1), pinned: null };
  }

  function table(trace, number, look, kept) {
    const layers = [...Array(trace.num_layers).keys()];
    const head = make("tr", {}, make("th", { scope: "col" }, "after"));
    for (const layer of layers) {
      const candidate = trace.candidates.includes(layer);
      const beside = [-1, 1].some((step) => trace.candidates.includes(layer + step));
      const kind = candidate ? "candidate" : beside || layer % 5 ? "crowd" : "";  // a crowd is hidden where room is short
      const label = `layer ${layer}${candidate ? ", a candidate" : ""}`;
      head.append(make("th", { scope: "col", "aria-label": label }, make("span", { class: kind }, `${layer}`)));
    }
    for (const name of ["last layer", trace.words.method]) head.append(make("th", { scope: "col", class: "name" }, name));
    const body = make("tbody");
    const cells = trace.tokens.map((each, index) => row(trace, number, each, index, layers, body));
    const map = make("table", { class: "map", role: "grid", "aria-labelledby": `title${number}` }, make("thead", {}, head), body);
    behave(map, trace, number, cells, look, kept);
    return map;
  }

  function row(trace, number, each, index, layers, body) {
    const line = make("tr", {}, make("th", { scope: "row" }, token(trace, each.after)));
    const cells = layers.map((layer) => {
      const chosen = layer === each.layer;
      const value = each.divergence[layer];
      const label = `layer ${layer}, divergence ${value.toPrecision(2)}${chosen ? `, ${trace.words.layer}` : ""}`;
      const cell = make("td", { class: chosen ? "cell chosen" : "cell", tabindex: "-1", "aria-label": label });
      cell.style.backgroundColor = colour(value / trace.scale);
      cell.dataset.index = index;
      cell.dataset.layer = layer;
      return cell;
    });
    line.append(...cells);
    line.append(make("td", { class: "name" }, token(trace, each.mature_choice)));
    line.append(chosen(trace, number, each));
    body.append(line);
    return cells;
  }

  function behave(map, trace, number, cells, look, kept) {
    const of = (cell) => [Number(cell.dataset.index), Number(cell.dataset.layer)];
    const at = place(trace, number);
    let stop = cells[at.index][at.layer];  // the one cell that Tab reaches
    let pinned = null;
    stop.tabIndex = 0;
    const pin = (index) => {
      mark(pinned, false);
      pinned = index;
      mark(pinned, true);
      kept.setAttribute("aria-live", index === null ? "off" : "polite");
    };
    const mark = (index, on) => {
      if (index === null) return;
      const line = cells[index][0].parentElement;
      line.classList.toggle("pinned", on);
      line.setAttribute("aria-selected", on);
    };
    pin(at.pinned);
    const view = (cell) => {
      const [index, layer] = of(cell);
      seen[number] = { index, layer, pinned };
      showLayer(trace, index, layer, look);
      if (pinned === null) showToken(trace, number, index, kept);
    };
    const keep = (cell) => {
      const [index, layer] = of(cell);
      pin(index);
      seen[number] = { index, layer, pinned };
      showToken(trace, number, pinned, kept);
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
      const line = event.target.closest("tbody tr");
      const cell = event.target.closest("td.cell") ?? line?.querySelector("td.chosen") ?? line?.querySelector("td.cell");
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
      else if (event.key === "Escape") {
        pin(null);
        if (seen[number]) seen[number].pinned = null;
      }
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
    const what = [trace.candidates.includes(layer) ? "a candidate" : "", layer === each.layer ? `the ${trace.words.layer}` : ""];
    const unit = (trace.settings.divergence ?? "jsd") === "jsd" ? " nats" : "";
    const far = `${each.divergence[layer].toPrecision(3)}${unit} from the last layer${what.filter(Boolean).map((w) => `, ${w}`).join("")}.`;
    const lines = [make("h3", {}, here), make("p", { class: "hint" }, far)];
    if (each.rank) {
      const follows = `${spoken(trace, each.token)} follows in the text: number ${each.rank[layer].toLocaleString("en")} here, ${percent(each.probability[layer])}.`;
      lines.push(make("p", { class: "hint" }, follows));
    }
    look.replaceChildren(...lines, top);
  }

  // The candidates of one token, and their probabilities over the layers.
  function showToken(trace, number, index, kept) {
    const found = trace.tokens[index];
    const each = { ...found, plausible: members(trace, number, found) };
    const strength = strengthOf(trace, number);
    const listed = each.plausible_count > each.plausible.length ? " of the tokens that the file lists" : "";
    const moved = `At strength ${strength.toFixed(2)} DoLa would choose ${spoken(trace, choice(trace, number, found))}${listed}.`;
    const left = each.plausible_count - each.plausible.length;
    const likely = each.plausible.map((member) => member.probability[trace.num_layers]).sort((a, b) => b - a);
    const rows = make("tbody");
    each.plausible.forEach((member, place) => {
      const share = member.probability[trace.num_layers];
      const rank = left ? [] : [`${likely.indexOf(share) + 1} \u2192 ${place + 1}`];  // known where all members are
      const before = each.layer === null ? [] : [percent(member.probability[each.layer])];
      const numbers = [...before, percent(share), member.contrast.toFixed(2), ...rank];
      rows.append(make("tr", {}, keyed(trace, member.id, place), ...numbers.map((value) => make("td", { class: "number" }, value))));
    });
    const head = make("tr", {}, make("th", { scope: "col" }, trace.words.dola ? "plausible" : "token"));
    const logit = trace.settings.scores === "distribution" && strength === recorded(trace);
    const scored = logit ? "logit" : trace.words.dola ? "contrast" : "score";
    const names = [...(each.layer === null ? [] : [`layer ${each.layer}`]), "last layer", scored, ...(left ? [] : ["rank"])];
    for (const name of names) head.append(make("th", { scope: "col", class: "number" }, name));
    const lines = [
      make("h3", {}, `Token ${index + 1}`),
      make("p", { class: "explanation" }, strength === recorded(trace) ? trace.explanations[index] : moved),
      make("table", { class: "members" }, make("thead", {}, head), rows),
    ];
    if (left) lines.push(make("p", { class: "hint" }, `and ${left.toLocaleString("en")} more${trace.words.dola ? " plausible" : ""} tokens, less likely than these`));
    else lines.push(make("p", { class: "hint" }, `rank: by the last layer \u2192 by ${trace.words.method}`));
    kept.replaceChildren(...lines, chart(trace, each), asNumbers(trace, each));
  }

  function keyed(trace, id, place) {
    const name = make("td", {}, token(trace, id));
    if (place >= SERIES) return name;
    const key = make("span", { class: "key", "aria-hidden": "true" });
    key.style.background = `var(--series${place})`;
    name.prepend(key);
    return name;
  }

  // On a logarithmic scale a token's contrast is how far its line climbs from the premature layer to the last one.
  function chart(trace, each) {
    const [width, height, left, bottom] = [420, 190, 40, 34];
    const drawnOnes = each.plausible.slice(0, SERIES);
    const first = trace.candidates.includes(0) ? 0 : 1;  // the embedding may lie far below all others
    const lowest = Math.max(Math.min(...drawnOnes.flatMap((member) => member.probability.slice(first))), 1e-40);
    const decades = Math.max(2, Math.ceil(-Math.log10(lowest)));
    const x = (layer) => left + ((width - left - 8) * layer) / trace.num_layers;
    const y = (share) => 8 + ((height - bottom - 8) * Math.min(-Math.log10(Math.max(share, lowest)), decades)) / decades;
    const title = `Probability of the first ${drawnOnes.length} candidates in each layer, 0 to ${trace.num_layers}${each.layer === null ? "" : `; the ${trace.words.layer} is ${each.layer}`}`;
    const picture = drawn("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title });
    const rise = Math.ceil(decades / 4);
    for (let power = 0; power <= decades; power += rise) {
      const at = y(10 ** -power);
      picture.append(drawn("line", { class: "axis", x1: left, x2: width - 8, y1: at, y2: at }));
      const label = power < 4 ? `${+(100 / 10 ** power).toFixed(1)}%` : `1e-${power}`;
      picture.append(drawn("text", { x: left - 4, y: at + 4, "text-anchor": "end" }, label));
    }
    const step = Math.ceil(trace.num_layers / 10);
    for (let layer = 0; layer <= trace.num_layers; layer += step) {
      picture.append(drawn("text", { x: x(layer), y: height - 20, "text-anchor": "middle" }, `${layer}`));
    }
    picture.append(drawn("text", { x: (left + width) / 2, y: height - 4, "text-anchor": "middle" }, "layer"));
    if (each.layer !== null) picture.append(drawn("line", { class: "premature", x1: x(each.layer), x2: x(each.layer), y1: 8, y2: height - bottom }));
    drawnOnes.forEach((member, place) => {
      const points = member.probability.map((share, layer) => `${x(layer).toFixed(1)},${y(share).toFixed(1)}`).join(" ");
      const line = drawn("polyline", { points, fill: "none", "stroke-width": 2, "stroke-dasharray": ["", "7 3", "2 3", "8 3 2 3", "4 4"][place] });
      line.style.stroke = `var(--series${place})`;
      picture.append(line);
    });
    return picture;
  }

  // What the chart draws, as numbers: for those who read, or who listen.
  function asNumbers(trace, each) {
    const shown = each.plausible.slice(0, SERIES);
    const head = make("tr", {}, make("th", { scope: "col" }, "layer"));
    for (const member of shown) head.append(make("th", { scope: "col", class: "number" }, token(trace, member.id)));
    const body = make("tbody");
    for (let layer = trace.num_layers; layer >= 0; layer--) {
      const name = layer === trace.num_layers ? `${layer}, the last` : layer === each.layer ? `${layer}, ${trace.words.dola ? "premature" : "used"}` : `${layer}`;
      const line = make("tr", {}, make("th", { scope: "row" }, name));
      for (const member of shown) line.append(make("td", { class: "number" }, percent(member.probability[layer])));
      body.append(line);
    }
    const summary = make("summary", {}, "Probabilities by layer, as numbers");
    return make("details", { class: "layers" }, summary, make("table", {}, make("thead", {}, head), body));
  }
})();
