// Elements of the page. Names chosen by peers become text nodes, never markup.

const SVG = "http://www.w3.org/2000/svg";

export function element(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

export function svg(name, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, name), attributes, children);
}

function filled(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// Leaves unchanged text alone: a screen reader or a selection may be in it.
export function say(place, text) {
  if (place.textContent !== text) place.textContent = text;
}

export function show(place, shown) {
  place.hidden = !shown;
}

// Gives `parent` one child per item, in their order; a child is reused for the item with the same `key`.
export function keep(parent, items, key, make, update) {
  const kept = new Map([...parent.children].map((child) => [child.keptFor, child]));
  items.forEach((item, index) => {
    let child = kept.get(key(item));
    kept.delete(key(item));
    if (!child) {
      child = make(item);
      child.keptFor = key(item);
    }

    update(child, item);
    if (parent.children[index] !== child) parent.insertBefore(child, parent.children[index] ?? null);
  });
  for (const gone of kept.values()) gone.remove();
}
