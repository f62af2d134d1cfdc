"use strict";
// The server's page. What comes from the server or from a user becomes text, never markup.

const SETTINGS = JSON.parse(document.querySelector("#settings").textContent);

// Panel, tab, button and label of the model's own task; "pairs" for any task on two texts, "text-or-pair" for models of
// other tools, which do not say how many they read, "tags" for tags of words that are no entities.
const FORMS = {
  "classification": ["classify", "Classify", "Classify", "A text to classify"],
  "multi-label": ["classify", "Classify", "Classify", "A text to classify"],
  "regression": ["classify", "Predict", "Predict", "A text"],
  "token-classification": ["classify", "Entities", "Find entities", "A text to find entities in"],
  "tags": ["classify", "Tags", "Tag words", "A text to tag"],
  "pairs": ["compare", "Predict", "Predict"],
  "text-or-pair": ["compare", "Predict", "Predict"],
  "question-answering": ["answer", "Answer", "Answer"],
  "multiple-choice": ["choose", "Choose", "Choose"],
};

// Values of a form's fields, in order, by the model's form or by panel. Examples of the model's own take their place.
const EXAMPLES = {
  "token-classification": [["Anna Schmidt moved from Berlin to London in May."], ["The museum in Paris bought a painting from Tom Baker."]],
  "text-or-pair": [["The shop opens at nine."], ["The weather was not good, but the people were wonderful."]],  // does it read pairs?
  classify: [["The boat was old, and it sank in May."], ["The weather was not good, but the people were wonderful."]],
  compare: [["A girl is playing the guitar.", "A girl is making music."], ["The shop opens at nine.", "The shop is closed all day."]],
  answer: [
    ["When did the boat sink?", "The boat was built in 1898 and carried coal between two harbours. It sank in May 1911, in a storm."],
    ["What did the boat carry?", "The boat was built in 1898 and carried coal between two harbours. It sank in May 1911, in a storm."],
  ],
  choose: [["It was raining, so she opened", "her umbrella.\na can of paint.\nthe old piano."], ["What do bees make?", "honey\npaper\nglass"]],
  fill: [["She opened the [MASK] and went into the [MASK]."], ["I have never [MASK] such a bad film."], ["The [MASK] of the book is easy to read."]],
  attention: [["The weather was not good, but the people were wonderful."], ["The boat was old, and it sank in May."]],
  search: SETTINGS.queries.map(query => [query]),
  pair: [["I saw this movie when I was a child.", "It is still one of my favourites."], ["I saw this movie when I was a child.", "She smiled and gave him her hand."]],
};

const $ = (selector, root = document) => root.querySelector(selector);
const make = (tag, properties = {}, ...inside) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...inside);
  return element;
};
const having = (element, attributes) => {
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
};
const key = (...inside) => make("p", {className: "key"}, ...inside);
const folded = (summary, ...inside) => make("details", {}, make("summary", {}, summary), ...inside);
const bar = probability => {
  const inner = make("i");
  inner.style.width = `${100 * probability}%`;
  return make("span", {className: "bar", ariaHidden: "true"}, inner);
};
const shade = (name, opacity) => `rgb(var(--${name}) / ${opacity.toFixed(3)})`;
const percent = probability => `${(100 * probability).toFixed(1)} %`;
const odds = value => `${value >= 0 ? "+" : "−"}${Math.abs(value).toFixed(2)}`;
const row = (name, ...cells) => make("tr", {}, make("th", {scope: "row"}, name), ...cells.map(cell => make("td", {}, cell)));
const table = (...rows) => make("table", {}, make("tbody", {}, ...rows));
const scores = pairs => Object.assign(table(...pairs.map(([name, score]) => row(name, percent(score), bar(score)))), {className: "scores"});
const prediction = (words, rest = "") => make("p", {className: "prediction"}, make("b", {}, words), rest);

// A text with some of its parts marked. Places count characters, not UTF-16 units.
function marked(text, parts, mark) {
  const letters = Array.from(text), shown = make("p", {className: "text"});
  let place = 0;
  for (const part of parts) {
    shown.append(letters.slice(place, part.start).join(""), mark(part, letters.slice(part.start, part.end).join("")));
    place = part.end;
  }
  shown.append(letters.slice(place).join(""));
  return shown;
}

