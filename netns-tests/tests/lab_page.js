/* Asked of the page of an experiment by lab_page.rs; the answer goes to the page around it. */
const all = selector => [...document.querySelectorAll(selector)];
parent.postMessage(JSON.stringify({
  errors, about: document.getElementById("about").textContent, width: innerWidth, scrolls: document.documentElement.scrollWidth,
  titles: all("h2").map(node => node.textContent), plots: all("figure svg").length,
  tables: all("figure table").length, trials: all("#trials tbody tr").length,
  shapes: all("svg path, svg rect, svg circle").length, nonsense: all("svg *").filter(node =>
    [...node.attributes].some(attribute => /NaN|undefined|Infinity/.test(attribute.value))).length,
  shrunk: all("svg").filter(svg => svg.getBoundingClientRect().width < svg.viewBox.baseVal.width * .95).length,
  cut: all("svg text").filter(node => { const box = node.getBoundingClientRect(), svg = node.ownerSVGElement.getBoundingClientRect();
    return box.left < svg.left - 1 || box.right > svg.right + 1; }).map(node => node.textContent),
}), "*");
