const { charts, themes } = JSON.parse(document.getElementById("data").textContent);
const system = window.matchMedia("(prefers-color-scheme: dark)");
const root = document.documentElement;
const views = {};

function mode() {
  return root.dataset.theme || (system.matches ? "dark" : "light");
}

async function draw() {
  const config = themes[mode()];
  const size = { width: "container", height: 280, autosize: { type: "fit", contains: "padding" } };
  const options = { config, renderer: "canvas", actions: false, tooltip: { theme: mode() } };
  for (const [id, spec] of Object.entries(charts)) {
    views[id] = (await window.vegaEmbed(document.getElementById(id), { ...spec, ...size }, options)).view;
  }
  root.dataset.drawn = mode();
}

document.getElementById("theme").addEventListener("click", () => {
  root.dataset.theme = mode() === "dark" ? "light" : "dark";
  draw();
});
for (const button of document.querySelectorAll(".download")) {
  button.addEventListener("click", async () => {
    const svg = await views[button.dataset.chart].toSVG();
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([svg], { type: "image/svg+xml" }));
    link.download = `${button.dataset.chart}.svg`;
    link.click();
    URL.revokeObjectURL(link.href);
  });
}
system.addEventListener("change", draw);
draw();