function attributed(found) {
  const isNumber = "baseline_score" in found, unit = isNumber ? "" : " log-odds";
  const coloured = (text, words) => marked(text, words, (word, written) => {
    const mark = make("mark", {title: `${odds(word.attribution)}${unit}`}, written);
    mark.style.background = shade(word.attribution > 0 ? "for" : "against", Math.abs(word.relative_attribution) * 0.75);
    return mark;
  });
  const pair = found.words_pair ? [coloured(found.text_pair, found.words_pair)] : [];
  const first = [...found.words, ...(found.words_pair ?? [])].sort((a, b) => Math.abs(b.attribution) - Math.abs(a.attribution)).slice(0, 10);
  const explained = isNumber ? "the number" : `the odds of ${found.explained_label}`;
  return [
    coloured(found.text, found.words), ...pair,
    key(`Green words raised ${explained}, red ones lowered ${isNumber ? "it" : "them"}.`),
    folded(`The ten words that changed ${explained} most`, table(...first.map(word => row(word.text, odds(word.attribution)))),
      key(`${isNumber ? "" : "In log-odds. "}A text in which every token is masked has ${odds(found.baseline_score ?? found.baseline_log_odds)}.`)),
  ];
}

// A prediction at once, and with its words coloured as soon as they are.
async function* withWords(found, body, ask) {
  const parts = predicted(found);
  yield [...parts, key("Looking for the words that decided …")];
  try { parts.push(...attributed((await ask("explain", body))[0])); }
  catch (error) { parts.push(key(`No words are coloured. ${error.message}`)); }
  yield parts;
}

function tagged(found) {
  const types = [...new Set(found.entities.map(one => one.label))].sort();
  const text = marked(found.text, found.entities, ({label, score}, written) => {
    const mark = make("mark", {className: "entity", title: `${label}, ${percent(score)}`}, written, make("small", {}, label));
    mark.style.setProperty("--hue", (210 + types.indexOf(label) * 137.5) % 360);  // the golden angle keeps hues apart
    return mark;
  });
  const count = found.entities.length;
  const tags = scores(found.tokens.map((token, n) => [`${token}: ${found.tags[n]}`, found.scores[n]]));
  if (SETTINGS.form === "tags") return [prediction(count === 1 ? "1 word" : `${count} words`), text, tags];
  return [
    prediction(count === 0 ? "No entity was found" : count === 1 ? "1 entity" : `${count} entities`),
    text,
    scores(found.entities.map(one => [`${one.text} (${one.label})`, one.score])),
    folded("The tag of every word", tags),
  ];
}

function predicted(found) {
  if (!found.probabilities) return [prediction(String(Number(found.score.toPrecision(5))), SETTINGS.labels.length === 1 ? ` ${SETTINGS.labels[0]}` : "")];
  const classes = scores(Object.entries(found.probabilities).sort((a, b) => b[1] - a[1]));
  if (found.labels) return [prediction(found.labels.join(", ") || "No label"), classes];
  return [prediction(found.label, `, ${percent(found.score)}`), classes];
}

