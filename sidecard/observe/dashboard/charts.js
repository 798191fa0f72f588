// Bar charts of the last hour, one bar per minute: SVG for the bars, HTML for the text, so that text keeps its size.

import { element, say, svg } from "./elements.js";

const MINUTES = 60;
const WIDTH = 10; // Of a bar, in SVG units.
const HEIGHT = 100;
const ROWS_OF_THE_TABLE = 6;

// The growth of each of `names` in each of the last 60 whole minutes of the run, newest last.
export function minutes(steps, uptimeSeconds, names) {
  const newest = Math.floor(uptimeSeconds / 60);
  const sums = Array.from({ length: MINUTES }, () => Object.fromEntries(names.map((name) => [name, 0])));
  steps.at_seconds.forEach((at, index) => {
    // `at` is the end of a step, so its calls happened just before.
    const minute = MINUTES - 1 - (newest - Math.floor((at - 0.001) / 60));
    if (minute >= 0 && minute < MINUTES) for (const name of names) sums[minute][name] += steps[name][index];
  });
  return sums;
}

// A round number of at least `most` whose half is round too.
export function ceiling(most) {
  if (most <= 0) return 2; // Its half is a whole number too.
  const power = 10 ** Math.floor(Math.log10(most));
  return [1, 2, 4, 6, 8, 10].map((step) => step * power).find((step) => step >= most * 0.9999);
}

export class Chart {
  // `series`: [{name, label}], drawn from the bottom up; `write` formats a value with its unit.
  constructor(figure, series) {
    this.series = series;
    this.caption = element("figcaption", { id: `${figure.id}-caption` });
    this.summary = element("p", { id: `${figure.id}-summary` });
    this.bars = svg("g");
    this.probes = svg("g");
    const lines = [0, HEIGHT / 2, HEIGHT].map((y) =>
      svg("line", { class: "grid", x1: 0, x2: MINUTES * WIDTH, y1: y, y2: y }),
    );
    const drawing = svg(
      "svg",
      {
        viewBox: `0 0 ${MINUTES * WIDTH} ${HEIGHT}`,
        preserveAspectRatio: "none",
        role: "img",
        "aria-labelledby": this.caption.id,
        "aria-describedby": this.summary.id,
      },
      ...lines,
      this.bars,
      this.probes,
    );
    this.scale = [0, 1, 2].map(() => element("span"));
    const plot = element(
      "div",
      { class: "plot" },
      element("div", { class: "scale", "aria-hidden": "true" }, ...this.scale),
      drawing,
      element(
        "div",
        { class: "times", "aria-hidden": "true" },
        ...["60 min ago", "30 min ago", "now"].map((words) => element("span", {}, words)),
      ),
    );
    const legend = series.map(({ name, label }) =>
      element("li", {}, svg("svg", { viewBox: "0 0 1 1", "aria-hidden": "true" }, svg("rect", { class: name, width: 1, height: 1 })), label),
    );
    this.rows = element("tbody");
    this.tableCaption = element("caption", { class: "unseen" });
    const heads = ["Minutes ago", ...series.map(({ label }) => label)];
    const table = element(
      "table",
      {},
      this.tableCaption,
      element("thead", {}, element("tr", {}, ...heads.map((head) => element("th", { scope: "col" }, head)))),
      this.rows,
    );
    figure.replaceChildren(
      this.caption,
      this.summary,
      plot,
      ...(series.length > 1 ? [element("ul", { class: "legend" }, ...legend)] : []),
      element("details", {}, element("summary", {}, "As a table"), table),
    );
  }

  draw(title, summary, sums, write) {
    say(this.caption, title);
    say(this.summary, summary);
    say(this.tableCaption, `${title}, in steps of ten minutes`);
    const top = ceiling(Math.max(...sums.map((sum) => this.#total(sum))));
    [top, top / 2, 0].forEach((value, index) => say(this.scale[index], write(value)));
    this.bars.replaceChildren(...sums.flatMap((sum, minute) => this.#bar(sum, minute, top)));
    this.#probe(sums, write);
    this.#tabulate(sums, write);
  }

  #total(sum) {
    return this.series.reduce((total, { name }) => total + sum[name], 0);
  }

  #bar(sum, minute, top) {
    let y = HEIGHT;
    return this.series.flatMap(({ name }) => {
      if (!sum[name]) return [];
      // Every nonzero value is visible, however small.
      const height = Math.max((sum[name] / top) * HEIGHT, 0.8);
      y -= height;
      return [svg("rect", { class: name, x: minute * WIDTH + 1, y, width: WIDTH - 2, height })];
    });
  }

  #probe(sums, write) {
    // Created once, so that an open tooltip stays.
    if (!this.probes.childElementCount) {
      this.probes.append(
        ...sums.map((_, minute) =>
          svg("rect", { class: "probe", x: minute * WIDTH, y: 0, width: WIDTH, height: HEIGHT }, svg("title")),
        ),
      );
    }

    sums.forEach((sum, minute) => {
      const ago = MINUTES - 1 - minute;
      const values = this.series.map(({ name, label }) => `${label}: ${write(sum[name])}`).join(", ");
      say(this.probes.children[minute].firstChild, `${ago ? `${ago} min ago` : "this minute"}. ${values}`);
    });
  }

  #tabulate(sums, write) {
    const step = MINUTES / ROWS_OF_THE_TABLE;
    const rows = Array.from({ length: ROWS_OF_THE_TABLE }, (_, index) => {
      const newest = index * step;
      const part = sums.slice(MINUTES - newest - step, MINUTES - newest);
      return [
        `${newest} to ${newest + step}`,
        ...this.series.map(({ name }) => write(part.reduce((total, sum) => total + sum[name], 0))),
      ];
    });
    if (!this.rows.childElementCount) {
      this.rows.append(
        ...rows.map((row) =>
          element("tr", {}, element("th", { scope: "row" }), ...row.slice(1).map(() => element("td"))),
        ),
      );
    }

    rows.forEach((row, index) => row.forEach((text, column) => say(this.rows.children[index].children[column], text)));
  }
}
