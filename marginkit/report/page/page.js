const { charts, themes } = JSON.parse(document.getElementById("data").textContent);
const system = window.matchMedia("(prefers-color-scheme: dark)");
const root = document.documentElement;

function mode() {
  return root.dataset.theme || (system.matches ? "dark" : "light");
}

async function draw() {
  const config = themes[mode()];
  const size = { width: "container", height: 280, autosize: { type: "fit", contains: "padding" } };
  const options = { config, renderer: "canvas", actions: false, tooltip: { theme: mode() } };
  for (const [id, spec] of Object.entries(charts)) {
    await window.vegaEmbed(document.getElementById(id), { ...spec, ...size }, options);
  }
  root.dataset.drawn = mode();
}

document.getElementById("theme").addEventListener("click", () => {
  root.dataset.theme = mode() === "dark" ? "light" : "dark";
  draw();
});
system.addEventListener("change", draw);
draw();