function filledIn(text, masks) {
  const chosen = masks.map(() => 0), sentence = make("p", {className: "text"});
  const write = () => {
    sentence.replaceChildren();
    text.replaceAll(SETTINGS.mask, "[MASK]").split("[MASK]").forEach((part, number) => {
      const token = masks[number]?.[chosen[number]].token ?? "";
      sentence.append(/^(##| )/.test(token) ? part.trimEnd() : part);  // ## continues the word before it; others bring a space
      if (number < masks.length) sentence.append(make("mark", {className: "answer"}, token.replace(/^##/, "")));
    });
  };
  const choices = masks.map((tokens, number) => {
    const buttons = tokens.map(({token}, place) => having(make("button", {type: "button", className: "plain", onclick: () => {
      chosen[number] = place;
      buttons.forEach((button, other) => button.setAttribute("aria-pressed", other === place));
      write();
    }}, token), {"aria-pressed": place === 0}));
    const shown = scores(tokens.map(({score}, place) => [buttons[place], score]));
    shown.prepend(make("caption", {}, `[MASK] ${number + 1}`));
    return shown;
  });
  write();
  return [sentence, key("Choose a token to see it in the sentence. Each [MASK] is predicted with the others masked."), make("div", {className: "masks"}, ...choices)];
}

function picture(weights) {
  const size = weights.length, canvas = make("canvas", {width: size, height: size}), drawing = canvas.getContext("2d");
  const pixels = drawing.createImageData(size, size);
  const colour = getComputedStyle(document.documentElement).getPropertyValue("--attention").trim().split(" ").map(Number);
  weights.flat().forEach((weight, place) => pixels.data.set([...colour, 255 * Math.sqrt(weight)], 4 * place));
  drawing.putImageData(pixels, 0, 0);
  return canvas;
}

function attentionMap(tokens, weights) {
  const cell = (weight, i, j) => {
    const shown = make("td", {title: `${tokens[i]} attends to ${tokens[j]}: ${weight.toFixed(3)}`});
    shown.style.background = shade("attention", Math.sqrt(weight));
    return shown;
  };
  const heading = make("thead", {}, make("tr", {}, make("td"), ...tokens.map(token => make("th", {scope: "col"}, token))));
  const rows = weights.map((line, i) => make("tr", {}, make("th", {scope: "row"}, tokens[i]), ...line.map((weight, j) => cell(weight, i, j))));
  return make("table", {className: "map"}, heading, make("tbody", {}, ...rows));
}

function attentionHeads({tokens, weights}) {
  const title = make("p", {className: "prediction"});
  const place = having(make("div", {className: "scroll", tabIndex: 0}), {role: "region", "aria-label": "Attention weights of the chosen head"});
  const most = folded("The token that each token attends to most");
  const heads = weights.map((layer, i) => layer.map((_, j) => having(make("button", {type: "button", title: `Layer ${i + 1}, head ${j + 1}`}),
    {role: "radio", "aria-label": `Layer ${i + 1}, head ${j + 1}`})));
  const choose = (layer, head) => {
    heads.flat().forEach(other => Object.assign(other, {ariaChecked: "false", tabIndex: -1}));
    Object.assign(heads[layer][head], {ariaChecked: "true", tabIndex: 0});
    const map = weights[layer][head];
    title.replaceChildren(make("b", {}, `Layer ${layer + 1}, head ${head + 1}`));
    place.replaceChildren(attentionMap(tokens, map));
    const largest = map.map(line => line.indexOf(Math.max(...line)));
    most.lastElementChild.replaceWith(table(...largest.map((to, from) => row(tokens[from], tokens[to], map[from][to].toFixed(3)))));
  };
  most.append(make("table"));
  heads.forEach((layer, i) => layer.forEach((button, j) => {
    button.append(picture(weights[i][j]));
    button.onclick = () => choose(i, j);
    button.onkeydown = event => {
      const [down, right] = {ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1]}[event.key] ?? [0, 0];
      const next = heads[i + down]?.[j + right];
      if (!(down || right) || !next) return;
      event.preventDefault();
      choose(i + down, j + right);
      next.focus();
    };
  }));
  const group = having(make("div", {className: "heads"}, ...heads.map((layer, i) => make("div", {}, make("span", {}, `Layer ${i + 1}`), ...layer))),
    {role: "radiogroup", "aria-label": "Layer and head"});
  choose(0, 0);
  return [key("All heads, a row for each layer. Choose one to see it large; arrow keys move among them."), group, title,
    key("A row is a token; the stronger a cell's colour, the larger the attention weight of its column's token."), place, most];
}

function hits(found, query) {
  if (!found.length) return [prediction("No text was found")];
  const told = word => word.length > 3 || !/^\p{Script=Latin}+$/u.test(word);  // not "the" and "of"
  const run = "[\\p{L}\\p{N}][\\p{L}\\p{N}\\p{M}\\u200c\\u200d]*";  // a mark belongs to the letter before it
  const asked = new Set((query.toLowerCase().match(new RegExp(run, "gu")) ?? []).filter(told));
  const shown = text => {
    const letters = Array.from(text), part = letters.length > 600 ? `${letters.slice(0, 600).join("")} …` : text;
    const words = part.split(new RegExp(`(${run})`, "u"));  // every second one is a word
    return words.map((word, n) => n % 2 && asked.has(word.toLowerCase()) ? make("mark", {className: "found"}, word) : word);
  };
  return [make("ol", {className: "hits"}, ...found.map(({score, file, line, text, unit}) => make("li", {},
    make("p", {className: "text"}, ...shown(text)), key(`${file}, ${unit} ${line}; score ${score.toPrecision(3)}`))))];
}

// What each panel asks and shows: value(name) gives a field's text, ask(path, body) an answer.
const show = {
  async *classify(value, ask) {
    const texts = [value("text")];
    const [found] = await ask("predict", {texts});
    if (found.entities) { yield tagged(found); return; }
    yield* withWords(found, {texts}, ask);
  },
  async *compare(value, ask) {
    const second = value("text_pair", SETTINGS.form === "text-or-pair");
    const rows = [{text: value("text"), ...(second && {text_pair: second})}];
    yield* withWords((await ask("predict", {rows}))[0], {rows}, ask);
  },
  async *answer(value, ask) {
    const question = value("question"), context = value("context");
    const [found] = await ask("predict", {rows: [{question, context}]});
    yield [prediction(found.text || "No answer", `, ${percent(found.score)}`),
      marked(context, found.text ? [found] : [], (_, written) => make("mark", {className: "answer"}, written))];
  },
  async *choose(value, ask) {
    const context = value("context");
    const choices = value("choices").split("\n").map(one => one.trim()).filter(Boolean);
    const [found] = await ask("predict", {rows: [{context, choices}]});
    yield [prediction(found.text, `, ${percent(found.score)}`), scores(choices.map((choice, number) => [choice, found.probabilities[number]]))];
  },
  async *fill(value, ask) {
    const [masks] = await ask("fill-mask", {texts: [value("text")], top_k: 6});
    yield filledIn(value("text"), masks);
  },
  async *attention(value, ask) {
    yield attentionHeads((await ask("attention", {texts: [value("text")]}))[0]);
  },
  async *pair(value, ask) {
    const [{is_next, score}] = await ask("next-sentence", {texts: [value("first")], text_pairs: [value("second")]});
    const said = Math.abs(score - 0.5) < 0.1 ? "Undecided" : is_next ? "Follows" : "Does not follow";
    yield [prediction(said, `; probability that it follows: ${percent(score)}`), scores([["follows", score], ["does not follow", 1 - score]]),
      key("From 40 to 60 % counts as undecided. Models with a short pre-training on pairs, as the bundled one, hardly leave that range.")];
  },
  async *search(value, ask) {
    yield hits((await ask("search", {texts: [value("text")]}))[0], value("text"));
  },
};

async function send(path, body) {
  let answer, found;
  try { answer = await fetch(path, {method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify(body)}); }
  catch { throw new Error("The server does not answer. See whether it still runs, and try again."); }
  try { found = await answer.json(); }
  catch { throw new Error(`The answer cannot be read (status ${answer.status}). Try again.`); }
  if (answer.ok) return found;
  throw new Error(`${found.detail[0].toUpperCase()}${found.detail.slice(1)}.`);
}

function asCurl(path, body) {
  const quoted = text => `'${text.replaceAll("'", "'\\''")}'`;  // for a POSIX shell
  const command = `curl ${quoted(new URL(path, document.baseURI).href)} -H 'Content-Type: application/json' -d ${quoted(JSON.stringify(body))}`;
  const shown = having(make("pre", {tabIndex: 0}, command), {role: "region", "aria-label": `The request /${path} as curl`});
  const button = make("button", {type: "button", className: "plain"}, "Copy");
  button.onclick = async () => {
    getSelection().selectAllChildren(shown);
    try { await navigator.clipboard.writeText(command); button.textContent = "Copied"; }
    catch { button.textContent = "Selected: copy it with Ctrl+C"; }  // browsers give no clipboard to pages without TLS
  };
  return make("div", {}, shown, button);
}

function prepare(panel) {
  const form = $("form", panel);
  const act = having(make("button", {className: "act"}, form.dataset.act), {"aria-keyshortcuts": "Control+Enter"});
  const output = having(make("output"), {"aria-live": "off"});  // too long to be spoken; the status below is
  const status = having(make("p", {className: "spoken"}), {role: "status"});
  const requests = make("div");
  let asked = "", again = false;  // asked of other texts before the answer was complete
  form.append(make("p", {className: "acts"}, act, make("kbd", {}, "Ctrl+Enter")));
  panel.append(output, status, requests);

  const value = (name, optional = false) => {
    const field = form.elements[name];
    if (field.value.trim()) return field.value;
    if (optional) return "";
    field.focus();
    throw new Error("There is no text yet. Type one.");
  };
  form.onsubmit = async event => {
    event.preventDefault();
    const values = () => JSON.stringify([...new FormData(form)]);
    if (form.ariaBusy === "true") { again = values() !== asked; return; }
    again = false;
    asked = values();
    form.ariaBusy = "true";
    const sent = [];
    const ask = (path, body) => { sent.push([path, body]); return send(path, body); };
    requests.replaceChildren();
    output.replaceChildren(key("Computing …"));
    status.textContent = "Computing";
    try {
      for await (const parts of show[panel.id](value, ask)) {
        if (again) break;  // it answers what the fields held before
        output.replaceChildren(...parts);
      }
      status.textContent = $(".prediction, .text", output)?.textContent ?? "The answer is there.";
    } catch (error) {
      output.replaceChildren(having(make("p", {className: "error"}, error.message), {role: "alert"}));
      status.textContent = "";
    }
    if (sent.length) requests.append(folded("The request as curl", ...sent.map(([path, body]) => asCurl(path, body))));
    form.ariaBusy = "false";
    if (again) form.requestSubmit();
  };
  form.onkeydown = event => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    form.requestSubmit();
  };

  addExamples(panel);
}

function addExamples(panel) {
  const form = $("form", panel), fields = [...panel.querySelectorAll("textarea, input")];
  const isOwn = panel.getAttribute("aria-labelledby") === "tab-own";
  const titled = values => ({title: panel.id === "pair" ? values[1] : values[0], values});
  const fixed = () => ((isOwn && EXAMPLES[SETTINGS.form]) || EXAMPLES[panel.id] || []).map(titled);
  const examples = isOwn && SETTINGS.examples.length ? SETTINGS.examples : fixed();
  if (!examples.length) return;
  const fillIn = values => fields.forEach((field, number) => { field.value = values[number] ?? ""; });
  if (panel.id !== "classify" || SETTINGS.examples.length) fillIn(examples[0].values);  // else the field says what to type
  const short = title => Array.from(title).length > 48 ? `${Array.from(title).slice(0, 47).join("")}…` : title;
  form.append(make("p", {className: "examples"}, "Examples:", ...examples.map(({title, values}) =>
    make("button", {type: "button", className: "plain", onclick: () => { fillIn(values); form.requestSubmit(); }}, short(title)))));
}

function introduce() {
  document.title = `Bertwright: ${SETTINGS.model}`;
  $("h1").textContent = SETTINGS.model;
  $("#about").textContent = SETTINGS.about;
  $("#labels").append(...SETTINGS.answers.map(label => make("li", {}, label)));
  $("#labels").hidden = !SETTINGS.answers.length;
  if ($("#labels").scrollHeight > $("#labels").clientHeight) $("#labels").tabIndex = 0;  // to be scrolled with keys
  $("#facts table").append(make("tbody", {}, ...Object.entries(SETTINGS.facts).map(([name, value]) => row(name, value))));
}

function keepWhatTheModelDoes() {
  const [own, tab, act, label] = FORMS[SETTINGS.form] ?? FORMS.classification;
  having($("#tab-own"), {"aria-controls": own}).textContent = tab;
  $(`#${own} form`).dataset.act = act;
  if (label) $(`#${own} label`).textContent = label;
  if (SETTINGS.form === "text-or-pair") $(`#${own} label[for=own-second]`).textContent = "A second text, for a model that reads pairs; else empty";
  const kept = [own, ...SETTINGS.tabs];
  for (const panel of document.querySelectorAll("[role=tabpanel]")) {
    if (kept.includes(panel.id)) prepare(panel);
    else panel.remove();
  }
  for (const button of document.querySelectorAll("[role=tab]")) if (!kept.includes(button.getAttribute("aria-controls"))) button.remove();
}

function tabs() {
  const all = [...document.querySelectorAll("[role=tab]")], panel = tab => tab.getAttribute("aria-controls");
  const open = tab => {
    for (const other of all) {
      having(other, {"aria-selected": other === tab}).tabIndex = other === tab ? 0 : -1;
      $(`#${panel(other)}`).hidden = other !== tab;
    }
  };
  const visit = tab => { open(tab); history.replaceState(null, "", `#${panel(tab)}`); };
  for (const tab of all) {
    tab.onclick = () => visit(tab);
    tab.onkeydown = event => {
      const next = {ArrowRight: all.at((all.indexOf(tab) + 1) % all.length), ArrowLeft: all.at(all.indexOf(tab) - 1), Home: all[0], End: all.at(-1)}[event.key];
      if (!next) return;
      event.preventDefault();
      visit(next);
      next.focus();
    };
  }
  open(all.find(tab => `#${panel(tab)}` === location.hash) ?? all[0]);
}

introduce();
keepWhatTheModelDoes();
tabs();
