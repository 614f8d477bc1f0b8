// The page: the model runs in a worker, and this shows what it says.

const $ = (id) => document.getElementById(id);
let worker;
let asked = "";

function start(folder) {
  worker = new Worker("worker.js", { type: "module" });
  worker.onmessage = ({ data }) => take(data);
  worker.onerror = (event) => say(event.message ?? "the worker did not start");
  worker.postMessage({ folder });
}

function take(data) {
  if (data.all) {
    $("loaded").max = data.all;
    $("loaded").value = data.bytes;
  } else if (data.error) {
    say(data.error);
  } else if (data.answers) {
    show(data);
  } else {
    say(`Ready (${data.level}).`);
  }
  if (!data.all) {
    $("loaded").hidden = true;
    $("ask").disabled = !data.answers && !data.level;
  }
}

const say = (words) => ($("state").textContent = words);

// Words of texts and models become text of the page, never markup.
function show({ answers, milliseconds }) {
  say(`${milliseconds.toFixed(0)} ms`);
  $("answers").replaceChildren(...answers.map(({ text, score }) => {
    const item = document.createElement("li");
    item.textContent = `${text} (${(100 * score).toFixed(1)} %)`;
    return item;
  }));
  const [best] = answers, mark = document.createElement("mark");
  if (!best) return $("place").replaceChildren();
  mark.textContent = best.text;
  $("place").replaceChildren(asked.slice(0, best.begin), mark, asked.slice(best.end));
}

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  asked = $("text").value;
  $("ask").disabled = true;
  worker.postMessage({ question: $("question").value, text: asked });
});

// What is read from now on is kept for when there is no network. A page that was reloaded past its cache has no keeper.
async function keep() {
  const keeper = navigator.serviceWorker;
  await keeper?.register("offline.js");
  await keeper?.ready;
  if (keeper && !keeper.controller) {
    const taken = new Promise((go) => keeper.addEventListener("controllerchange", go, { once: true }));
    await Promise.race([taken, new Promise((go) => setTimeout(go, 1000))]);
  }
}

// ?model=FOLDER, of this site alone: what lies there is run.
const folder = new URL(`${new URLSearchParams(location.search).get("model") ?? "model"}/`, location.href);
if (folder.origin === location.origin) keep().catch(() => {}).then(() => start(folder.href));
else say("?model= must name a folder of this site");
