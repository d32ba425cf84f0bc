"use strict";
// A cursor that runs with a sound; seeking by pointer, by keys and from the list of events.

function setUpPlayer(figure) {
  const sound = figure.querySelector("audio");
  if (!sound) return;
  const area = figure.querySelector(".area");
  const head = figure.querySelector(".playhead");
  const reading = figure.querySelector(".reading");
  const start = Number(figure.dataset.start);
  const length = Number(figure.dataset.length);
  const events = [...figure.querySelectorAll(".event")].map((bar) => ({
    said: bar.dataset.said, from: Number(bar.dataset.from), to: Number(bar.dataset.to),
  }));

  const clock = (seconds) => {
    const tenths = Math.round(seconds * 10);
    const [hours, minutes] = [Math.floor(tenths / 36000), Math.floor((tenths % 36000) / 600)];
    const rest = ((tenths % 600) / 10).toFixed(1).padStart(4, "0");
    return (hours ? `${hours}:${String(minutes).padStart(2, "0")}` : minutes) + `:${rest}`;
  };
  const show = () => {
    const at = Math.min(sound.currentTime, length);
    head.style.left = `${(100 * at) / length}%`;
    const now = events.filter((e) => e.from <= start + at && start + at < e.to).map((e) => e.said);
    if (reading) reading.textContent = `${clock(start + at)}  ${now.join(", ")}`;
    area.setAttribute("aria-valuenow", at.toFixed(2));
    area.setAttribute("aria-valuetext", [clock(start + at), ...now].join(", "));
  };
  const run = () => {
    show();
    if (!sound.paused && !sound.ended) requestAnimationFrame(run);
  };
  const seek = (seconds) => {
    sound.currentTime = Math.max(0, Math.min(length - 0.01, seconds));
    show();
  };
  // Without a sound device it may be refused.
  const toggle = () => { if (sound.paused) sound.play().catch(() => {}); else sound.pause(); };
  const place = (event) => {
    const box = area.getBoundingClientRect();
    return ((event.clientX - box.left) / box.width) * length;
  };

  sound.addEventListener("play", run);
  for (const name of ["pause", "seeked", "ended", "timeupdate"]) sound.addEventListener(name, show);
  area.addEventListener("click", (event) => seek(place(event)));
  area.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const step = Math.max(0.1, Math.min(5, length / 60));
    const to = {
      ArrowRight: sound.currentTime + step,
      ArrowUp: sound.currentTime + step,
      ArrowLeft: sound.currentTime - step,
      ArrowDown: sound.currentTime - step,
      PageUp: sound.currentTime + 10 * step,
      PageDown: sound.currentTime - 10 * step,
      Home: 0,
      End: length,
    }[event.key];
    if (to !== undefined) seek(to);
    else if (event.key === " " || event.key === "Enter") toggle();
    else return;
    event.preventDefault();
  });
  for (const button of figure.querySelectorAll("[data-at]")) {
    button.addEventListener("click", () => {
      seek(Number(button.dataset.at));
      sound.play().catch(() => {});
    });
  }
}

document.querySelectorAll(".player").forEach(setUpPlayer);
