// Draws each chart into its place, in the colours of the day or of the night, and again when that changes.
const dark = matchMedia("(prefers-color-scheme: dark)");

function config(style) {
  const ink = style.getPropertyValue("--quiet").trim();
  const faint = style.getPropertyValue("--line").trim();
  return {
    background: "transparent",
    font: style.getPropertyValue("font-family"),
    view: { stroke: null },
    axis: {
      labelColor: ink, labelFontSize: 11, labelPadding: 6, gridColor: faint, domainColor: faint,
      tickColor: faint, domain: false, ticks: false,
    },
    axisX: { ticks: true, tickSize: 4 },
    text: { fontSize: 12 },
  };
}

// A line for each series, in its colour; `html` escapes its name.
function tooltip(spec) {
  const lines = spec.usermeta?.lines ?? {};
  return (values, html) => {
    const rows = Object.entries(values).map(([key, value]) => {
      const line = lines[key];
      const name = line ? `<i class="swatch ${line.colour}"></i>${html(line.name)}` : html(key);
      return `<tr><td class="key">${name}</td><td class="value">${html(value)}</td></tr>`;
    });
    return `<table>${rows.join("")}</table>`;
  };
}

async function draw() {
  const theme = themes[dark.matches ? "dark" : "light"];
  const options = {
    renderer: "svg", actions: false, ast: true, config: config(getComputedStyle(document.body)),
    defaultStyle: false,
  };
  for (const [name, spec] of Object.entries(charts)) {
    await vegaEmbed(document.getElementById(name), { ...spec, params: theme }, {
      ...options, tooltip: { disableDefaultStyle: true, formatTooltip: tooltip(spec) },
    });
  }
}

draw();
dark.addEventListener("change", draw);
