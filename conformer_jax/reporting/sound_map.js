"use strict";
// A map of windows of sound: what lies under the pointer is named, and played when chosen.

function setUpMap(box) {
  const map = box.querySelector(".map");
  const reading = box.querySelector(".reading");
  const sound = box.querySelector("audio");
  const described = JSON.parse(box.querySelector("script").textContent);
  const dots = [...map.querySelectorAll("circle")];
  const places = dots.map((dot) => [Number(dot.getAttribute("cx")), Number(dot.getAttribute("cy"))]);
  const buttons = [...box.parentElement.querySelectorAll("[data-label]")];
  reading.textContent = "Point at a dot.";
  let at = -1;
  let only = null;

  const seen = (i) => only === null || described[i][1] === only;
  const show = (i) => {
    if (at >= 0) dots[at].classList.remove("here");
    at = i;
    reading.textContent = "Point at a dot.";
    if (at < 0) return;
    dots[at].classList.add("here");
    const [name, label, playable] = described[at];
    const silent = playable ? "" : "; its sound is not on this page";
    reading.textContent = `${label ? `${label}: ` : ""}${name}${silent}`;
  };
  const play = () => {
    if (at < 0 || !described[at][2]) return;
    sound.src = described[at][2];
    sound.play().catch(() => {});
  };
  const nearest = (event, reach) => {
    const frame = map.getBoundingClientRect();
    const scale = map.viewBox.baseVal.width / frame.width;
    const [x, y] = [(event.clientX - frame.left) * scale, (event.clientY - frame.top) * scale];
    let [best, shortest] = [-1, reach * scale];
    places.forEach(([px, py], i) => {
      const far = Math.hypot(px - x, py - y);
      if (far < shortest && seen(i)) [best, shortest] = [i, far];
    });
    return best;
  };
  // Of the points in a cone of that direction, the nearest.
  const towards = (dx, dy) => {
    if (at < 0) return places.findIndex((_, i) => seen(i));
    let [best, least] = [at, Infinity];
    places.forEach(([px, py], i) => {
      const [x, y] = [px - places[at][0], py - places[at][1]];
      const [ahead, aside] = [x * dx + y * dy, Math.abs(x * dy - y * dx)];
      const cost = ahead + 2 * aside;
      if (i !== at && seen(i) && ahead > 0 && aside <= ahead && cost < least) [best, least] = [i, cost];
    });
    return best;
  };

  map.addEventListener("pointermove", (event) => {
    const i = nearest(event, 14);
    if (i >= 0 && event.pointerType !== "touch") show(i);
  });
  map.addEventListener("click", (event) => {
    const i = nearest(event, 24);
    if (i < 0) return;
    show(i);
    play();
  });
  map.addEventListener("keydown", (event) => {
    const way = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[event.key];
    if (way) show(towards(...way));
    else if (event.key === "Enter" || event.key === " ") play();
    else return;
    event.preventDefault();
  });
  for (const button of buttons) {
    button.addEventListener("click", () => {
      only = only === button.dataset.label ? null : button.dataset.label;
      for (const b of buttons) b.setAttribute("aria-pressed", String(b.dataset.label === only));
      dots.forEach((dot, i) => dot.classList.toggle("dim", !seen(i)));
      if (at >= 0 && !seen(at)) show(-1);
    });
  }
}

document.querySelectorAll(".sound-map").forEach(setUpMap);
