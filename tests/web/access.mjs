// What a narrow screen and a screen reader get of a page: node access.mjs URL SCHEME [WIDTH]
//
// Prints JSON: the widths of page and window, controls outside the window, what the accessibility tree lacks, and
// texts whose contrast with their background is below 4.5, or 3 for large ones (WCAG 2.2, AA).
import { chromium } from "playwright-core";

const [url, scheme, width = "400"] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--no-first-run", "--disable-gpu"],
});

/** Runs in the page. */
function measured() {
  const shown = (element) => element.checkVisibility({ visibilityProperty: true }) && element.getClientRects().length > 0;
  const rgba = (text) => { const found = text.match(/[\d.]+/g).map(Number); return text.startsWith("color(srgb") ? [...found.slice(0, 3).map((c) => 255 * c), found[3] ?? 1] : [found[0], found[1], found[2], found[3] ?? 1]; };
  const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3]));
  const luminance = (colour) => colour.slice(0, 3)
    .map((c) => c / 255).map((c) => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const background = (element) => {
    const layers = [];
    for (let each = element; each; each = each.parentElement) {
      const colour = rgba(getComputedStyle(each).backgroundColor);
      if (colour[3]) layers.push(colour);
      if (colour[3] === 1) break;
    }
    return layers.reduceRight((below, top) => over(top, below), [255, 255, 255]);
  };
  const faint = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement, text = walker.currentNode.data.trim();
    if (!text || !shown(element) || element.closest(".unseen, :disabled, title, desc")) continue;
    const style = getComputedStyle(element), back = background(element);
    const front = over(rgba(element.namespaceURI.endsWith("svg") ? style.fill : style.color), back);
    const [high, low] = [luminance(front), luminance(back)].sort((a, b) => b - a);
    const size = parseFloat(style.fontSize), large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    const ratio = (high + 0.05) / (low + 0.05);
    if (ratio < (large ? 3 : 4.5)) faint.push(`${text.slice(0, 30)}: ${ratio.toFixed(2)}`);
  }
  const controls = [...document.querySelectorAll("button, input, textarea, select, a[href]")].filter(shown);
  const outside = controls.filter((each) => {
    const scrolled = each.closest("[role=tablist], [tabindex]");  // it scrolls by itself
    const box = each.getBoundingClientRect();
    return !scrolled && (box.left < 0 || box.right > innerWidth || box.width < 16 || box.height < 16);
  });
  return {
    page: document.documentElement.scrollWidth,
    window: innerWidth,
    outside: outside.map((each) => each.outerHTML.slice(0, 80)),
    faint: [...new Set(faint)],
    language: document.documentElement.lang,
  };
}

const NAMED = ["button", "tab", "link", "textbox", "searchbox", "spinbutton", "image", "tablist", "tabpanel", "region", "progressbar"];
try {
  const page = await browser.newPage({ viewport: { width: +width, height: 800 }, colorScheme: scheme });
  const told = [];
  page.on("pageerror", (error) => told.push(error.message));
  await page.goto(url);
  const session = await page.context().newCDPSession(page);
  const { nodes } = await session.send("Accessibility.getFullAXTree");
  const seen = nodes.filter((node) => !node.ignored);
  const role = (node) => node.role?.value, name = (node) => (node.name?.value ?? "").trim();
  const unnamed = seen.filter((node) => NAMED.includes(role(node)) && !name(node)).map(role);
  const landmarks = seen.map(role).filter((each) => ["banner", "main", "navigation", "contentinfo", "complementary"].includes(each));
  const headings = seen.filter((node) => role(node) === "heading").map((node) => node.properties.find((each) => each.name === "level").value.value);
  console.log(JSON.stringify({ ...(await page.evaluate(measured)), unnamed, landmarks, headings, told }));
} finally {
  await browser.close();
}
